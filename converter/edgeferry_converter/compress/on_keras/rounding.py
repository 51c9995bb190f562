"""Builds the simulation of a Keras model, call by call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from edgeferry_converter.compress.grid import FIXED, FLOAT_BITS, Grid
from edgeferry_converter.compress.on_keras import fakes
from edgeferry_converter.compress.on_keras.places import (
    GATED,
    LINEAR,
    OWN,
    ROUNDED,
    SAME,
    Place,
    activation_of,
    find,
    is_weighed,
)
from edgeferry_converter.compress.on_keras.values import fill
from edgeferry_converter.compress.on_keras.walking import copy, nodes, rebuild


class Rounding(NamedTuple):
    """One activation.

    Attributes:
        layer: The layer that rounds it.
        tensor: What it rounds.
    """

    layer: Any
    tensor: Any


class Builder:
    """Makes the model; what it made can then be found in its attributes.

    Attributes:
        roundings: By layer of the float model the rounding of its output. ``LAYER/linear`` is what comes before the
            activation of a layer, ``LAYER/sigmoid`` the gate of a SiLU, ``LAYER/1`` the output of its second call.
        kernels: By weight the wrapper that puts it on the grid.
        tensors: By layer its output.
    """

    def __init__(self, plain: Any, grid: Grid, axes: Mapping[str, tuple[int, ...]]) -> None:
        self._plain, self._grid, self._axes = plain, grid, axes
        self._places = find(plain) if grid.activations else {}
        self._taken = {layer.name for layer in plain.layers}
        self._copies: dict[int, Any] = {}
        self._grids: dict[int, Any] = {}
        self.roundings: dict[str, Rounding] = {}
        self.kernels: dict[str, Any] = {}
        self.tensors: dict[str, Any] = {}

    def build(self) -> Any:
        """Return the model, with the weights of the float one."""
        model = rebuild(self._plain, self._call, self._enter)
        originals = {id(node.operation): node.operation for node in nodes(self._plain)}
        for key, made in self._copies.items():
            fill(getattr(made, "inner", made), originals[key].get_weights())
        return model

    def _enter(self, tensor: Any) -> Any:
        if not self._grid.activations or not str(tensor.dtype).startswith("float"):
            return tensor
        was = next(old for old in self._plain.inputs if old.name == tensor.name)
        return self._rounded(tensor, tensor.name, was=was)

    def _call(self, node: Any, operation: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        place = self._places.get(id(node), Place(SAME))
        gated = self._grid.activations and activation_of(operation) == GATED
        made = args[0] if gated and not place.apart else self._made(node, place)(*args, **named)
        if place.apart:
            made = self._rounded(made, f"{operation.name}/{LINEAR}")
        if gated:
            made = self._gated(made, operation.name)
        elif place.apart:
            made = self._after(made, operation)
        if not isinstance(made, list | tuple):
            made = self._settled(node, place, made)
            self.tensors.setdefault(operation.name, made)
        return made

    def _settled(self, node: Any, place: Place, tensor: Any) -> Any:
        """Round what a call gives, where the artifact has it as a tensor."""
        if place.kind == OWN and str(tensor.dtype).startswith("float"):
            return self._rounded(tensor, node.operation.name, place.fixed, node.outputs[0])
        source = self._grids.get(id(node.input_tensors[0]))
        if source is not None and place.kind in (SAME, ROUNDED):
            self._grids[id(node.outputs[0])] = source
            if place.kind == ROUNDED:
                return fakes.Again(source, name=self._free(f"{node.operation.name}_range"))(tensor)
        return tensor

    def _rounded(self, tensor: Any, key: str, fixed: tuple[float, float] | None = None, was: Any = None) -> Any:
        """Round a tensor, which the float model has as `was`."""
        name = self._free(f"{key.replace('/', '_')}_range")
        layer = fakes.Rounding(self._grid.learned, fixed, name=name)
        made, count = key, 0
        while made in self.roundings:
            count += 1
            made = f"{key}/{count}"
        self.roundings[made] = Rounding(layer, tensor)
        self._grids[id(was)] = layer
        return layer(tensor)

    def _made(self, node: Any, place: Place) -> Any:
        """Return what does a call: a copy of the layer, wrapped if its kernel lies on the grid."""
        import keras

        operation = node.operation
        if not isinstance(operation, keras.layers.Layer):
            return operation
        if id(operation) not in self._copies:
            made = copy(operation, operation.name)
            if place.apart:
                made.activation = keras.activations.linear
            bits = self._grid.bits_of(f"{operation.name}/kernel")
            weighed = is_weighed(operation) and bits != FLOAT_BITS
            self._copies[id(operation)] = self._wrapped(node, made, bits) if weighed else made
        return self._copies[id(operation)]

    def _wrapped(self, node: Any, inner: Any, bits: int) -> Any:
        inner.build(node.input_tensors[0].shape)
        inner.set_weights(node.operation.get_weights())
        weight = f"{inner.name}/kernel"
        made = fakes.OnGrid(inner, bits, self._axes[weight], bits < 8, name=inner.name)
        self.kernels[weight] = made
        return made

    def _after(self, tensor: Any, operation: Any) -> Any:
        """Apply the activation of a layer as a layer of its own."""
        import keras

        name = self._free(f"{operation.name}_activation")
        return keras.layers.Activation(operation.activation, name=name)(tensor)

    def _gated(self, tensor: Any, name: str) -> Any:
        """Apply SiLU as the artifact does: a logistic operator, and a product."""
        import keras

        gate = keras.layers.Activation("sigmoid", name=self._free(f"{name}_sigmoid"))(tensor)
        rounded = self._rounded(gate, f"{name}/sigmoid", FIXED["sigmoid"])
        return keras.layers.Multiply(name=self._free(f"{name}_gated"))([tensor, rounded])

    def _free(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name
