"""The commands for people: one module a verb of ``python -m fruit_pipeline``, and ``main``, which runs it.

The module of a verb has a docstring, which is its help and begins with a summary of one line;
``add_arguments(parser)``; ``run(args)``, which returns the result; and, where the result is not
plain values, ``show(result)``, which prints it for people.
"""
