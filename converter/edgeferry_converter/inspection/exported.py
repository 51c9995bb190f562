"""What a ``.pt2`` archive of an exported program tells about itself: its JSON, without PyTorch.

Source: torch/_export/serde/schema.py of PyTorch 2.13. Archives of PyTorch before 2.8 hold the same JSON elsewhere.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeferry_converter.inspection.graph import BITS, Graph, Node, Value
from edgeferry_converter.inspection.layers import layers, stray_transposes
from edgeferry_converter.inspection.report import Inspection, Layer
from edgeferry_converter.inspection.torch_macs import is_own, macs
from edgeferry_converter.quiet import summary
from edgeferry_converter.sources.detection import AGAIN
from edgeferry_runtime.errors import CorruptFileError
from edgeferry_runtime.tensors import TensorSpec

DTYPES: Mapping[int, str] = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16", 29: "float8_e4m3fn", 30: "float8_e5m2",
}  # fmt: skip
"""By number of ``ScalarType`` in the schema."""

STORED = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
"""By kind of input that the archive brings itself: where its name stands."""

DAMAGE = (zipfile.BadZipFile, OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError)
"""What a damaged archive, or JSON of another shape, raises."""


def inspect_exported(path: Path) -> Inspection:
    """Read one archive.

    Raises:
        CorruptFileError: If it is damaged, or holds no program.
    """
    try:
        program = _program(path)
        graph = _graph(program)
        names = _output_names(program)
        return _inspection(path, program, graph, names)
    except (*DAMAGE, RecursionError) as error:
        raise CorruptFileError(path, f"its program cannot be read ({summary(error)})", AGAIN) from error


def _inspection(path: Path, program: Any, graph: Graph, names: list[str]) -> Inspection:
    found = tuple(layers(graph, macs, set()))
    outputs = [graph.values[key].spec for key in graph.outputs]
    if len(names) == len(outputs):
        outputs = [TensorSpec(name, s.shape, s.dtype) for name, s in zip(names, outputs, strict=True)]
    about = {"PyTorch": program.get("torch_version", ""), "schema": _version(program)}
    return Inspection(
        path=path,
        format="exported",
        size=path.stat().st_size,
        inputs=tuple(graph.values[key].spec for key in graph.inputs),
        outputs=tuple(outputs),
        layers=found,
        transposes=stray_transposes(graph),
        custom=tuple(sorted({layer.operator for layer in found if not is_own(layer.operator)})),
        metadata={key: value for key, value in about.items() if value},
        notes=tuple(_notes(found)),
    )


def _program(path: Path) -> Any:
    """Return the JSON of the archive's only program."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.namelist()
        found = [
            e for e in entries if ("/models/" in e and e.endswith(".json")) or e == "serialized_exported_program.json"
        ]
        if not found:
            raise ValueError("there is none in the archive")
        return json.loads(archive.read(found[0]))


def _graph(program: Any) -> Graph:
    module = program["graph_module"]
    described, signature = module["graph"], module["signature"]
    values = {name: _value(name, meta) for name, meta in described["tensor_values"].items()}
    inputs = []
    for one in signature["input_specs"]:
        ((kind, spec),) = one.items()
        key = _name(spec["arg"])
        if kind in STORED:
            values[key] = _stored(str(spec[STORED[kind]]), values[key])
        elif kind == "user_input" and key in values:
            inputs.append(key)
    wanted = (
        _name(spec["arg"]) for one in signature["output_specs"] for kind, spec in one.items() if kind == "user_output"
    )
    nodes = tuple(_node(node, values) for node in described["nodes"])
    return Graph(values, nodes, tuple(inputs), tuple(key for key in wanted if key in values))


def _value(name: str, meta: Any) -> Value:
    shape = tuple(int(size["as_int"]) if "as_int" in size else -1 for size in meta["sizes"])
    return Value(name, shape, DTYPES.get(meta["dtype"], f"type {meta['dtype']}"))


def _stored(name: str, value: Value) -> Value:
    size = math.prod(value.shape or ()) * BITS.get(value.dtype, 0) // 8
    return Value(name, value.shape, value.dtype, stored=size, buffer=name)


def _node(node: Any, values: Mapping[str, Value]) -> Node:
    inputs = tuple(key for given in node["inputs"] for key in _tensors(given["arg"]))
    outputs = tuple(key for made in node["outputs"] for key in _tensors(made))
    weight = next((values[key].name for key in inputs if key in values and values[key].stored is not None), "")
    flags = {given["name"]: given["arg"]["as_bool"] for given in node["inputs"] if "as_bool" in given["arg"]}
    name = weight.rpartition(".")[0] or next(iter(outputs), "")
    return Node(_operator(node["target"]), name, inputs, outputs, flags)


def _operator(target: str) -> str:
    """Shorten ``torch.ops.aten.conv2d.default`` to ``aten.conv2d``; functions on sizes keep their name alone."""
    parts = target.removeprefix("torch.ops.").split(".")
    return ".".join(parts[:2]) if target.startswith("torch.ops.") else parts[-1]


def _name(argument: Any) -> str:
    return next(_tensors(argument), "") if "name" not in argument else str(argument["name"])


def _tensors(argument: Any) -> Iterator[str]:
    """Yield the names of the tensors in an argument; numbers and sizes are none."""
    for kind, value in argument.items():
        if kind in ("as_tensor", "as_tensors", "as_optional_tensor", "as_optional_tensors", "as_nested_tensors"):
            yield from _names(value)


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for part in value:
            yield from _names(part)
    elif isinstance(value, dict):
        if "name" in value:
            yield str(value["name"])
        else:
            yield from _tensors(value)


def _output_names(program: Any) -> list[str]:
    """Name the outputs as the source does: by keys, or else ``output_0``, ``output_1`` and so on."""
    calls = program["graph_module"].get("module_call_graph") or [{}]
    text = (calls[0].get("signature") or {}).get("out_spec", "")
    tree = json.loads(text)[1] if text else None
    return ["output_0"] if tree is not None and tree["type"] is None else list(_leaves("", tree))


def _leaves(name: str, tree: Any) -> Iterator[str]:
    if tree is None:
        return
    if tree["type"] is None:
        yield name
        return
    children = tree["children_spec"]
    mapped = tree["type"].endswith(("dict", "Dict"))
    keys = json.loads(tree["context"]) if mapped else [str(i) for i in range(len(children))]
    front = name if mapped else name or "output"
    for key, child in zip(keys, children, strict=True):
        yield from _leaves(f"{front}_{key}" if front else str(key), child)


def _version(program: Any) -> str:
    version = program.get("schema_version") or {}
    return f"{version['major']}.{version['minor']}" if isinstance(version, dict) and version else ""


def _notes(found: tuple[Layer, ...]) -> Iterator[str]:
    if any(layer.macs is None for layer in found):
        yield "the MACs of some layers cannot be told from the file alone: convert it and inspect the bundle"
