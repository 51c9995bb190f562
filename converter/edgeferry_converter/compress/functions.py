"""``FILE.py:FUNCTION``: code of the user that gives or judges by data; executed only where he named it himself."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeferry_converter.quiet import foreign
from edgeferry_converter.sources.python_file import imported
from edgeferry_runtime.errors import DataError, MissingFileError, UnknownNameError, UsageError

Function = Callable[..., Any]


def split(text: str) -> tuple[Path, str] | None:
    """Read ``FILE.py:FUNCTION``; None where it is no Python file.

    Raises:
        UsageError: If it names no function.
    """
    file, colon, function = text.rpartition(":")
    if colon and file.endswith(".py"):
        if not function.isidentifier():
            raise UsageError(text, f"{function!r} is no name of a function", f"write {file}:FUNCTION")
        return Path(file), function
    if text.endswith(".py"):
        raise UsageError(text, "is Python, and says not which function to call", f"write {text}:FUNCTION")
    return None


def refuse_unasked(key: str, value: str, flag: str) -> None:
    """Refuse Python code that only a recipe names: whoever wrote it need not be who runs it.

    Raises:
        UsageError: With the flag that allows it.
    """
    if split(value) is not None:
        reason = f"names {value}, which would be executed, and a recipe alone may not ask for that"
        raise UsageError(f"recipe key {key!r}", reason, f"if you trust the file, add {flag} {value}")


class Files:
    """Imports the user's files, each once however many of its functions are asked for.

    Their folders stay importable until `stack` closes.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._imported: dict[Path, ModuleType] = {}

    def load(self, text: str) -> Function:
        """Return the function of a file.

        Raises:
            MissingFileError: If there is no such file.
            UnknownNameError: If it has no such function.
            DataError: If the file itself fails.
        """
        found = split(text)
        assert found is not None
        file, name = found
        if not file.is_file():
            raise MissingFileError(file, "no such Python file", "check the path")
        path = file.resolve()
        if path not in self._imported:
            with foreign(file, "it failed when it was imported", "mend the file", DataError):
                self._imported[path] = self._stack.enter_context(imported(path))
        python = self._imported[path]
        function = getattr(python, name, None)
        if not callable(function):
            own = [n for n, v in vars(python).items() if inspect.isfunction(v) and v.__module__ == python.__name__]
            raise UnknownNameError(file, name, [n for n in own if not n.startswith("_")])
        return function  # type: ignore[no-any-return]


def needs_argument(where: str, function: Function) -> bool:
    """Tell whether a function must be given ``predict``.

    Raises:
        DataError: If it must be given more than that.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    open_kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in open_kinds]
    if len(needed) > 1:
        reason = f"must be given {', '.join(needed)}"
        raise DataError(where, reason, "let it take nothing and return samples, or take predict and return a number")
    return bool(needed)
