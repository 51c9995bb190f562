"""The objective, in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeferry_converter.compress.logits import TINY
from edgeferry_converter.compress.network import ATTENTION, BINARY, CROSS_ENTROPY, LOGITS, Batch, Hint, Objective
from edgeferry_runtime.tensors import Array

if TYPE_CHECKING:
    from edgeferry_converter.compress.on_torch.network import TorchNetwork


class Loss:
    """Computes an objective of batches, with the gradients that lead to a network's parameters.

    Attributes:
        parameters: What is learned beside the network's own: the projections of hints.
    """

    def __init__(self, network: TorchNetwork, objective: Objective) -> None:
        self.network, self.objective = network, objective
        self._layers = [hint.layer for hint in objective.hints]
        self._projections = self._first_projections()
        self.parameters: list[Any] = [matrix for matrix in self._projections if matrix is not None]

    def __call__(self, batch: Batch) -> Any:
        """Return the loss of a batch: a scalar tensor, float32."""
        import torch

        outputs, features = self.network.answers_and_features(batch.inputs, self._layers)
        output = outputs[self.objective.output]
        with torch.autocast(output.device.type, enabled=False):
            return self._of(output.float(), {name: feature.float() for name, feature in features.items()}, batch)

    def _of(self, output: Any, features: dict[str, Any], batch: Batch) -> Any:
        objective = self.objective

        def told(values: Array) -> Any:
            return _tensor(values, output.device)

        scores = _scores(output, objective)
        loss = objective.hard * self._hard(scores, told(batch.truth)) if objective.hard else 0.0
        if objective.soft:
            loss = loss + objective.soft * _soft(scores, told(batch.taught[LOGITS]).float(), objective)
        for hint, projection in zip(objective.hints, self._projections, strict=True):
            feature = features[hint.layer] if projection is None else features[hint.layer] @ projection
            loss = loss + hint.weight * _unlike(hint, feature, told(batch.taught[hint.key]).float())
        return loss

    def _hard(self, scores: Any, truth: Any) -> Any:
        from torch.nn import functional as f

        objective = self.objective
        if objective.loss == CROSS_ENTROPY:
            return f.cross_entropy(scores, truth.long().reshape(-1), label_smoothing=objective.label_smoothing)
        truth = truth.to(scores.dtype).reshape(scores.shape)
        loss = f.binary_cross_entropy_with_logits if objective.loss == BINARY else f.mse_loss
        return loss(scores, truth)

    def _first_projections(self) -> list[Any]:
        """Return a learned matrix for each hint, None where the channels are as many as the teacher's."""
        import torch

        if not self._layers:
            return []
        call = self.network.call
        feeds = {s.name: t.numpy(force=True) for s, t in zip(self.network.inputs, call.examples, strict=True)}
        found = self.network.features(feeds, self._layers)
        device = next((p.device for p in self.network.module.parameters()), torch.device("cpu"))
        first = [hint.projection(found[hint.layer].shape[-1]) for hint in self.objective.hints]
        return [None if m is None else torch.nn.Parameter(_tensor(m, device)) for m in first]


def _tensor(values: Array, device: Any) -> Any:
    import torch

    return torch.from_numpy(np.require(values, requirements=["C", "W"])).to(device)


def _scores(output: Any, objective: Objective) -> Any:
    """Return the output as logits (or as values, where it is no classifier), of [batch, values]."""
    values = output.reshape(len(output), -1)
    if objective.loss == CROSS_ENTROPY and objective.probabilities:
        return values.clamp_min(TINY).log()
    return values.logit(TINY) if objective.loss == BINARY and objective.probabilities else values


def _soft(scores: Any, taught: Any, objective: Objective) -> Any:
    """Return the distance to the teacher's output.

    Of a classifier the divergence KL(teacher || student) at a temperature, times its square, so that gradients are as
    large at every temperature (Hinton, Vinyals and Dean 2015, section 2); else the mean squared difference.
    """
    from torch.nn import functional as f

    heat = objective.temperature
    if objective.loss == CROSS_ENTROPY:
        wanted, found = f.log_softmax(taught / heat, -1), f.log_softmax(scores / heat, -1)
        return heat**2 * f.kl_div(found, wanted, reduction="batchmean", log_target=True)
    if objective.loss == BINARY:
        parts = [
            (sign * taught / heat).sigmoid() * (f.logsigmoid(sign * taught / heat) - f.logsigmoid(sign * scores / heat))
            for sign in (1, -1)
        ]
        return heat**2 * (parts[0] + parts[1]).mean()
    return f.mse_loss(scores, taught)


def _unlike(hint: Hint, feature: Any, taught: Any) -> Any:
    """Return how unlike a layer is to the teacher's.

    Features: the mean squared difference (Romero et al. 2015, "FitNets", equation 3), here as a share of the teacher's
    mean square, so that a weight means the same for every layer. Attention: the squared distance of the normalized maps
    of squared activations (Zagoruyko and Komodakis 2017, section 3.1).
    """
    if hint.kind == ATTENTION:
        wanted, found = _unit(taught), _unit(feature.square().mean(-1))
        return (found - wanted).square().sum(-1).mean()
    return (feature - taught).square().mean() / taught.square().mean().clamp_min(TINY)


def _unit(maps: Any) -> Any:
    """Return each map as a vector of length one."""
    vectors = maps.reshape(len(maps), -1)
    return vectors * vectors.square().sum(-1, keepdim=True).clamp_min(TINY**2).rsqrt()
