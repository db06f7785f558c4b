"""``python -m fruit_pipeline <verb>``: the commands for people."""

from __future__ import annotations

import importlib
import sys

if __name__ == "__main__":
    verb, *words = sys.argv[1:]
    sys.exit(importlib.import_module(f"fruit_pipeline.commands.{verb.replace('-', '_')}").main(words))
