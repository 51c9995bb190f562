"""Training for the grid by PT2E of torchao: the exported graph, with what the artifact stores quantized and back.

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeferry_converter.compress.grid import Grid, Moments, Ranges
from edgeferry_converter.compress.network import SETTLED_SAMPLES, Arrays, Feeds, Weight
from edgeferry_converter.compress.on_torch import annotating, exporting
from edgeferry_converter.compress.on_torch.folding import Folded, fold
from edgeferry_converter.compress.on_torch.network import TorchNetwork
from edgeferry_converter.quiet import foreign, require
from edgeferry_converter.sources.torch_lowering import named_outputs
from edgeferry_runtime.errors import ConversionError, UnknownNameError
from edgeferry_runtime.tensors import Array

if TYPE_CHECKING:
    from edgeferry_converter.compress.structure.graph import ChannelGraph

BATCH = 256
"""Samples that are calibrated on at once."""


def simulate(network: TorchNetwork, grid: Grid) -> TorchSimulated:
    """Return a copy of a network that computes with the artifact's integers.

    Raises:
        ConversionError: If it cannot be exported, PT2E refuses it, or it stores other floats than float32.
    """
    require(network.name, "torch", "torchao")
    _check_dtypes(network)
    folded = fold(network, exporting.export(network))
    graph = exporting.export(folded.network)
    exporting.check(network, graph)
    with foreign(network.name, "torchao could not prepare it", exporting.FIX):
        prepared = annotating.prepare(graph, folded.network, grid)
    apart = replace(folded, network=folded.network.clone())  # the graph has the parameters of what it was made of
    return TorchSimulated(apart, prepared)


def _check_dtypes(network: TorchNetwork) -> None:
    """Refuse what computes in half precision: the rules of the grid are those of float32."""
    import torch

    for name, parameter in network.module.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            reason = (
                f"stores {name} as {str(parameter.dtype).removeprefix('torch.')}, and trains for integers in float32"
            )
            raise ConversionError(network.name, reason, "call float() on the module in its factory")


class TorchSimulated(TorchNetwork):
    """An exported graph with fake quantizers; see `edgeferry_converter.compress.network.Simulated`.

    Kernels have the names that they had. Layers are those that the graph still tells apart.

    Attributes:
        kept: By layer, what is not simulated, and why.
    """

    def __init__(self, folded: Folded, prepared: annotating.Prepared) -> None:
        plain = folded.network
        super().__init__(plain.name, plain.call.with_module(prepared.module), (plain.inputs, plain.outputs))
        self._folded, self._prepared = folded, prepared
        self._samples: Arrays = {}
        self.kept: Mapping[str, str] = {**folded.kept, **prepared.kept}

    def layers(self) -> tuple[str, ...]:
        """Return the layers whose output the graph has; a folded normalization's is that of the layer before it."""
        known = self._nodes()
        return tuple(layer for layer in self._folded.network.layers() if layer in known)

    def weights(self) -> tuple[Weight, ...]:
        """Return the kernels, as the module has them."""
        return self._folded.network.weights()

    def parameters(self) -> int:
        """Count what the plain network stores."""
        return self._folded.network.parameters()

    def answers_and_features(self, feeds: Feeds, layers: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run one batch as the network stands; layers' outputs are those before the activation function."""
        if not layers:
            return super().answers_and_features(feeds, ())
        nodes = self._nodes()
        for layer in layers:
            if layer not in nodes:
                raise UnknownNameError(f"layer of {self.name}", layer, self.layers())
        answer, values = annotating.run(self.module, self.tensors(feeds), {nodes[layer] for layer in layers})
        found = {layer: values[nodes[layer]] for layer in layers}
        last = {layer: v.movedim(1, -1) if v.ndim > 2 else v for layer, v in found.items()}
        return named_outputs(self.name, answer), last

    def clone(self) -> TorchSimulated:
        """Return a copy."""
        made = TorchSimulated(self._folded, self._prepared.copied())
        made._samples = dict(self._samples)
        return made

    def calibrate(self, inputs: Arrays) -> None:
        """Set the ranges of activations to what they hold over samples."""
        self._samples = {name: values[:SETTLED_SAMPLES].copy() for name, values in inputs.items()}
        for layer, seen in self._watched(inputs).items():
            quantizer = self._prepared.activations()[layer]
            if not quantizer.fixed:
                quantizer.calibrate(min(one.low for one in seen), max(one.high for one in seen))

    def freeze(self) -> None:
        """Leave observed ranges as they are from here on."""
        for quantizer in self._prepared.activations().values():
            quantizer.watching.fill_(False)

    def settled(self) -> tuple[TorchNetwork, Ranges]:
        """Return the module itself, folded and on the grid, and the ranges of what it computes."""
        import torch

        trained = self.module.state_dict()
        network = self._folded.network.clone()
        values = {n: trained[n] for n in network.module.state_dict() if n in trained}
        for name, snapped in self._prepared.kernels().items():
            values[name] = snapped
        with torch.no_grad():
            network.module.load_state_dict(values, strict=False)
        return network, self._ranges()

    def save(self, folder: Path) -> Path:
        """Write what training has settled so far, as the plain network is written."""
        return self.settled()[0].save(folder)

    def channels(self) -> ChannelGraph:
        """Trace the plain network."""
        return self._folded.network.channels()

    def resized(self, state: Mapping[str, Array]) -> TorchNetwork:
        """Refuse, since an exported graph has its sizes in it."""
        raise ConversionError(self.name, "is being trained for the grid, and cannot be resized", "prune it before")

    def _nodes(self) -> dict[str, str]:
        """Return the node of each layer's output, folded normalization included."""
        nodes = self._prepared.nodes
        return nodes | {norm: nodes[layer] for norm, layer in self._folded.into.items() if layer in nodes}

    def _ranges(self) -> Ranges:
        ranged = {layer: one for layer, one in self._prepared.activations().items() if one.batches}
        bounds = {layer: quantizer.bounds() for layer, quantizer in ranged.items()}
        if not self._samples:
            return Ranges(ranges=bounds)
        seen = self._watched(self._samples)
        return Ranges(dict(self._samples), bounds, {layer: seen[layer][0] for layer in bounds})

    def _watched(self, inputs: Arrays) -> Mapping[str, list[Moments]]:
        """Run samples with float activations, and return the moments of each by layer and batch."""
        count = len(next(iter(inputs.values())))
        with self._prepared.watching() as found:
            for begin in range(0, count, BATCH):
                self.predict({name: values[begin : begin + BATCH] for name, values in inputs.items()})
            return found
