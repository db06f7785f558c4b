"""The scripts that the pipeline is compared with. Each one runs in a process of its own."""
