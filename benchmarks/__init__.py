"""Benchmarks: what the pipeline gains over the usual ways, and how near it comes to the machine's limit."""
