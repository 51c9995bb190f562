"""TorchScript archives (``.pt``, ``.jit``): loaded without Python, and lowered operator by operator.

``torch.jit.load`` never uses Python's pickle: its own reader builds only tensors, numbers and the classes whose code
lies in the archive, and that code is TorchScript, which a compiler of PyTorch reads and an interpreter runs. No Python
is executed. What TorchScript can reach outside itself are operators that open files (``torch.save``,
``torch.from_file``) and compiled classes; archives that name them are refused before they are loaded, because the
``__setstate__`` of a class already runs while loading.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeferry_converter.quiet import foreign, require, summary
from edgeferry_converter.sources import Source, SourceSpec
from edgeferry_converter.sources.constants import Constant, check_constants
from edgeferry_converter.sources.detection import AGAIN
from edgeferry_converter.sources.tensors import check_shape_names
from edgeferry_converter.sources.torch_lowering import TorchSource
from edgeferry_converter.sources.torch_shapes import call_by_name, filled, observed_outputs, shaped
from edgeferry_converter.sources.torchscript_graph import Interpreted
from edgeferry_runtime.errors import (
    ArtifactError,
    ConversionError,
    CorruptFileError,
    UnknownNameError,
    UnsafeFileError,
    UsageError,
)
from edgeferry_runtime.tensors import TensorSpec

NAMESPACES = frozenset({"aten", "prim", "prims", "quantized", "torchvision"})
"""Whose operators the code may call: those of PyTorch itself."""

REACHING_OUT = re.compile(r"\b(?:from_file|save|load|rpc_async|rpc_sync|rpc_remote|classes)\b")
"""Words that the code of a network has no use for, and that all ways out of TorchScript need."""

CALLS = re.compile(r"\bops\s*\.\s*(\w+)")

TRACE = "trace the module that computes it, and nothing around it: torch.jit.trace(module.eval(), inputs)"


def open_source(spec: SourceSpec) -> Source:
    """Load TorchScript, and learn its outputs by running it on inputs of the given shapes.

    Inputs bear the names of ``forward``'s parameters and are float32.

    Raises:
        UnsafeFileError: If its code could reach files, the network or compiled classes.
        CorruptFileError: If it is damaged.
        ArtifactError: If this PyTorch cannot load it.
        UsageError: If the shape of an input was not given.
        ConversionError: If it takes something else than tensors, or keeps state between calls.
    """
    script = _part(spec, load_script(spec.path))
    import torch

    names = _parameters(spec, script)
    check_shape_names(spec.shapes, names)
    examples = {name: filled(shape, torch.float32) for name, shape in _shapes(spec, names).items()}
    shapes = {name: spec.shapes.get(name, tuple(tensor.shape)) for name, tensor in examples.items()}
    inputs = tuple(TensorSpec(name, tuple(shape), "float32") for name, shape in shapes.items())
    call = call_by_name(_holding(script, names, spec.constants), examples, positional=names)
    outputs = observed_outputs(spec, call, inputs)
    source = TorchScriptSource((spec.path, "torchscript"), call, inputs, outputs)
    source.script, source.constants = script, spec.constants
    return source


def load_script(path: Path) -> Any:
    """Load a file whose code was checked; the module is ready for inference.

    Raises:
        UnsafeFileError: If its code could reach files, the network or compiled classes.
        CorruptFileError: If it is damaged.
        ArtifactError: If this PyTorch cannot load it.
    """
    torch = require(path, "torch", "torch")
    _check_code(path)
    with foreign(path, "torch.jit could not load it", AGAIN, ArtifactError):
        return torch.jit.load(str(path), map_location="cpu").eval()


class TorchScriptSource(TorchSource):
    """TorchScript as a source: PyTorch's own interpreter runs it, and ours is what is lowered."""

    script: Any
    constants: Mapping[str, Constant]

    def lower(self, to: str, path: Path) -> None:
        """Write the float artifact."""
        called = self.call
        try:
            self.call = called.with_module(Interpreted(self.path, self.script, self.constants))
            self.call.answers(self.path, self.call.examples)  # what fails without an exporter has the clearer error
            super().lower(to, path)
        finally:
            self.call = called


