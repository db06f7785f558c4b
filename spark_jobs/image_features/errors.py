"""The one exception that stands for an expected failure."""


class JobError(Exception):
    """Something a user can mend: bad input, a missing object, settings that cannot work.

    The message says what was wrong, with which file or value, and what to do. Commands print
    it as one line and exit with 2; it never shows as a traceback.
    """
