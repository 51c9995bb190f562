"""PyTorch's exported programs: ``.pt2`` files of ``torch.export.save``.

``torch.export.load`` unpickles whatever the archive asks it to, with ``weights_only=False``, and parses size
expressions with sympy, which evaluates them. So the archive is read first, and refused where either could
execute code. Plain tensors are raw bytes in it; only the example inputs are a (harmless) pickle.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeferry_converter.quiet import foreign, require, summary
from edgeferry_converter.sources import Source, SourceSpec
from edgeferry_converter.sources.detection import AGAIN
from edgeferry_converter.sources.tensors import refuse_shapes
from edgeferry_converter.sources.torch_lowering import Call, TorchSource, dtype_name, named_outputs
from edgeferry_runtime.errors import ArtifactError, CorruptFileError, UnsafeFileError
from edgeferry_runtime.tensors import TensorSpec

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


def open_source(spec: SourceSpec) -> Source:
    """Load an exported program. Its placeholders name the inputs, its dynamic sizes are -1.

    Raises:
        UnsafeFileError: If loading it could execute code.
        CorruptFileError: If it is damaged.
        ArtifactError: If this PyTorch cannot load it.
    """
    refuse_shapes("exported", spec.shapes)
    torch = require(spec.path, "torch", "torch")
    check_archive(spec.path)
    with foreign(spec.path, "torch.export could not load it", FIX, ArtifactError):
        program = torch.export.load(io.BytesIO(spec.path.read_bytes()))
        module = program.module(check_guards=False)
    with foreign(spec.path, "has inputs or outputs that are no tensors", FIX, ArtifactError):
        values = {node.name: node.meta.get("val") for node in program.graph.nodes}
        inputs = tuple(_spec(name, values[name]) for name in program.graph_signature.user_inputs)
        call = Call(module, _examples(inputs, values), program.call_spec.in_spec)
        return TorchSource((spec.path, "exported"), call, inputs, _outputs(spec.path, program, values))


def check_archive(path: Path) -> None:
    """Refuse an archive whose loading could execute code.

    Raises:
        UnsafeFileError: For a pickle that needs more than tensors, a compiled library, or an odd expression.
        CorruptFileError: If the archive cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                _check_entry(path, entry, archive)
    except (zipfile.BadZipFile, OSError, ValueError, KeyError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise CorruptFileError(path, f"cannot be read ({summary(error)})", AGAIN) from error


def _check_entry(path: Path, entry: str, archive: zipfile.ZipFile) -> None:
    name = entry.rpartition("/")[2]
    if "/aotinductor/" in entry or name.endswith((".so", ".dylib", ".dll")):
        raise UnsafeFileError(path, f"carries compiled code ({entry})", FIX)
    if name.startswith(("custom_obj_", "opaque_obj_")):
        raise UnsafeFileError(path, f"carries a pickled object ({entry})", FIX)
    if name.endswith(".pt"):
        _check_pickle(path, entry, archive.read(entry))
    elif name.endswith(".json"):
        for key, value in _pairs(json.loads(archive.read(entry))):
            if key == "use_pickle" and value:
                raise UnsafeFileError(path, f"carries pickled tensors ({entry})", FIX)
            if key == "expr_str" and not _is_expression(str(value)):
                raise UnsafeFileError(path, f"has a size expression that is none: {str(value)[:60]!r}", FIX)


def _is_expression(text: str) -> bool:
    called = re.findall(r"([\w')]+)\s*\(", text)
    return EXPRESSION.fullmatch(text) is not None and "__" not in text and FUNCTIONS.issuperset(called)


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


def _spec(name: str, value: Any) -> TensorSpec:
    return TensorSpec(name, tuple(d if isinstance(d, int) else -1 for d in value.shape), dtype_name(value.dtype))


def _examples(inputs: tuple[TensorSpec, ...], values: dict[str, Any]) -> tuple[Any, ...]:
    """Return ones of the sizes that the program was exported with."""
    import torch

    fakes = (values[t.name] for t in inputs)
    return tuple(torch.ones([_size(d) for d in fake.shape], dtype=fake.dtype) for fake in fakes)


def _size(dimension: Any) -> int:
    return dimension if isinstance(dimension, int) else int(dimension.node.hint)


def _outputs(path: Path, program: Any, values: dict[str, Any]) -> tuple[TensorSpec, ...]:
    from torch.utils import _pytree as pytree

    fakes = [values[name] for name in program.graph_signature.user_outputs]
    answer = named_outputs(path, pytree.tree_unflatten(fakes, program.call_spec.out_spec))
    return tuple(_spec(name, value) for name, value in answer.items())
