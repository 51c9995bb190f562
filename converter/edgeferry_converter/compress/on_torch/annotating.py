"""Puts fake quantizers into an exported graph, through torchao's PT2E."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeferry_converter.compress import grid as grids
from edgeferry_converter.compress.grid import FLOAT_BITS, HIGHEST, LOWEST, Grid, Moments
from edgeferry_converter.compress.on_torch.fake_quantizers import Activation, Kernel
from edgeferry_converter.compress.on_torch.rewriting import argument, layer_of, operator
from edgeferry_converter.compress.on_torch.storing import KERNELS, Stored, stored
from edgeferry_converter.quiet import quiet

if TYPE_CHECKING:
    from edgeferry_converter.compress.on_torch.network import TorchNetwork


@dataclass(frozen=True)
class Prepared:
    """A graph with fake quantizers.

    Attributes:
        module: The ``GraphModule``.
        layers: By fake quantizer of an activation, the layer that the tensor is named after.
        by_kernel: By kernel, its fake quantizer.
        nodes: By layer, the node that gives its output.
        kept: By layer, what is not simulated, and why.
    """

    module: Any
    layers: dict[str, str]
    by_kernel: dict[str, str]
    nodes: dict[str, str]
    kept: dict[str, str]

    def copied(self) -> Prepared:
        """Return it with a module of its own."""
        with quiet():  # PyTorch warns of its own ways
            return replace(self, module=copy.deepcopy(self.module))

    def kernels(self) -> dict[str, Any]:
        """Return every kernel on its grid."""
        parts = ((name, self.module.get_submodule(target)) for name, target in self.by_kernel.items())
        return {name: quantizer.snapped(self.module.get_parameter(name)) for name, quantizer in parts}

    def activations(self) -> dict[str, Any]:
        """Return the fake quantizers of activations by layer."""
        return {layer: self.module.get_submodule(target) for target, layer in self.layers.items()}

    @contextlib.contextmanager
    def watching(self) -> Iterator[dict[str, list[Moments]]]:
        """Let activations pass as they are, and take their moments in every run."""
        found = self.activations()
        for quantizer in found.values():
            quantizer.seen = []
        try:
            yield {layer: quantizer.seen for layer, quantizer in found.items()}
        finally:
            for quantizer in found.values():
                quantizer.seen = None


def prepare(graph: Any, network: TorchNetwork, grid: Grid) -> Prepared:
    """Put fake quantizers where the artifact stores integers.

    Args:
        graph: What `exporting.export` made of the network; it is changed.
        network: Its normalization folded.
        grid: How the artifact stores them.
    """
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

    floats = {weight.name for weight in network.weights() if grid.bits_of(weight.name) == FLOAT_BITS}
    found = stored(graph.graph, floats) if grid.activations else Stored()
    quantizer = _quantizer(found, grid, floats)
    inputs = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
    named = _names(found, dict(zip(inputs, (spec.name for spec in network.inputs), strict=True)))
    nodes = {layer_of(node): node.name for node in graph.graph.nodes if layer_of(node) and node.op != "get_attr"}
    module = prepare_qat_pt2e(graph, quantizer)
    made = _finished(module, named, nodes, {**found.kept, **quantizer.kept})
    _learn(made)
    return made


def run(module: Any, tensors: Sequence[Any], wanted: Collection[str]) -> tuple[Any, dict[str, Any]]:
    """Run a graph and return its answer, and the values of nodes by name."""
    import torch

    values: dict[str, Any] = {}

    class Watching(torch.fx.Interpreter):  # type: ignore[misc]
        def run_node(self, n: Any) -> Any:
            value = super().run_node(n)
            if n.name in wanted:
                values[n.name] = value
            return value

    return Watching(module).run(*tensors), values


def _quantizer(found: Stored, grid: Grid, floats: Collection[str]) -> Any:
    """Return torchao's quantizer that annotates these tensors and kernels."""
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, Quantizer, SharedQuantizationSpec

    class Artifact(Quantizer):  # type: ignore[misc]
        def __init__(self) -> None:
            self.kept: dict[str, str] = {}

        def annotate(self, model: Any) -> Any:
            for node in model.graph.nodes:
                inputs = self._kernel(node) if operator(node) in KERNELS else {}
                output = self._output(node)
                if inputs or output is not None:
                    node.meta["quantization_annotation"] = QuantizationAnnotation(inputs, output, _annotated=True)
            return model

        def validate(self, model: Any) -> None:
            """Nothing to add: what is annotated was taken from the graph."""

        def _kernel(self, node: Any) -> dict[Any, Any]:
            kernel = node.args[1]
            name = str(kernel.target) if kernel.op == "get_attr" else ""
            if name in floats:
                return {}
            if not name:
                self.kept[layer_of(node) or node.name] = "its kernel is computed, and no stored value"
                return {}
            bits = grid.bits_of(name)
            if bits < 8 and operator(node) in ("conv1d", "conv2d") and kernel.meta["val"].shape[1] == 1:
                bits = 8
                if argument(node, "groups", 1) == 1:
                    self.kept[layer_of(node)] = "is stored as a depthwise convolution, whose weights keep 8 bits"
            groups = argument(node, "groups", 1) if "transpose" in operator(node) else 0
            largest = grids.LARGEST[bits]
            return {kernel: _spec(Kernel.with_args(bits=bits, groups=groups), -largest, largest)}

        def _output(self, node: Any) -> Any:
            if node in found.follows:
                return SharedQuantizationSpec(found.follows[node])
            if node not in found.own and node not in found.fixed:
                return None
            made = Activation.with_args(learned=grid.learned, fixed=found.fixed.get(node))
            return _spec(made, LOWEST, HIGHEST)

    return Artifact()


