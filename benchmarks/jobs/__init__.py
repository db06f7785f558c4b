"""What the pipeline is compared with, each run as a process of its own."""
