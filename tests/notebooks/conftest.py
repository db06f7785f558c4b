"""Where the notebooks are, and the program that executes them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def execute(repo: Path) -> ModuleType:
    """notebooks/execute.py: no package, for the folder holds notebooks."""
    spec = importlib.util.spec_from_file_location("execute_notebooks", repo / "notebooks" / "execute.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