def _spec(constructor: Any, low: int, high: int) -> Any:
    import torch
    from torchao.quantization.pt2e.quantizer import QuantizationSpec

    return QuantizationSpec(torch.int8, constructor, low, high, torch.per_tensor_affine)


def _names(found: Stored, inputs: dict[str, str]) -> dict[str, str]:
    """Name each stored tensor after its module, or else after its node, by node; no name twice."""
    named = {node.name: inputs[node.name] for node in found.own if node.name in inputs}
    for node, anchor in [*found.own.items(), *((node, node) for node in found.fixed)]:
        if node.name in inputs:
            continue
        layer = layer_of(anchor) or layer_of(node)
        taken = not layer or layer in named.values()
        named[node.name] = node.name if taken else layer
    return named


def _finished(module: Any, named: dict[str, str], nodes: dict[str, str], kept: dict[str, str]) -> Prepared:
    """Let followers follow, forget what tracing left, and make a module whose ``train()`` and ``eval()`` work."""
    import torch

    layers: dict[str, str] = {}
    by_kernel: dict[str, str] = {}
    first: dict[int, str] = {}
    for node in module.graph.nodes:
        quantizer = module.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(quantizer, Kernel):
            by_kernel[node.args[0].target] = node.target
        elif isinstance(quantizer, Activation) and id(quantizer) in first:
            node.target, node.kwargs = first[id(quantizer)], {"follows": True}
        elif isinstance(quantizer, Activation):
            first[id(quantizer)] = node.target
            layers[node.target] = named[node.args[0].name]
    for node in module.graph.nodes:
        node.meta = {}
    made = torch.fx.GraphModule(module, module.graph)
    return Prepared(made, layers, by_kernel, nodes, kept)


def _learn(made: Prepared) -> None:
    """Train the scales of narrow kernels along."""
    for name, target in made.by_kernel.items():
        quantizer = made.module.get_submodule(target)
        if quantizer.bits < 8:
            quantizer.learn(made.module.get_parameter(name))
