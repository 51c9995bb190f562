"""TFLite delegates that come as libraries, and the Edge TPU's, which is one of them.

Source: tflite/delegates/external/external_delegate_interface.h of LiteRT.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeferry_runtime.engines.delegate import Delegate
from edgeferry_runtime.engines.elf import elf_machine, own_machine
from edgeferry_runtime.errors import EngineError, PartialDelegationError
from edgeferry_runtime.tflite_file import TfliteFile

ENTRY_POINTS = ("tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate")
EDGETPU = {"darwin": "libedgetpu.1.dylib", "win32": "edgetpu.dll"}.get(sys.platform, "libedgetpu.so.1")
"""The Edge TPU's library. It is in no package registry, so it is missing on most machines."""
EDGETPU_OPERATOR = "edgetpu-custom-op"
"""The custom operator that the Edge TPU's compiler puts in place of what it compiled."""

LoadDelegate = Callable[[str, Mapping[str, str]], Any]


def load_library(delegate: Delegate, load_delegate: LoadDelegate) -> Any:
    """Load a delegate's library and make a delegate of it.

    Args:
        delegate: Of the kind ``library`` or ``edgetpu``.
        load_delegate: The interpreter package's own function.

    Raises:
        EngineError: If the library is missing, is none, is for another architecture, lacks the entry points of a
            TFLite delegate, or refuses its options.
    """
    edgetpu = delegate.kind == "edgetpu"
    name = EDGETPU if edgetpu else str(delegate.name)
    options = dict(delegate.options)
    if edgetpu and delegate.name:
        options["device"] = delegate.name
    _check(delegate, name)
    try:
        return load_delegate(name, options)
    except (ValueError, RuntimeError) as error:
        raise _refused(delegate, name, error) from error


def library_name(delegate: Delegate) -> str:
    """Name what a delegate of the kind ``library`` or ``edgetpu`` executes with, in words."""
    return "Edge TPU" if delegate.kind == "edgetpu" else Path(str(delegate.name)).name


def check_edgetpu(path: Path, delegate: Delegate, file: TfliteFile) -> None:
    """See that a file that was compiled for the Edge TPU goes there, and no other does.

    A library that the user names may be the Edge TPU's, so it is given either.

    Raises:
        EngineError: If it is not so.
    """
    compiled = EDGETPU_OPERATOR in file.custom_ops
    if compiled and delegate.kind not in ("edgetpu", "library"):
        place = delegate.kind.upper()
        reason = f"is compiled for the Edge TPU, and cannot run on a {place} (its operator is {EDGETPU_OPERATOR})"
        raise EngineError(path, reason, "use the file that it was compiled from, or --delegate edgetpu")
    if delegate.kind == "edgetpu" and not compiled:
        reason = f"is not compiled for the Edge TPU, which would take none of its {file.nodes} nodes"
        raise PartialDelegationError(path, reason, "compile it with edgetpu_compiler, or use --delegate cpu")


def _refused(delegate: Delegate, name: str, error: Exception) -> EngineError:
    said = " ".join(str(error).removeprefix(f"Failed to load delegate from {name}").split())
    if delegate.kind == "edgetpu":
        reason = f"{name} finds no such Edge TPU{f' ({said[:300]})' if said else ''}"
        return _unusable(delegate, reason, "plug it in, see that this user may open it, or name another: edgetpu:usb:0")
    reason = f"the library refuses its options: {said[:300] or 'it does not say why'}"
    return _unusable(delegate, reason, "see the library's documentation for its options")


def _check(delegate: Delegate, name: str) -> None:
    """Look at the file, then at its entry points, before TFLite takes it."""
    if "/" in name:
        _check_file(delegate, Path(name))
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise _not_loaded(delegate, name, str(error)) from error
    missing = [entry for entry in ENTRY_POINTS if not hasattr(library, entry)]
    if missing:
        reason = f"the library is no TFLite delegate, or is too old: it lacks {' and '.join(missing)}"
        raise _unusable(delegate, reason, "give a library that is built as an external delegate")


def _check_file(delegate: Delegate, path: Path) -> None:
    if not path.is_file():
        raise _unusable(delegate, "no such library" if not path.exists() else "is no file", "check the path")
    try:
        machine, own = elf_machine(path), own_machine()
    except OSError as error:
        raise _unusable(delegate, f"the library cannot be read ({error.strerror})", "check its permissions") from error
    if own and machine is None:
        raise _unusable(delegate, "is no library", "give a shared library")
    if own and machine != own:
        reason = f"the library is built for {machine}, and this Python for {own}"
        raise _unusable(delegate, reason, f"give a build for {own}")


def _not_loaded(delegate: Delegate, name: str, said: str) -> EngineError:
    """Say why the linker refused a library: it is missing, or something that it needs is."""
    absent = said.startswith(f"{name}: cannot open shared object file") or "image not found" in said
    if absent and delegate.kind == "edgetpu":
        fix = "install the Edge TPU runtime (coral.ai/software), or name a fallback: --delegate edgetpu,cpu"
        return _unusable(delegate, f"{name}, the Edge TPU runtime, is not installed", fix)
    if absent:
        near = f"write ./{name}" if Path(name).is_file() else "give its path"
        return _unusable(delegate, "the linker finds no such library", near)
    return _unusable(
        delegate, f"the library cannot be loaded ({said[:300]})", "install what it needs, or another build"
    )


def _unusable(delegate: Delegate, reason: str, fix: str) -> EngineError:
    return EngineError(f"--delegate {delegate}", reason, fix)
