"""Looks into a ``.pt2`` archive before PyTorch does, and refuses what could execute code.

``torch.export.load`` of PyTorch 2.13 unpickles with ``weights_only=False`` where the archive asks for it, loads
compiled libraries, evaluates size expressions with sympy, finds the functions of the graph by any dotted path
below ``torch``, and pastes names into Python text. An archive of plain tensors needs none of that: weights are raw
bytes in it, and only the example inputs are a pickle, which the safe loader must be able to read.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeferry_converter.quiet import foreign, summary
from edgeferry_converter.sources.detection import AGAIN
from edgeferry_runtime.errors import ArtifactError, CorruptFileError, UnsafeFileError

FIX = "export the module again with plain tensors: torch.export.save(torch.export.export(module, inputs), FILE)"

EXPRESSION = re.compile(r"(?:'\w+'|\w+|[\s+\-*/(),<>=&|~]|(?<=\d)\.)*")
"""What a size expression may be written with: names, quoted names, numbers, operators, and no attributes."""

FUNCTIONS = frozenset(
    {"Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Mod", "Max", "Min", "Abs", "ceiling", "floor", "Identity"}
    | {"And", "Or", "Not", "Equality", "Unequality", "LessThan", "StrictLessThan", "GreaterThan", "StrictGreaterThan"}
    | {"FloorDiv", "CeilDiv", "CleanDiv", "PythonMod", "ModularIndexing", "Where", "IntTrueDiv", "FloatTrueDiv"}
    | {"CeilToInt", "FloorToInt", "TruncToInt", "RoundToInt", "ToFloat", "PowByNatural"}
)
"""The functions that a size expression may call, of sympy and of PyTorch."""

TARGET = re.compile(
    r"torch\.ops\.(?:aten|higher_order|prims|_c10d_functional|quantized_decomposed|torchvision)\.\w+(?:\.\w+)?"
    r"|torch\.sym_\w+|math\.\w+|_operator\.(?:getitem|add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|torch\._C\._set_grad_enabled"
)
"""The functions that a graph may call: PyTorch's operators and arithmetic on sizes."""

NAME = re.compile(r"[\w.:/ -]*")
STRUCTURE = re.compile(r"[\w\s.:,\\/\"\[\]{}-]*")
"""How names and the structure of the inputs may be written, since both become Python text."""


def check_archive(path: Path) -> None:
    """Refuse an archive whose loading could execute code.

    Raises:
        UnsafeFileError: For a pickle that needs more than tensors, a compiled library, or an odd text.
        CorruptFileError: If the archive cannot be read, or has two entries of one name.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.namelist()
            if len({entry.lower() for entry in entries}) < len(entries):
                raise CorruptFileError(path, "has several entries of one name", AGAIN)
            for entry in entries:
                _check_entry(path, entry, archive)
    except (zipfile.BadZipFile, OSError, ValueError, KeyError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise CorruptFileError(path, f"cannot be read ({summary(error)})", AGAIN) from error


def _check_entry(path: Path, entry: str, archive: zipfile.ZipFile) -> None:
    if "/aotinductor/" in entry or entry.endswith((".so", ".dylib", ".dll")):
        raise UnsafeFileError(path, f"carries compiled code ({entry})", FIX)
    if entry.endswith(".pt"):
        _check_pickle(path, entry, archive.read(entry))
    elif entry.endswith(".json"):
        for key, value in _pairs(json.loads(archive.read(entry))):
            danger = _danger(key, value)
            if danger:
                raise UnsafeFileError(path, f"{danger} ({entry})", FIX)


def _check_pickle(path: Path, entry: str, content: bytes) -> None:
    """Try the safe loader, the only one that may succeed: ``torch.export.load`` would fall back to the other."""
    import torch

    if content:
        with foreign(path, f"carries a pickle that could execute code ({entry})", FIX, UnsafeFileError):
            torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _pairs(data: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key and value of nested JSON."""
    if isinstance(data, dict):
        yield from data.items()
        data = list(data.values())
    for part in data if isinstance(data, list) else ():
        yield from _pairs(part)


def _danger(key: str, value: Any) -> str:
    """Say what one entry of the JSON would have PyTorch execute; empty where nothing."""
    harmless, words = RULES.get(key, (lambda text: True, ""))
    texts = [str(v) for v in (value if isinstance(value, list) else [value]) if isinstance(v, str | bool)]
    odd = [text for text in texts if not harmless(text)]
    return f"{words}, {odd[0][:60]!r}" if odd else ""


def _is_expression(text: str) -> bool:
    called = re.findall(r"([\w')]+)\s*\(", text)
    return EXPRESSION.fullmatch(text) is not None and "__" not in text and FUNCTIONS.issuperset(called)


def _is_operator(text: str) -> bool:
    return TARGET.fullmatch(text) is not None and "__" not in text


RULES: Mapping[str, tuple[Callable[[str], object], str]] = {
    "use_pickle": (lambda text: text == "False", "carries pickled tensors"),
    "path_name": (lambda text: not text.startswith(("custom_obj_", "opaque_obj_")), "carries a pickled object"),
    "expr_str": (_is_expression, "has a size expression that is none"),
    "target": (_is_operator, "calls a function that is no operator"),
    "name": (NAME.fullmatch, "has a name that is none"),
    "forward_arg_names": (NAME.fullmatch, "has a name that is none"),
    "in_spec": (STRUCTURE.fullmatch, "has an input structure that is none"),
}
"""By key of the JSON: which values are harmless, and what the others are called."""
