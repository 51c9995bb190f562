"""A Keras model's calls of layers, one by one, and a new model of the same calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeferry_converter.compress.on_keras.values import fill

if TYPE_CHECKING:
    from edgeferry_converter.compress.on_keras.network import KerasNetwork

Call = Callable[[Any, Any, tuple[Any, ...], dict[str, Any]], Any]
"""Takes the node of a call, its operation, and the arguments; returns what comes out."""


HALF = ("float16", "bfloat16")
"""What is too coarse for the rounding of an artifact to be simulated in it."""


def nodes(model: Any) -> Iterator[Any]:
    """Yield the calls that compute a model, in an order in which each can be done.

    Each has an ``operation``, ``input_tensors`` and ``outputs``.
    """
    levels = _graph(model)._nodes_by_depth
    for depth in sorted(levels, reverse=True):
        yield from (node for node in levels[depth] if node.operation and not node.is_input)


def replay(model: Any, inputs: Sequence[Any], call: Call) -> Any:
    """Do every call of a model again.

    Args:
        model: A functional or sequential model.
        inputs: What takes the place of its inputs, in their order.
        call: Does one call.

    Returns:
        What takes the place of its outputs, in the model's own structure.
    """
    import keras

    values = {id(old): new for old, new in zip(model.inputs, inputs, strict=True)}
    for node in nodes(model):
        if any(id(tensor) not in values for tensor in node.input_tensors):
            continue
        args, named = node.arguments.fill_in(values)
        found = keras.tree.flatten(call(node, node.operation, args, named))
        values.update((id(old), new) for old, new in zip(node.outputs, found, strict=True))
    return keras.tree.pack_sequence_as(_graph(model)._outputs_struct, [values[id(tensor)] for tensor in model.outputs])


def rebuild(model: Any, call: Call, enter: Callable[[Any], Any] | None = None) -> Any:
    """Return a model of the same inputs whose calls are done by `call`.

    Args:
        model: A functional or sequential model.
        call: Does one call.
        enter: What is done to each input before anything else.
    """
    import keras

    inputs = [keras.Input(batch_shape=i.shape, dtype=i.dtype, name=i.name) for i in model.inputs]
    entered = [enter(tensor) for tensor in inputs] if enter else inputs
    return keras.Model(
        keras.tree.pack_sequence_as(_inputs(model), inputs), replay(model, entered, call), name=model.name
    )


def flatten(network: KerasNetwork) -> tuple[Any, dict[str, str]]:
    """Return a copy of a network's model that has no models inside, and the name of each layer in it by its path.

    A layer keeps its own name where no other has it, else its path with underscores is its name.
    """
    parts = network.parts()
    own = [layer.name for _, layer in parts]
    names = {p: layer.name if own.count(layer.name) == 1 else p.replace("/", "_") for p, layer in parts}
    copies = {id(layer): copy(layer, names[path]) for path, layer in parts if not is_input(layer)}
    model = rebuild(network.model, _caller(copies))
    for _, layer in parts:
        if id(layer) in copies:
            fill(copies[id(layer)], layer.get_weights())
    return model, names


def copy(layer: Any, name: str) -> Any:
    """Return a layer of the same configuration under a name; it has no weights yet, and computes in 32 bits."""
    made = type(layer).from_config({**layer.get_config(), "name": name})
    made.trainable = layer.trainable
    if getattr(made, "compute_dtype", "") in HALF:
        made.dtype_policy = "float32"
    return made


def is_input(layer: Any) -> bool:
    """Tell whether a layer only stands for an input."""
    return type(layer).__name__ == "InputLayer"


def _caller(copies: Mapping[int, Any], training: bool | None = None) -> Call:
    """Return a call that goes into models, and calls the copies of layers."""
    import keras

    def call(node: Any, operation: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        held = named.get("training", training)
        if hasattr(operation, "layers") and hasattr(operation, "inputs"):
            return replay(operation, keras.tree.flatten(args), _caller(copies, held))
        if held is not None and getattr(operation, "_call_has_training_arg", False):
            named = {**named, "training": held}
        return copies.get(id(operation), operation)(*args, **named)

    return call


def _graph(model: Any) -> Any:
    return getattr(model, "_functional", None) or model


def _inputs(model: Any) -> Any:
    return _graph(model)._inputs_struct
