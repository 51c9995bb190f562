"""PyTorch modules as networks; see `edgeferry_converter.compress.network.Network`."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeferry_converter.compress import unopened
from edgeferry_converter.compress.network import Arrays, Batch, Course, Feeds, Objective, Weight
from edgeferry_converter.compress.on_torch.sizes import is_depthwise
from edgeferry_converter.quiet import foreign, require
from edgeferry_converter.sources import SourceSpec
from edgeferry_converter.sources.torch_lowering import TorchSource
from edgeferry_runtime.errors import UnknownNameError
from edgeferry_runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from edgeferry_converter.compress.grid import Grid
    from edgeferry_converter.compress.network import Simulated
    from edgeferry_converter.compress.on_torch.trainer import TorchTrainer
    from edgeferry_converter.compress.structure.graph import ChannelGraph
    from edgeferry_converter.sources.torch_lowering import Call


def open_network(spec: SourceSpec) -> TorchNetwork:
    """Call the factory and load its weights.

    Raises:
        EdgeferryError: As `edgeferry_converter.sources.factory.open_source` does.
    """
    from edgeferry_converter.sources.factory import open_source

    require(spec, "torch", "torch")
    source = open_source(spec)
    assert isinstance(source, TorchSource)
    network = TorchNetwork(str(spec), source.call, (source.inputs, source.outputs))
    network.origin = Origin(spec.path.resolve(), str(spec.factory), frozenset(network.module.state_dict()))
    return network


@dataclass(frozen=True)
class Origin:
    """The Python code that makes a module.

    Attributes:
        path: The file.
        factory: What is called in it.
        names: Those of the values that its module stores.
    """

    path: Path
    factory: str
    names: frozenset[str]


class TorchNetwork:
    """A module that is trained by a plain loop.

    Attributes:
        call: The module, with how it is called.
        masks: By kernel, what is held at zero.
        numbers: By module, the attributes that were changed since its factory made it; see `resizing`.
        origin: Its factory, if it was read from a file.
    """

    framework = "torch"

    def __init__(self, name: str, call: Call, borders: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]) -> None:
        self.name, self.call = name, call
        self.inputs, self.outputs = borders
        self.masks: dict[str, Any] = {}
        self.numbers: Mapping[str, Mapping[str, Any]] = {}
        self.origin: Origin | None = None

    @property
    def module(self) -> Any:
        """The ``nn.Module``."""
        return self.call.module

    def layers(self) -> tuple[str, ...]:
        """Return every module that has no parts."""
        return tuple(name for name, part in self.module.named_modules() if name and not list(part.children()))

    def weights(self) -> tuple[Weight, ...]:
        """Return the kernels of convolutions and linear layers; a kernel that two layers share is named once.

        A kernel that is computed from others, such as by weight normalization, is none.
        """
        from torch import nn

        found: dict[int, Weight] = {}
        for layer, part in self.module.named_modules():
            if not isinstance(part, nn.Linear | nn.modules.conv._ConvNd) or "weight" not in part._parameters:
                continue
            name, shape = f"{layer}.weight" if layer else "weight", tuple(part.weight.shape)
            kind, space = _kind(part), tuple(range(2, len(shape)))
            inputs = {"depthwise": space, "transposed": (0, *space)}.get(kind, (1, *space))
            outputs = (1,) if kind == "transposed" else (0,)
            found.setdefault(id(part.weight), Weight(name, layer, kind, shape, inputs, outputs))
        return tuple(found.values())

    def unprunable(self) -> dict[str, str]:
        """Return the modules that have tables of their own which are no kernel of `weights`."""
        listed = {id(self._parameter(weight.name)) for weight in self.weights()}
        return {
            layer or type(part).__name__: unopened.reason(type(part).__name__)
            for layer, part in self.module.named_modules()
            if any(unopened.is_table(p.shape) and id(p) not in listed for p in part.parameters(recurse=False))
        }

    def read(self, weight: str) -> Array:
        """Return the values of a kernel."""
        return array(self._parameter(weight))

    def write(self, weight: str, values: Array) -> None:
        """Set the values of a kernel."""
        import torch

        parameter = self._parameter(weight)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.array(values)))

    def mask(self, masks: Mapping[str, Array]) -> None:
        """Hold what is False at zero."""
        import torch

        self.masks = {
            name: torch.from_numpy(np.array(mask)).to(self._parameter(name).device) for name, mask in masks.items()
        }
        self.apply_masks()

    def apply_masks(self) -> None:
        """Set to zero what the masks hold there."""
        import torch

        with torch.no_grad():
            for name, mask in self.masks.items():
                self._parameter(name).mul_(mask)

    def parameters(self) -> int:
        """Count the values that are stored, without counters; those that have two names once."""
        tensors = {id(tensor): tensor for tensor in self.module.state_dict(keep_vars=True).values()}
        return sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())

    def predict(self, feeds: Feeds) -> Arrays:
        """Run one batch for inference."""
        with foreign(self.name, "the module failed"):
            self.module.eval()
            answers = self.call.answers(self.name, self.tensors(feeds))
            return {name: tensor.float().numpy(force=True) for name, tensor in answers.items()}

    def features(self, feeds: Feeds, layers: Sequence[str]) -> Arrays:
        """Run one batch for inference and return the outputs of layers, channels last."""
        import torch

        with torch.no_grad(), foreign(self.name, "the module failed"):
            self.module.eval()
            _, found = self.answers_and_features(feeds, layers)
            return {name: tensor.float().numpy(force=True) for name, tensor in found.items()}

    def answers_and_features(self, feeds: Feeds, layers: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run one batch as the module stands, with gradients; outputs by name, and layers' outputs, channels last.

        Of a layer that is called several times it is the last output, of one that returns several tensors the first.

        Raises:
            UnknownNameError: If there is no such layer.
        """
        from edgeferry_converter.sources.torch_lowering import named_outputs

        parts, found, hooks = dict(self.module.named_modules()), {}, []
        for layer in layers:
            if layer not in parts:
                raise UnknownNameError(f"layer of {self.name}", layer, self.layers())

            def keep(module: Any, arguments: Any, output: Any, layer: str = layer) -> None:
                first = output[0] if isinstance(output, tuple | list) else output
                found[layer] = channels_last(module, first)

            hooks.append(parts[layer].register_forward_hook(keep))
        try:
            return named_outputs(self.name, self.call(self.tensors(feeds))), found
        finally:
            for hook in hooks:
                hook.remove()

    def gradients(self, batches: Iterable[Batch], objective: Objective, weights: Collection[str]) -> Arrays:
        """Return the mean gradient of the objective for kernels."""
        import torch

        from edgeferry_converter.compress.on_torch.losses import Loss

        loss, count = Loss(self, objective), 0
        sums: dict[str, Any] = dict.fromkeys(weights, 0.0)
        tensors = [self._stored(name) for name in weights]
        self.module.eval()
        with _watched(tensors):
            for batch in batches:
                found = torch.autograd.grad(loss(batch), tensors, allow_unused=True, materialize_grads=True)
                sums = {name: sums[name] + array(value) for name, value in zip(weights, found, strict=True)}
                count += 1
        return {name: np.asarray(total) / max(1, count) for name, total in sums.items()}

    def trainer(self, course: Course) -> TorchTrainer:
        """Begin to train."""
        from edgeferry_converter.compress.on_torch.trainer import TorchTrainer

        return TorchTrainer(self, course)

    def state(self) -> Arrays:
        """Return parameters and buffers by name; bfloat16, which NumPy has not, as float32."""
        return {name: array(tensor) for name, tensor in self.module.state_dict().items()}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Set parameters and buffers."""
        import torch

        tensors = {name: torch.from_numpy(np.array(values)) for name, values in state.items()}
        with foreign(self.name, "the state does not fit the module"):
            self.module.load_state_dict(tensors)

    def clone(self) -> TorchNetwork:
        """Return a copy of the module."""
        return self.with_module(copy.deepcopy(self.module))

    def with_module(self, module: Any) -> TorchNetwork:
        """Return a network of another module that is called in the same way."""
        found = TorchNetwork(self.name, self.call.with_module(module), (self.inputs, self.outputs))
        found.numbers, found.origin = self.numbers, self.origin
        return found

    def save(self, folder: Path) -> Path:
        """Write the module as an exported program, ``model.pt2``, and its weights as ``weights.safetensors``."""
        from edgeferry_converter.compress.on_torch.saving import save

        return save(self, folder)

    def resized(self, state: Mapping[str, Array]) -> TorchNetwork:
        """Return a module of the same layers, as large as these values."""
        from edgeferry_converter.compress.on_torch.resizing import resize

        return resize(self, state)

    def channels(self) -> ChannelGraph:
        """Trace every channel through the exported graph."""
        from edgeferry_converter.compress.on_torch.channels import trace

        return trace(self)

    def simulated(self, grid: Grid) -> Simulated:
        """Return the module with fake quantization by PT2E."""
        require(self.name, "torch", "torchao.quantization.pt2e.fake_quantize")
        from edgeferry_converter.compress.on_torch.simulating import simulate

        return simulate(self, grid)

    def tensors(self, feeds: Feeds) -> tuple[Any, ...]:
        """Return a batch as tensors, in the order of the inputs, where the module's are."""
        import torch

        arrays = [np.require(feeds[spec.name], requirements=["C", "W"]) for spec in self.inputs]
        return tuple(torch.from_numpy(array).to(self.device) for array in arrays)

    def examples(self) -> tuple[Any, ...]:
        """Return the example inputs, where the module's parameters are."""
        return tuple(example.to(self.device) for example in self.call.examples)

    def batch(self) -> int:
        """Return how many samples the examples have."""
        return max([1, *(int(example.shape[0]) for example in self.call.examples[:1] if example.ndim)])

    @property
    def device(self) -> Any:
        """Where the module's parameters are."""
        import torch

        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    def _parameter(self, name: str) -> Any:
        return self.module.get_parameter(name)

    def _stored(self, name: str) -> Any:
        """Return a parameter or a buffer."""
        return self.module.state_dict(keep_vars=True)[name]


