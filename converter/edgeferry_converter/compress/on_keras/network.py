"""Keras models as networks; see `edgeferry_converter.compress.network.Network`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeferry_converter.compress import unopened
from edgeferry_converter.compress.network import Arrays, Batch, Course, Feeds, Objective, Weight
from edgeferry_converter.compress.on_keras.values import array, refresh
from edgeferry_converter.quiet import foreign, require
from edgeferry_converter.sources import SourceSpec
from edgeferry_runtime.errors import ArtifactError, ConversionError, UnknownNameError
from edgeferry_runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from edgeferry_converter.compress.grid import Grid
    from edgeferry_converter.compress.network import Simulated
    from edgeferry_converter.compress.on_keras.trainer import KerasTrainer
    from edgeferry_converter.compress.structure.graph import ChannelGraph

KINDS = {
    "Conv1D": "convolution",
    "Conv2D": "convolution",
    "Conv3D": "convolution",
    "DepthwiseConv1D": "depthwise",
    "DepthwiseConv2D": "depthwise",
    "Conv1DTranspose": "transposed",
    "Conv2DTranspose": "transposed",
    "Dense": "dense",
    "EinsumDense": "dense",
}
"""The layers that have a kernel, and what `Weight.kind` calls it."""


def open_network(spec: SourceSpec) -> KerasNetwork:
    """Load a model of Keras 3 by its own loader, without executing code from the file.

    Raises:
        ArtifactError: If only Keras 2 can read it, or it has no graph of layers.
        EdgeferryError: As `edgeferry_converter.sources.keras.open_source` does.
    """
    from edgeferry_converter.sources import keras as source

    require(spec, "keras", "tensorflow")
    opened = source.load_model(spec)
    if opened.framework != "keras":
        fix = "load it with Keras 2, and save its layers again with Keras 3"
        raise ArtifactError(spec, "can be read by Keras 2 alone, which Keras 3 cannot train", fix)
    return KerasNetwork(str(spec), opened.model)


class KerasNetwork:
    """A functional or sequential model that is trained by ``fit``.

    Attributes:
        model: The ``keras.Model``.
    """

    framework = "keras"

    def __init__(self, name: str, model: Any) -> None:
        from edgeferry_converter.sources.keras import input_specs, output_specs

        self.name, self.model = name, model
        self.inputs: tuple[TensorSpec, ...] = input_specs(model)
        self.outputs: tuple[TensorSpec, ...] = output_specs(model)
        self.masks: dict[str, Any] = {}
        if not hasattr(model, "layers") or not all(hasattr(layer, "output") for layer in model.layers):
            raise ArtifactError(name, "has no graph of layers", "build it as a functional or sequential model")

    def layers(self) -> tuple[str, ...]:
        """Return every layer but the inputs."""
        return tuple(path for path, layer in self.parts() if type(layer).__name__ != "InputLayer")

    def parts(self) -> list[tuple[str, Any]]:
        """Return every layer that has no layers inside, with its path: names of models around it, and its own."""
        found: list[tuple[str, Any]] = []

        def walk(model: Any, prefix: str) -> None:
            for layer in model.layers:
                if hasattr(layer, "layers") and hasattr(layer, "inputs"):
                    walk(layer, f"{prefix}{layer.name}/")
                else:
                    found.append((prefix + layer.name, layer))

        walk(self.model, "")
        return found

    def weights(self) -> tuple[Weight, ...]:
        """Return the kernels; one that two layers share is named once."""
        found: dict[int, Weight] = {}
        for path, layer in self.parts():
            kernel, kind = getattr(layer, "kernel", None), KINDS.get(type(layer).__name__)
            if kernel is None or kind is None:
                continue
            inputs, outputs = _axes(layer, kind)
            found.setdefault(id(kernel), Weight(f"{path}/kernel", path, kind, tuple(kernel.shape), inputs, outputs))
        return tuple(found.values())

    def unprunable(self) -> dict[str, str]:
        """Return the layers that have tables which are no kernel of `weights`."""
        layers, variables = {weight.layer for weight in self.weights()}, self._variables()
        listed = {id(variables[weight.name]) for weight in self.weights()}
        return {
            path: unopened.reason(type(layer).__name__)
            for path, layer in self.parts()
            if path not in layers and any(unopened.is_table(v.shape) and id(v) not in listed for v in layer.weights)
        }

    def read(self, weight: str) -> Array:
        """Return the values of a kernel."""
        return array(self._variable(weight))

    def write(self, weight: str, values: Array) -> None:
        """Set the values of a kernel."""
        self._variable(weight).assign(values)

    def mask(self, masks: Mapping[str, Array]) -> None:
        """Hold what is False at zero."""
        import tensorflow as tf

        variables = self._variables()
        self.masks = {name: tf.constant(mask, variables[name].dtype) for name, mask in masks.items()}
        self.apply_masks()

    def apply_masks(self) -> None:
        """Set to zero what the masks hold there."""
        variables = self._variables() if self.masks else {}
        for name, mask in self.masks.items():
            variables[name].assign(variables[name].value * mask)

    def parameters(self) -> int:
        """Count the values that are stored."""
        return sum(values.size for values in self.state().values() if values.dtype.kind == "f")

    def predict(self, feeds: Feeds) -> Arrays:
        """Run one batch for inference."""
        with foreign(self.name, "the model failed"):
            answers = self._flat(self.model(self.structured(feeds), training=False))
            return {spec.name: np.asarray(a, np.float32) for spec, a in zip(self.outputs, answers, strict=True)}

    def features(self, feeds: Feeds, layers: Sequence[str]) -> Arrays:
        """Run one batch for inference and return the outputs of layers, channels last."""
        import keras

        tensors = self.tensors_of(layers)
        with foreign(self.name, "the model failed"):
            model = keras.Model(self.model.inputs, {str(i): tensor for i, tensor in enumerate(tensors)})
            answers = model([feeds[s.name] for s in self.inputs], training=False)
            found = [answers[str(i)] for i in range(len(tensors))]
            return {name: np.asarray(value, np.float32) for name, value in zip(layers, found, strict=True)}

    def tensors_of(self, layers: Sequence[str]) -> list[Any]:
        """Return the symbolic outputs of layers.

        Raises:
            UnknownNameError: If there is no such layer.
            ConversionError: If it is inside of another model, whose tensors cannot be reached from here.
        """
        parts = dict(self.parts())
        for layer in layers:
            if layer not in parts:
                raise UnknownNameError(f"layer of {self.name}", layer, self.layers())
            if "/" in layer:
                reason = f"its layer {layer!r} is inside of another model"
                raise ConversionError(self.name, reason, "name a layer of the model itself")
        return [parts[layer].output for layer in layers]

    def gradients(self, batches: Iterable[Batch], objective: Objective, weights: Collection[str]) -> Arrays:
        """Return the mean gradient of the objective for kernels."""
        import tensorflow as tf

        from edgeferry_converter.compress.on_keras.losses import Loss

        loss, count = Loss(self, objective), 0
        sums: dict[str, Any] = dict.fromkeys(weights, 0.0)
        variables = [self._variable(name).value for name in weights]
        for batch in batches:
            with tf.GradientTape() as tape:
                tape.watch(variables)
                value = loss.of(batch, training=False)
            found = tape.gradient(value, variables, unconnected_gradients="zero")
            for name, gradient in zip(weights, found, strict=True):
                sums[name] = sums[name] + array(tf.convert_to_tensor(gradient))
            count += 1
        return {name: np.asarray(total) / max(1, count) for name, total in sums.items()}

    def trainer(self, course: Course) -> KerasTrainer:
        """Begin to train."""
        from edgeferry_converter.compress.on_keras.trainer import KerasTrainer

        return KerasTrainer(self, course)

    def state(self) -> Arrays:
        """Return every variable by its layer's path and own name; bfloat16, which NumPy has not, as float32."""
        return {name: array(variable) for name, variable in self._variables().items()}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Set every variable."""
        with foreign(self.name, "the state does not fit the model"):
            for name, variable in self._variables().items():
                variable.assign(state[name])
            for _, layer in self.parts():
                refresh(layer)

    def names(self) -> dict[int, str]:
        """Return by the identity of each variable what `state` calls it."""
        return {id(variable): name for name, variable in self._variables().items()}

    def clone(self) -> KerasNetwork:
        """Return a copy of the model."""
        import keras

        model = keras.models.clone_model(self.model)
        copied = self.with_model(model)
        copied.restore(self.state())
        return copied

    def with_model(self, model: Any) -> KerasNetwork:
        """Return a network of another model."""
        return KerasNetwork(self.name, model)

    def save(self, folder: Path) -> Path:
        """Write the model as ``model.keras``."""
        path = folder / "model.keras"
        with foreign(self.name, "Keras could not save it"):
            self.model.save(path)
        return path

    def resized(self, state: Mapping[str, Array]) -> KerasNetwork:
        """Return a model of the same layers, as large as these values."""
        from edgeferry_converter.compress.on_keras.resizing import resize

        return resize(self, state)

    def channels(self) -> ChannelGraph:
        """Trace every channel through the graph of layers."""
        from edgeferry_converter.compress.on_keras.channels import trace

        return trace(self)

    def simulated(self, grid: Grid) -> Simulated:
        """Return the model with wrapped layers that compute as the artifact will."""
        from edgeferry_converter.compress.on_keras.simulating import simulate

        return simulate(self, grid)

    def structured(self, feeds: Feeds) -> Any:
        """Return a batch in the structure that the model takes."""
        import tensorflow as tf

        arrays = [tf.convert_to_tensor(feeds[spec.name]) for spec in self.inputs]
        return tf.nest.pack_sequence_as(getattr(self.model, "input", self.model.inputs[0]), arrays)

    @staticmethod
    def _flat(answer: Any) -> list[Any]:
        import tensorflow as tf

        return list(tf.nest.flatten(answer))

    def _variable(self, name: str) -> Any:
        return self._variables()[name]

    def _variables(self) -> dict[str, Any]:
        """Return every variable of the layers by name; several of one name are numbered."""
        found: dict[str, Any] = {}
        seen: set[int] = set()
        for path, layer in self.parts():
            for variable in layer.weights:
                if id(variable) in seen:
                    continue
                seen.add(id(variable))
                inside = _inside(layer, variable)
                name, count = f"{path}/{inside}", 1
                while name in found:
                    count += 1
                    name = f"{path}/{inside}_{count}"
                found[name] = variable
        return found


def _inside(layer: Any, variable: Any) -> str:
    """Return the path of a variable from its layer on, whatever the models and layers around it are called."""
    path = f"/{variable.path}"
    if path.endswith(f"/{layer.name}/{variable.name}"):
        return str(variable.name)
    return path.partition(f"/{layer.name}/")[2] or str(variable.name)


def _axes(layer: Any, kind: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the axes of a kernel that are summed over, and those of output channels."""
    axes = tuple(range(len(layer.kernel.shape)))
    if kind == "depthwise":
        return axes[:-2], axes[-2:]
    if kind == "transposed":
        return (*axes[:-2], axes[-1]), (axes[-2],)
    if hasattr(layer, "equation"):
        taken, _, given = layer.equation.partition("->")
        letters = taken.partition(",")[2].strip()
        outputs = tuple(axis for axis, letter in zip(axes, letters, strict=True) if letter in given)
        return tuple(axis for axis in axes if axis not in outputs), outputs
    return axes[:-1], axes[-1:]
