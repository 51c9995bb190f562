"""The objective, in Keras."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeferry_converter.compress.logits import TINY
from edgeferry_converter.compress.network import ATTENTION, BINARY, CROSS_ENTROPY, LOGITS, Batch, Hint, Objective

if TYPE_CHECKING:
    from edgeferry_converter.compress.on_keras.network import KerasNetwork


class Loss:
    """Computes an objective of batches; see `edgeferry_converter.compress.network.Objective`.

    Attributes:
        model: A model of the network's inputs, whose outputs are the trained one and the layers of hints, projected.
        variables: What is learned beside the network's own: the projections of hints.
    """

    def __init__(self, network: KerasNetwork, objective: Objective) -> None:
        import keras

        self.network, self.objective = network, objective
        output = network.model.outputs[[spec.name for spec in network.outputs].index(objective.output)]
        self.variables: list[Any] = []
        tensors = network.tensors_of([hint.layer for hint in objective.hints])
        hints = [self._projected(*pair) for pair in zip(objective.hints, tensors, strict=True)]
        self.model = keras.Model(network.model.inputs, [output, *hints])

    def of(self, batch: Batch, *, training: bool) -> Any:
        """Run the network on a batch and return the loss: a scalar tensor."""
        inputs = [batch.inputs[spec.name] for spec in self.network.inputs]
        answers = self.model(inputs, training=training)
        return self(list(answers) if isinstance(answers, list | tuple) else [answers], self.told(batch))

    def told(self, batch: Batch) -> dict[str, Any]:
        """Return what a batch says beside its inputs."""
        return {"truth": np.asarray(batch.truth), **batch.taught}

    def __call__(self, answers: list[Any], told: dict[str, Any]) -> Any:
        """Return the loss of what `model` answered: a scalar tensor, float32."""
        from keras import ops

        objective = self.objective
        output, *features = [ops.cast(answer, "float32") for answer in answers]
        scores = _scores(output, objective)
        loss = objective.hard * self._hard(scores, told["truth"]) if objective.hard else 0.0
        if objective.soft:
            loss += objective.soft * _soft(scores, ops.cast(told[LOGITS], "float32"), objective)
        for hint, feature in zip(objective.hints, features, strict=True):
            loss += hint.weight * _unlike(hint, feature, ops.cast(told[hint.key], "float32"))
        return loss

    def _hard(self, scores: Any, truth: Any) -> Any:
        from keras import ops

        objective = self.objective
        if objective.loss == CROSS_ENTROPY:
            classes = scores.shape[-1]
            target = ops.one_hot(ops.cast(ops.reshape(truth, (-1,)), "int32"), classes)
            target = target * (1 - objective.label_smoothing) + objective.label_smoothing / classes
            return -ops.mean(ops.sum(target * ops.log_softmax(scores), -1))
        truth = ops.reshape(ops.cast(truth, "float32"), ops.shape(scores))
        if objective.loss == BINARY:
            return ops.mean(ops.binary_crossentropy(truth, scores, from_logits=True))
        return ops.mean(ops.square(scores - truth))

    def _projected(self, hint: Hint, tensor: Any) -> Any:
        """Put a learned matrix behind a layer whose channels are not as many as the teacher's."""
        import keras

        first = hint.projection(tensor.shape[-1])
        if first is None:
            return tensor
        projection = keras.layers.Dense(
            hint.channels, use_bias=False, dtype="float32", name=f"edgeferry_projection_{len(self.variables)}"
        )
        projected = projection(tensor)
        projection.kernel.assign(first)
        self.variables.append(projection.kernel)
        return projected


def _scores(output: Any, objective: Objective) -> Any:
    """Return the output as logits (or as values, where it is no classifier), of [batch, values]."""
    from keras import ops

    values = ops.reshape(output, (-1, math.prod(output.shape[1:])))
    if objective.loss == CROSS_ENTROPY and objective.probabilities:
        return ops.log(ops.maximum(values, TINY))
    if objective.loss == BINARY and objective.probabilities:
        values = ops.clip(values, TINY, 1 - TINY)
        return ops.log(values) - ops.log1p(-values)
    return values


def _soft(scores: Any, taught: Any, objective: Objective) -> Any:
    """Return the distance to the teacher's output.

    Of a classifier the divergence KL(teacher || student) at a temperature, times its square, so that gradients are as
    large at every temperature (Hinton, Vinyals and Dean 2015, section 2); else the mean squared difference.
    """
    from keras import ops

    heat = objective.temperature
    if objective.loss == CROSS_ENTROPY:
        wanted, found = ops.log_softmax(taught / heat), ops.log_softmax(scores / heat)
        return heat**2 * ops.mean(ops.sum(ops.exp(wanted) * (wanted - found), -1))
    if objective.loss == BINARY:
        parts = [
            ops.sigmoid(sign * taught / heat)
            * (ops.log_sigmoid(sign * taught / heat) - ops.log_sigmoid(sign * scores / heat))
            for sign in (1, -1)
        ]
        return heat**2 * ops.mean(sum(parts))
    return ops.mean(ops.square(scores - taught))


def _unlike(hint: Hint, feature: Any, taught: Any) -> Any:
    """Return how unlike a layer is to the teacher's.

    Features: the mean squared difference (Romero et al. 2015, "FitNets", equation 3), here as a share of the teacher's
    mean square, so that a weight means the same for every layer. Attention: the squared distance of the normalized maps
    of squared activations (Zagoruyko and Komodakis 2017, section 3.1).
    """
    from keras import ops

    if hint.kind == ATTENTION:
        wanted, found = _unit(taught), _unit(ops.mean(ops.square(feature), -1))
        return ops.mean(ops.sum(ops.square(found - wanted), -1))
    return ops.mean(ops.square(feature - taught)) / ops.maximum(ops.mean(ops.square(taught)), TINY)


def _unit(maps: Any) -> Any:
    """Return each map as a vector of length one."""
    from keras import ops

    vectors = ops.reshape(maps, (ops.shape(maps)[0], -1))
    return vectors * ops.rsqrt(ops.maximum(ops.sum(ops.square(vectors), -1, keepdims=True), TINY**2))