def _kind(part: Any) -> str:
    """Return what `Weight.kind` calls the kernel of a convolution or linear layer."""
    if not hasattr(part, "groups"):
        return "dense"
    if is_depthwise(part.weight.shape, part.groups, part.transposed):
        return "depthwise"
    return "transposed" if part.transposed else "convolution"


def channels_last(part: Any, output: Any) -> Any:
    """Return what a layer made with its channels last.

    Layers that work on the last axis have them there already. What a layer of neither kind made of three dimensions,
    such as an activation, is taken for tokens with channels last, of more dimensions for pictures with channels first.
    """
    from torch import nn

    last = isinstance(part, nn.Linear | nn.LayerNorm | nn.Embedding | nn.MultiheadAttention | nn.RNNBase)
    first = isinstance(part, nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase | nn.GroupNorm)
    pooled = type(part).__module__.endswith((".pooling", ".upsampling", ".padding", ".pixelshuffle"))
    if output.ndim < 3 or last or (output.ndim == 3 and not (first or pooled)):
        return output
    return output.movedim(1, -1)


def array(tensor: Any) -> Array:
    """Return a copy of a tensor as NumPy has it; bfloat16, which NumPy has not, as float32."""
    import torch

    plain = tensor.detach().cpu()
    values: Array = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy().copy()
    return values


@contextlib.contextmanager
def _watched(tensors: Iterable[Any]) -> Iterator[None]:
    """Let gradients come to tensors inside this block, also to those that are not trained."""
    frozen = [tensor for tensor in tensors if not tensor.requires_grad]
    for tensor in frozen:
        tensor.requires_grad_(True)
    try:
        yield
    finally:
        for tensor in frozen:
            tensor.requires_grad_(False)
