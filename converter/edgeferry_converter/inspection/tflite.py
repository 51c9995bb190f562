"""What a ``.tflite`` file tells about itself, read with the generated schema and no engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeferry_converter.inspection.arena import estimate
from edgeferry_converter.inspection.graph import Graph, Node, Value
from edgeferry_converter.inspection.layers import layers, stray_transposes
from edgeferry_converter.inspection.report import Inspection
from edgeferry_converter.inspection.tflite_macs import macs
from edgeferry_converter.inspection.tflite_metadata import ENTRY, appended, describe
from edgeferry_converter.quiet import require
from edgeferry_runtime.flatbuffer import map_file
from edgeferry_runtime.guard import check_artifact
from edgeferry_runtime.tensors import Quantization, TensorSpec
from edgeferry_runtime.tflite_file import TfliteFile, read_tflite

FLEX = "Flex"
"""How the custom codes of TensorFlow's own operators begin."""


def inspect_tflite(path: Path) -> Inspection:
    """Read one file.

    Raises:
        ArtifactError: If it is damaged.
        MissingExtraError: If ai-edge-litert is not installed.
    """
    require(path, "litert", "ai_edge_litert.schema_py_generated")
    check_artifact(path)
    with map_file(path) as mapped:
        data = bytes(mapped)
    model = _schema().Model.GetRootAs(data, 0)
    codes = [_operator(model.OperatorCodes(i)) for i in range(model.OperatorCodesLength())]
    graphs = [_graph(model, i, codes) for i in range(model.SubgraphsLength())]
    seen: set[str] = set()
    sizes = [estimate(graph) for graph in graphs]
    found = read_tflite(data)
    signature = found.primary
    main = graphs[signature.subgraph if signature else 0]
    custom = sorted({name for name, own in codes if not own})
    return Inspection(
        path=path,
        format="tflite",
        size=len(data),
        inputs=_borders(main, main.inputs, signature.inputs if signature else {}),
        outputs=_borders(main, main.outputs, signature.outputs if signature else {}),
        layers=tuple(layer for graph in graphs for layer in layers(graph, macs, seen)),
        arena_bytes=None if None in sizes else sum(size or 0 for size in sizes),
        transposes=tuple(name for graph in graphs for name in stray_transposes(graph)),
        custom=tuple(name for name in custom if not name.startswith(FLEX)),
        flex=tuple(name for name in custom if name.startswith(FLEX)),
        metadata=_metadata(path, model),
        notes=tuple(_notes(model, found, sizes)),
    )


def _schema() -> Any:
    from ai_edge_litert import schema_py_generated as schema

    return schema


def _names(enum: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}


def _operator(code: Any) -> tuple[str, bool]:
    """Return an operator's name, and whether it is TFLite's own."""
    builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    if builtin == _schema().BuiltinOperator.CUSTOM:
        return _text(code.CustomCode()) or "CUSTOM", False
    return _names(_schema().BuiltinOperator).get(builtin, f"operator {builtin}"), True


def _text(name: bytes | None) -> str:
    return (name or b"").decode(errors="replace")


def _graph(model: Any, index: int, codes: list[tuple[str, bool]]) -> Graph:
    subgraph = model.Subgraphs(index)
    dtypes = {value: name.lower() for value, name in _names(_schema().TensorType).items()}
    tensors = [_value(model, subgraph.Tensors(i), dtypes) for i in range(subgraph.TensorsLength())]
    values = {str(i): value for i, value in enumerate(tensors)}
    nodes = tuple(_node(model, subgraph, i, codes) for i in range(subgraph.OperatorsLength()))
    inputs, outputs = (tuple(map(str, _ints(v))) for v in (subgraph.InputsAsNumpy(), subgraph.OutputsAsNumpy()))
    return Graph(values, nodes, inputs, outputs)


def _ints(vector: Any) -> list[int]:
    """Read a vector, which the schema gives as 0 where it is absent."""
    return [] if isinstance(vector, int) else [int(v) for v in vector]


