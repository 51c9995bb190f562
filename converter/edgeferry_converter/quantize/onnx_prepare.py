"""What a float ONNX model needs before onnxruntime.quantization takes it well."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeferry_converter import onnx_file

MIN_OPSET = 13
"""QuantizeLinear has an axis, which weights per channel need, from this operator set on."""


def graphs(graph: Any) -> Iterator[Any]:
    """Yield a graph and the graphs inside its nodes (``If``, ``Loop``, ``Scan``)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from graphs(inner)


def prepare(model: Any, target: Path) -> None:
    """Raise the operator set, fold constants, fuse, infer shapes, and write the result to `target`.

    Optimizing joins what the quantizer would otherwise quantize apart, such as a convolution and its bias. Where
    ONNX Runtime cannot optimize a model, or one file cannot hold it, it goes on with inferred shapes alone.
    """
    from onnx import version_converter

    _weights_are_no_inputs(model)
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if opset < MIN_OPSET:
        model = version_converter.convert_version(model, MIN_OPSET)
    prepared = _inferred(model) if onnx_file.is_split(model) else _optimized(model, target)
    _biases_are_vectors(prepared.graph)
    _forget_shapes_of_weights(prepared.graph)
    _name_nodes(prepared.graph)
    onnx_file.write(prepared, target)


def _optimized(model: Any, target: Path) -> Any:
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    whole = target.with_suffix(".whole.onnx")
    onnx.save(model, str(whole))
    quant_pre_process(str(whole), str(target), skip_symbolic_shape=True)
    prepared = onnx.load(str(target))
    same = [v.name for v in prepared.graph.output] == [v.name for v in model.graph.output]
    return prepared if same else _inferred(model)


def _inferred(model: Any) -> Any:
    """Infer shapes, and say so: the quantizers would otherwise copy the model to infer them themselves."""
    import onnx
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    inferred = onnx.shape_inference.infer_shapes(model)
    if onnx_file.is_split(inferred):
        add_infer_metadata(inferred)
    return inferred


def _weights_are_no_inputs(model: Any) -> None:
    """Take weights out of the graph's inputs, where files before IR version 4 had to list them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in weights]
    if len(kept) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(kept)
        model.ir_version = max(model.ir_version, 7)


def _biases_are_vectors(graph: Any) -> None:
    """Give each Gemm a bias of one dimension: the quantizer fails on [1, N], which means the same."""
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        bias = weights.get(node.input[2]) if node.op_type == "Gemm" and len(node.input) > 2 else None
        if bias is not None and len(bias.dims) == 2 and bias.dims[0] == 1:
            name = f"{bias.name}_vector"
            if name not in weights:
                weights[name] = numpy_helper.from_array(onnx_file.values(bias).reshape(-1), name)
                graph.initializer.append(weights[name])
            node.input[2] = name
    drop_unused_weights(graph)


def _name_nodes(graph: Any) -> None:
    """Give every node without a name of its own that of its first output: the quantizer tells nodes by name."""
    taken: set[str] = {""}
    for inner in graphs(graph):
        for node in inner.node:
            if node.name in taken:
                node.name = next(filter(None, node.output))
            taken.add(node.name)


def _forget_shapes_of_weights(graph: Any) -> None:
    """Leave a weight's shape to the weight: the quantizer transposes some, and trips over the shape of before."""
    weights = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.value_info if value.name not in weights]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def drop_unused_weights(graph: Any) -> None:
    """Remove the weights of a graph that nothing in it reads."""
    used = {name for inner in graphs(graph) for node in inner.node for name in node.input}
    used |= {value.name for value in graph.output}
    for i in reversed(range(len(graph.initializer))):  # in place: the others are not copied
        if graph.initializer[i].name not in used:
            del graph.initializer[i]
