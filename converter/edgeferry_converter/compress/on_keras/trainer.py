"""``fit`` of Keras, one epoch at a time."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeferry_converter.compress.network import Arrays, Batch, Course, check_trained
from edgeferry_converter.compress.on_keras.losses import Loss
from edgeferry_converter.compress.on_keras.mixing import mixed, wanted
from edgeferry_converter.compress.on_keras.values import array
from edgeferry_converter.compress.rates import learning_rate
from edgeferry_converter.quiet import foreign
from edgeferry_runtime.errors import TrainingError
from edgeferry_runtime.tensors import Array

if TYPE_CHECKING:
    from edgeferry_converter.compress.on_keras.network import KerasNetwork

EPSILON = 1e-8
"""Of Adam, as in its paper and in PyTorch (Kingma and Ba 2015, algorithm 1)."""


class KerasTrainer:
    """A model in training; see `edgeferry_converter.compress.network.Trainer`.

    What is random in layers, such as dropout, depends on the course's seed and the steps so far alone, so that training
    that goes on from a checkpoint is the same as training that never stopped.
    """

    def __init__(self, network: KerasNetwork, course: Course) -> None:
        self._network, self._course, self.steps = network, course, 0
        self._loss = Loss(network, course.objective)
        decay = 0.0 if course.train.optimizer == "adamw" else course.train.weight_decay
        self._student = _student(self._loss, decay)
        check_trained(network.name, network.model.trainable_variables)
        self._student.compile(optimizer=_optimizer(course), loss=None)
        self._student.optimizer.build(self._student.trainable_variables)
        self._bits = mixed if wanted(course.train, network) else contextlib.nullcontext

    def epoch(self, batches: Iterable[Batch], after_step: Callable[[int], None]) -> float:
        """Take one step for each batch."""
        callback = _callback(self, after_step)
        with foreign(self._network.name, "Keras could not train it"), self._bits(self._network):
            self._sow()
            dataset = _dataset(self._loss, batches)
            history = self._student.fit(dataset, epochs=1, verbose=0, shuffle=False, callbacks=[callback])
        return float(history.history["loss"][-1])

    def _sow(self) -> None:
        """Set what layers take their random numbers from."""
        stored = {id(variable) for variable in self._student.weights}
        seeds = [variable for variable in self._student.variables if id(variable) not in stored]
        random = np.random.default_rng((self._course.seed, self.steps))
        for seed in seeds:
            seed.assign(random.integers(0, 2**31, tuple(seed.shape)))

    def rate(self) -> float:
        """Return the learning rate of the next step."""
        return learning_rate(self._course.train, self.steps, self._course.steps)

    def stepped(self, loss: float) -> None:
        """Count a step, and hold at zero what is masked.

        Raises:
            TrainingError: If the loss is not finite.
        """
        self.steps += 1
        if not math.isfinite(loss):
            reason = f"the loss is {loss} in step {self.steps}"
            raise TrainingError(self._network.name, reason, "lower the learning rate, or give clip_norm")
        self._network.apply_masks()

    def state(self) -> Arrays:
        """Return the optimizer's variables and those of the loss, and the steps."""
        found: Arrays = {"steps": np.array(self.steps)}
        return found | {str(i): array(v) for i, v in enumerate(self._variables())}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go on."""
        self.steps = int(state["steps"])
        for i, variable in enumerate(self._variables()):
            variable.assign(state[str(i)])

    def _variables(self) -> list[Any]:
        return [*self._student.optimizer.variables, *self._loss.variables]


def _student(loss: Loss, decay: float) -> Any:
    """Return a model whose loss is ours, with an L2 penalty: it shares every variable with the network."""
    import keras

    class Student(keras.Model):  # type: ignore[misc]
        def compute_loss(
            self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
        ) -> Any:
            answers = list(y_pred) if isinstance(y_pred, list | tuple) else [y_pred]
            penalty = sum(keras.ops.sum(keras.ops.square(v)) for v in self.trainable_variables) if decay else 0
            return loss(answers, y) + sum(self.losses) + decay / 2 * penalty

    return Student(loss.model.inputs, loss.model.outputs)


def _callback(trainer: KerasTrainer, after_step: Callable[[int], None]) -> Any:
    import keras

    class EachStep(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.model.optimizer.learning_rate = trainer.rate()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            trainer.stepped(float(logs["loss"]))
            after_step(trainer.steps)

    return EachStep()


def _dataset(loss: Loss, batches: Iterable[Batch]) -> Any:
    """Return the batches as ``fit`` takes them; each is made when it is asked for, and none is made ahead."""
    import tensorflow as tf

    rows = ((tuple(b.inputs[s.name] for s in loss.network.inputs), loss.told(b)) for b in batches)
    first = next(rows)
    spec = tf.nest.map_structure(lambda values: tf.TensorSpec((None, *values.shape[1:]), values.dtype), first)
    dataset = tf.data.Dataset.from_generator(lambda: itertools.chain([first], rows), output_signature=spec)
    options = tf.data.Options()
    options.autotune.enabled = options.experimental_optimization.inject_prefetch = False
    return dataset.with_options(options)


def _optimizer(course: Course) -> Any:
    import keras

    train = course.train
    own: dict[str, Any] = {"learning_rate": train.rate, "global_clipnorm": train.clip_norm}
    if train.optimizer == "sgd":
        return keras.optimizers.SGD(momentum=train.momentum, **own)
    if train.optimizer == "adamw":
        return keras.optimizers.AdamW(epsilon=EPSILON, weight_decay=train.weight_decay, **own)
    return keras.optimizers.Adam(epsilon=EPSILON, **own)
