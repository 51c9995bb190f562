"""Python files that the user named on the command line: they are executed, and nothing of them stays behind."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

PRIVATE = "_edgeferry_file_"


@contextlib.contextmanager
def imported(path: Path) -> Iterator[ModuleType]:
    """Import a file under a private name, its folder importable meanwhile, writing no bytecode beside it.

    What it imports from its folder is its own, also where an earlier file of another folder has modules of that name;
    so is what it imports later, when it is called, from another folder that it names as ``IMPORTS_FROM``.
    """
    name = f"{PRIVATE}{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    plan = importlib.util.spec_from_file_location(name, path.resolve())
    assert plan is not None and plan.loader is not None
    module = importlib.util.module_from_spec(plan)
    folder, bytecode = path.resolve().parent, sys.dont_write_bytecode
    _forget_namesakes(folder)
    sys.modules[name], sys.dont_write_bytecode = module, True
    sys.path.insert(0, str(folder))
    try:
        plan.loader.exec_module(module)
        if isinstance(elsewhere := getattr(module, "IMPORTS_FROM", None), str):
            _forget_namesakes(Path(elsewhere))
        yield module
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = bytecode


def _forget_namesakes(folder: Path) -> None:
    """Forget what files of other folders imported from beside them, where this folder has a module of that name."""
    others = {_home(module) for name, module in sys.modules.items() if name.startswith(PRIVATE)} - {folder}
    beside = [name for name, module in sys.modules.items() if "." not in name and _home(module) in others]
    namesakes = {name for name in beside if PathFinder.find_spec(name, [str(folder)]) is not None}
    for name in [name for name in sys.modules if name.partition(".")[0] in namesakes]:
        del sys.modules[name]


def _home(module: ModuleType) -> Path | None:
    """Return the folder that a module or a package was found in."""
    spec = getattr(module, "__spec__", None)
    place = spec and (next(iter(spec.submodule_search_locations or ()), None) or spec.origin)
    return Path(place).parent if place else None