def _value(model: Any, tensor: Any, dtypes: dict[int, str]) -> Value:
    index = tensor.Buffer()
    buffer = model.Buffers(index) if index < model.BuffersLength() else None
    stored = max(buffer.DataLength(), buffer.Size()) if buffer else 0
    shape = tuple(_ints(tensor.ShapeSignatureAsNumpy()) or _ints(tensor.ShapeAsNumpy()))
    empty = 0 in shape
    return Value(
        name=_text(tensor.Name()),
        shape=shape,
        dtype=dtypes.get(tensor.Type(), f"type {tensor.Type()}"),
        stored=stored if stored or (empty and index) else None,
        buffer=str(index),
        quantization=_quantization(tensor.Quantization()),
        variable=tensor.IsVariable(),
    )


def _quantization(found: Any) -> Quantization | None:
    if found is None or not found.ScaleLength():
        return None
    scale = tuple(float(s) for s in found.ScaleAsNumpy())
    zero = tuple(_ints(found.ZeroPointAsNumpy())) or (0,) * len(scale)
    return Quantization(scale, zero, found.QuantizedDimension() if len(scale) > 1 else None)


def _node(model: Any, subgraph: Any, index: int, codes: list[tuple[str, bool]]) -> Node:
    found = subgraph.Operators(index)
    operator = codes[found.OpcodeIndex()][0]
    inputs = tuple("" if i < 0 else str(i) for i in _ints(found.InputsAsNumpy()))
    outputs = tuple(str(i) for i in _ints(found.OutputsAsNumpy()))
    name = _text(subgraph.Tensors(int(outputs[0])).Name()) if outputs else f"operator {index}"
    return Node(operator, name, inputs, outputs, _options(model, subgraph, operator, found))


def _options(model: Any, subgraph: Any, operator: str, found: Any) -> dict[str, object]:
    if operator == "TRANSPOSE" and found.InputsLength() > 1:
        buffer = model.Buffers(subgraph.Tensors(found.Inputs(1)).Buffer())
        content = buffer.DataAsNumpy()
        return {"perm": () if isinstance(content, int) else tuple(content.view("<i4").tolist())}
    if operator == "BATCH_MATMUL" and (table := found.BuiltinOptions()):
        options = _schema().BatchMatMulOptions()
        options.Init(table.Bytes, table.Pos)
        return {"adjoint": options.AdjX()}
    return {}


def _borders(graph: Graph, keys: tuple[str, ...], names: Any) -> tuple[TensorSpec, ...]:
    """Describe inputs or outputs; a signature's names stand before those of the tensors."""
    specs = {key: graph.values[key].spec for key in keys}
    if not names:
        return tuple(specs.values())
    named = ((name, graph.values[str(index)].spec) for name, index in names.items())
    return tuple(TensorSpec(name, spec.shape, spec.dtype, spec.quantization) for name, spec in named)


def _metadata(path: Path, model: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"description": _text(model.Description())} if model.Description() else {}
    for i in range(model.MetadataLength()):
        entry = model.Metadata(i)
        content = model.Buffers(entry.Buffer()).DataAsNumpy()
        name, raw = _text(entry.Name()), b"" if isinstance(content, int) else bytes(content)
        found[name] = describe(raw) if name == ENTRY else _entry(raw)
    files = appended(path)
    return {**found, "files behind the model": files} if files else found


def _entry(content: bytes) -> str:
    """Show a short text as it is, and anything else by its size."""
    text = content.rstrip(b"\0")
    readable = len(text) <= 64 and text.isascii() and text.decode(errors="replace").isprintable()
    return text.decode() if text and readable else f"{len(content)} bytes"


def _notes(model: Any, found: TfliteFile, sizes: list[int | None]) -> Iterator[str]:
    if found.primary is None:
        yield "it has no signature: the names are those of its tensors"
    elif len(found.signatures) > 1:
        others = ", ".join(s.key for s in found.signatures if s.key != found.primary.key)
        yield f"inputs and outputs are those of the signature {found.primary.key}; others: {others}"
    if model.SubgraphsLength() > 1:
        yield f"it has {model.SubgraphsLength()} subgraphs; the body of a loop counts once"
    if None in sizes:
        yield "the arena cannot be told: the shape of a tensor is unknown"
