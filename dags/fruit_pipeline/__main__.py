"""``python -m fruit_pipeline <verb>``."""

import sys

from fruit_pipeline.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
