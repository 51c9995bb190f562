"""A Keras model that computes as its quantized artifact will; see `edgeferry_converter.compress.network.Simulated`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_converter.compress.grid import NARROWEST, Grid, Moments, Ranges, moments, snap, weight_scale
from edgeferry_converter.compress.network import SETTLED_SAMPLES, Arrays, Simulated, Weight
from edgeferry_converter.compress.on_keras.folding import fold
from edgeferry_converter.compress.on_keras.network import KerasNetwork
from edgeferry_converter.compress.on_keras.places import strangers
from edgeferry_converter.compress.on_keras.rounding import Builder
from edgeferry_converter.compress.on_keras.walking import flatten
from edgeferry_converter.quiet import foreign
from edgeferry_runtime.errors import ConversionError, UnknownNameError
from edgeferry_runtime.tensors import Array

BATCH = 64
"""Samples that are calibrated on at once."""


def simulate(network: KerasNetwork, grid: Grid) -> KerasSimulated:
    """Return a network that computes as the artifact will: flat, normalization folded, with fake quantization.

    Args:
        network: Is not changed, and shares nothing with what comes out.
        grid: How the artifact will store it.

    Raises:
        ConversionError: If the model cannot be rewritten.
    """
    with foreign(network.name, "its layers could not be rewritten for quantization"):
        flat, names = flatten(network)
        folded, kept = fold(flat)
    renamed = {_renamed(weight, names): bits for weight, bits in grid.bits.items()}
    unknown = strangers(folded) if grid.activations else {}
    return KerasSimulated(network.name, folded, replace(grid, bits=renamed), unknown | kept)


def _renamed(weight: str, names: Mapping[str, str]) -> str:
    path, _, own = weight.rpartition("/")
    return f"{names.get(path, path)}/{own}"


class KerasSimulated(KerasNetwork):
    """A model with fake quantization.

    Attributes:
        plain: The float model that it was made of, a ``keras.Model`` with the weights of the beginning.
        grid: How the artifact will store it; names in it are those of `plain`.
        kept: By layer, why it is not simulated as a whole.
    """

    def __init__(self, name: str, plain: Any, grid: Grid, kept: Mapping[str, str]) -> None:
        self.plain, self.grid, self.kept = plain, grid, dict(kept)
        self._float = KerasNetwork(name, plain)
        self._axes = {weight.name: weight.outputs for weight in self._float.weights()}
        builder = Builder(plain, grid, self._axes)
        with foreign(name, "its layers could not be wrapped for quantization"):
            model = builder.build()
        super().__init__(name, model)
        self.inputs, self.outputs = self._float.inputs, self._float.outputs
        self._roundings, self._kernels, self._tensors = builder.roundings, builder.kernels, builder.tensors
        self._samples: Arrays = {}

    def layers(self) -> tuple[str, ...]:
        """Return the layers of the float model."""
        return self._float.layers()

    def weights(self) -> tuple[Weight, ...]:
        """Return the kernels: what is trained are the floats that are rounded."""
        return self._float.weights()

    def tensors_of(self, layers: Sequence[str]) -> list[Any]:
        """Return the symbolic outputs of layers, rounded as the artifact has them."""
        for layer in layers:
            if layer not in self._tensors:
                raise UnknownNameError(f"layer of {self.name}", layer, self.layers())
        return [self._tensors[layer] for layer in layers]

    def parameters(self) -> int:
        """Count the values that the float model stores."""
        return self._float.parameters()

    def calibrate(self, inputs: Arrays) -> None:
        """Set the ranges of activations to what they hold over samples."""
        self._samples = {name: values[:SETTLED_SAMPLES] for name, values in inputs.items()}
        if not self._roundings:
            return
        found: dict[str, tuple[float, float]] = {}
        for seen in self._seen(inputs):
            for key, values in seen.items():
                low, high = found.get(key, (np.inf, -np.inf))
                found[key] = min(low, float(values.min())), max(high, float(values.max()))
        for key, (low, high) in found.items():
            layer = self._roundings[key].layer
            if layer.fixed is None:
                layer.low.assign(low)
                layer.high.assign(high)

    def freeze(self) -> None:
        """Leave observed ranges as they are from here on."""
        for rounding in self._roundings.values():
            rounding.layer.watching.assign(0.0)

    def settled(self) -> tuple[KerasNetwork, Ranges]:
        """Return the plain model with its weights on the grid, and the ranges."""
        import keras

        plain, state = KerasNetwork(self.name, keras.models.clone_model(self.plain)), self.state()
        values = {name: state[name] for name in plain.state()}
        for weight in self._kernels:
            values[weight] = self.snapped(weight, state)
        plain.restore(values)
        return plain, Ranges(self._samples, self._bounds(), self._moments())

    def snapped(self, weight: str, state: Mapping[str, Array] | None = None) -> Array:
        """Return a kernel on its grid, float32."""
        state = self.state() if state is None else state
        values, axes, bits = state[weight], self._axes[weight], self.grid.bits_of(weight)
        layer, scale = weight.rpartition("/")[0], None
        if self._kernels[weight].learned:
            least = weight_scale(values, axes, bits) * np.float32(NARROWEST)
            scale = np.maximum(state[f"{layer}/scale"] * state[f"{layer}/share"], least)
        return snap(values, axes, bits, scale)

    def _bounds(self) -> dict[str, tuple[float, float]]:
        found = {}
        for key, rounding in self._roundings.items():
            low, high = (float(value) for value in rounding.layer.bounds())
            found[key] = min(low, 0.0), max(high, 0.0)
        return found

    def _moments(self) -> dict[str, Moments]:
        if not self._samples or not self._roundings:
            return {}
        parts = list(self._seen(self._samples))
        return {key: moments(np.concatenate([part[key] for part in parts])) for key in parts[0]}

    def _seen(self, inputs: Arrays) -> Iterator[Arrays]:
        """Run batches with float activations, and yield what each rounding would round."""
        import keras

        keys = list(self._roundings)
        model = keras.Model(self.model.inputs, [self._roundings[key].tensor for key in keys])
        count = len(next(iter(inputs.values())))
        with foreign(self.name, "the model failed"), self._floating():
            for begin in range(0, count, BATCH):
                answers = model([inputs[spec.name][begin : begin + BATCH] for spec in self.inputs], training=False)
                yield {key: np.asarray(value) for key, value in zip(keys, self._flat(answers), strict=True)}

    @contextmanager
    def _floating(self) -> Iterator[None]:
        """Let activations pass as they are."""
        for rounding in self._roundings.values():
            rounding.layer.off = True
        try:
            yield
        finally:
            for rounding in self._roundings.values():
                rounding.layer.off = False

    def clone(self) -> KerasSimulated:
        """Return a copy."""
        made = KerasSimulated(self.name, self.plain, self.grid, self.kept)
        made.restore(self.state())
        made._samples = self._samples
        return made

    def save(self, folder: Path) -> Path:
        """Write the settled model."""
        return self.settled()[0].save(folder)

    def simulated(self, grid: Grid) -> Simulated:
        """Settle, and begin anew."""
        return self.settled()[0].simulated(grid)

    def resized(self, state: Mapping[str, Array]) -> KerasNetwork:
        """Refuse: its sizes are settled."""
        raise ConversionError(self.name, "is being quantized, and cannot change its sizes", "prune before you quantize")

    def channels(self) -> Any:
        """Refuse: its sizes are settled."""
        raise ConversionError(self.name, "is being quantized, and cannot be pruned", "prune before you quantize")
