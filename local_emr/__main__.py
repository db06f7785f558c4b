"""``python -m local_emr``."""

import sys

from local_emr.cli import main

if __name__ == "__main__":
    sys.exit(main())
