"""Python files that the user named on the command line: they are executed, and nothing of them stays behind."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


@contextlib.contextmanager
def imported(path: Path) -> Iterator[ModuleType]:
    """Import a file under a private name, its folder importable meanwhile, writing no bytecode beside it."""
    name = f"_edgeferry_file_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    plan = importlib.util.spec_from_file_location(name, path)
    assert plan is not None and plan.loader is not None
    module = importlib.util.module_from_spec(plan)
    folder, bytecode = str(path.resolve().parent), sys.dont_write_bytecode
    sys.modules[name], sys.dont_write_bytecode = module, True
    sys.path.insert(0, folder)
    try:
        plan.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(folder)
        sys.dont_write_bytecode = bytecode