def _part(spec: SourceSpec, script: Any) -> Any:
    """Return the part of a module that is the model.

    Raises:
        UnknownNameError: If there is no such part.
    """
    parts = {name: part for name, part in script.named_modules() if name and hasattr(part, "forward")}
    if spec.submodule is None:
        return script
    if spec.submodule not in parts:
        raise UnknownNameError("--submodule", spec.submodule, [name for name in parts if name.count(".") < 2])
    return parts[spec.submodule]


def _holding(script: Any, names: Sequence[str], constants: Mapping[str, Constant]) -> Any:
    """Return a module that takes the tensors alone."""
    import torch

    if not constants:
        return script

    class Holding(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.script = script

        def forward(self, *tensors: Any) -> Any:
            return self.script(**dict(zip(names, tensors, strict=True)), **constants)

    return Holding().eval()


def _check_code(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.namelist()
            if len({entry.lower() for entry in entries}) < len(entries):
                raise CorruptFileError(path, "has several entries of one name", AGAIN)
            texts = [archive.read(entry).decode() for entry in entries if "/code/" in entry and entry.endswith(".py")]
            pickles = [entry for entry in entries if entry.endswith(".pkl") and b"torch.classes" in archive.read(entry)]
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CorruptFileError(path, f"its code cannot be read ({summary(error)})", AGAIN) from error
    if pickles:
        raise UnsafeFileError(path, f"names a compiled class ({pickles[0]}), which could reach out", TRACE)
    for text in texts:
        found = REACHING_OUT.findall(text) + [f"ops.{name}" for name in CALLS.findall(text) if name not in NAMESPACES]
        if found:
            reason = f"its code names {found[0]!r}, through which it could reach out of the network"
            raise UnsafeFileError(path, reason, TRACE)


def _parameters(spec: SourceSpec, script: Any) -> list[str]:
    """Return the names of forward's parameters that are tensors; others must be constant.

    Raises:
        ArtifactError: If there is no forward.
        ConversionError: If a parameter is no tensor and has no value.
        UsageError: If a constant is none.
    """
    with foreign(spec.path, "it has no forward method", TRACE, ArtifactError):
        arguments = script.forward.schema.arguments[1:]
    kinds = {a.name: str(a.type) for a in arguments}
    tensors = [name for name, kind in kinds.items() if kind == "Tensor"]
    check_constants(spec.constants, {n: k for n, k in kinds.items() if k in ("int", "float", "bool")}, tensors)
    given = {*tensors, *spec.constants}
    odd = [a for a in arguments if a.name not in given and not a.has_default_value()]
    if odd:
        fix = f"give it a value: --constant {odd[0].name}=NUMBER"
        listed = ", ".join(f"{a.name} ({a.type})" for a in odd)
        simple = str(odd[0].type) in ("int", "float", "bool")
        raise ConversionError(spec.path, f"takes what is no tensor: {listed}", fix if simple else TRACE)
    return tensors


def _shapes(spec: SourceSpec, names: list[str]) -> dict[str, tuple[int, ...]]:
    """Return the sizes of the example inputs, from the flags or from the data that the model will be fed."""
    found = {}
    for name in names:
        hint = spec.hints.get(name) or (spec.hints.get("") if len(names) == 1 else None)
        if name in spec.shapes:
            found[name] = shaped(name, spec.shapes[name])
        elif hint:
            found[name] = hint
        else:
            fix = f"give --shape {name}=1,3,32,32 (its own numbers), or data to verify with: --probe DATA"
            raise UsageError(spec, f"is TorchScript, which does not tell the shape of the input {name!r}", fix)
    return found
