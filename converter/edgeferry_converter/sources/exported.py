"""PyTorch's exported programs: ``.pt2`` files of ``torch.export.save``."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from edgeferry_converter.quiet import foreign, require
from edgeferry_converter.sources import Source, SourceSpec
from edgeferry_converter.sources.exported_archive import FIX, check_archive
from edgeferry_converter.sources.tensors import refuse_shapes
from edgeferry_converter.sources.torch_lowering import Call, TorchSource, dtype_name, named_outputs
from edgeferry_runtime.errors import ArtifactError
from edgeferry_runtime.tensors import TensorSpec


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
        module = program.module(check_guards=False)  # guards are Python text of the file, which would be executed
    with foreign(spec.path, "has inputs or outputs that are no tensors", FIX, ArtifactError):
        values = {node.name: node.meta.get("val") for node in program.graph.nodes}
        inputs = tuple(_spec(name, values[name]) for name in program.graph_signature.user_inputs)
        call = Call(module, _examples(inputs, values), program.call_spec.in_spec)
        return TorchSource((spec.path, "exported"), call, inputs, _outputs(spec.path, program, values))


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
