"""ONNX graphs: names of inputs and outputs, and the checks that every written graph passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeferry_converter.quiet import foreign
from edgeferry_runtime.errors import ConversionError
from edgeferry_runtime.tensors import Array


def rename(model: Any, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Any:
    """Give a graph's inputs and outputs other names, in the order of the mappings.

    Args:
        model: A ``ModelProto``; it is changed.
        inputs: By present name the new one, for every input.
        outputs: By present name the new one, for every output.

    Returns:
        The model.

    Raises:
        ConversionError: If the present names are others.
    """
    graph = model.graph
    names = {**inputs, **outputs}
    taken = _values(graph) - names.keys()
    inner = {name: _free(name, taken | names.keys() | set(names.values())) for name in taken & set(names.values())}
    substitute(graph, names | inner)
    _reorder(graph.input, list(inputs.values()))
    _reorder(graph.output, list(outputs.values()))
    return model


def hold(model: Any, constants: Mapping[str, Array]) -> None:
    """Make constants of those inputs of a graph whose values are known."""
    from onnx import numpy_helper

    graph = model.graph
    known = [value for value in graph.input if value.name in constants]
    graph.initializer.extend(numpy_helper.from_array(constants[value.name], value.name) for value in known)
    for value in known:
        graph.input.remove(value)


def finish(subject: object, model: Any) -> bytes:
    """Forget where the graph was traced, infer shapes, check the graph, and serialize it.

    Raises:
        ConversionError: If the checker refuses it.
    """
    import onnx

    with foreign(subject, "the ONNX checker refused the graph"):
        inferred = infer(model)
        onnx.checker.check_model(inferred)
        content: bytes = inferred.SerializeToString(deterministic=True)
    return content


def infer(model: Any) -> Any:
    """Forget where the graph was traced, and infer shapes; large weights in other files are not needed for it."""
    import onnx

    _forget_traces(model.graph)
    return onnx.shape_inference.infer_shapes(model)


def _forget_traces(graph: Any) -> None:
    """Drop the stack traces that exporters leave at nodes: they tell paths of the machine that converted."""
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                _forget_traces(body)


def _values(graph: Any) -> set[str]:
    made = {name for node in graph.node for name in node.output}
    return made | {t.name for t in graph.initializer} | {t.name for t in graph.input}


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def substitute(graph: Any, names: Mapping[str, str]) -> None:
    """Rename values everywhere, in the bodies of If, Loop and Scan too, which see the outer graph's."""
    for node in graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                substitute(body, names)
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)


def _reorder(values: Any, names: list[str]) -> None:
    by_name = {value.name: value for value in values}
    if set(by_name) != set(names):
        raise ConversionError("ONNX graph", f"has {sorted(by_name)}, not {sorted(names)}", "report this")
    ordered = [type(by_name[n]).FromString(by_name[n].SerializeToString()) for n in names]
    del values[:]
    values.extend(ordered)
