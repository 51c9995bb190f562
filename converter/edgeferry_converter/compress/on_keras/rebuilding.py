"""Builds a Keras model anew, layer by layer, with models inside that take what now arrives at them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Builder:
    """Makes models of the same calls from other layers.

    ``keras.models.clone_model`` gives every model inside the inputs that it had, whatever comes to it now.

    Args:
        again: Makes the new layer of an old one; it is asked once for each.
    """

    def __init__(self, again: Callable[[Any], Any]) -> None:
        self._again = again
        self._made: dict[int, Any] = {}

    def model(self, old: Any, arriving: Sequence[Any] = ()) -> Any:
        """Return the new model of an old one, functional or sequential, of the same name.

        Args:
            old: The model.
            arriving: What it is called with, whose last axes are those of its inputs; empty leaves them as they are.
        """
        import keras

        sequential = isinstance(old, keras.Sequential)
        new = self._sequential(old, arriving) if sequential else self._functional(old, arriving)
        if not old.trainable:
            new.trainable = False
        return new

    def _functional(self, old: Any, arriving: Sequence[Any]) -> Any:
        import keras

        inputs = keras.tree.pack_sequence_as(old._inputs_struct, _inputs(old, arriving))
        outputs = old._run_through_graph(inputs, call_fn=self._call)
        return keras.Model(inputs, outputs, name=old.name)

    def _sequential(self, old: Any, arriving: Sequence[Any]) -> Any:
        import keras

        inputs = _inputs(old, arriving)
        if not any(_has_layers(layer) for layer in old.layers):
            return keras.Sequential([*inputs, *(self._part(layer, ()) for layer in old.layers)], name=old.name)
        new = keras.Sequential(inputs, name=old.name)
        for layer in old.layers:
            new.add(self._part(layer, new.outputs if new.layers else inputs))
        return new

    def _call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        import keras

        tensors = [value for value in keras.tree.flatten(args) if isinstance(value, keras.KerasTensor)]
        return self._part(layer, tensors)(*args, **kwargs)

    def _part(self, layer: Any, arriving: Sequence[Any]) -> Any:
        if id(layer) not in self._made:
            self._made[id(layer)] = self.model(layer, arriving) if _has_layers(layer) else self._again(layer)
        return self._made[id(layer)]


def _has_layers(layer: Any) -> bool:
    return hasattr(layer, "layers") and hasattr(layer, "inputs")


def _inputs(old: Any, arriving: Sequence[Any]) -> list[Any]:
    """Return new inputs, each as wide as what arrives at it."""
    import keras

    shapes = [tuple(tensor.shape) for tensor in old.inputs]
    shapes = [(*shape[:-1], new.shape[-1]) for shape, new in zip(shapes, arriving, strict=True)] if arriving else shapes
    return [
        keras.Input(batch_shape=shape, dtype=tensor.dtype, name=tensor.name)
        for shape, tensor in zip(shapes, old.inputs, strict=True)
    ]
