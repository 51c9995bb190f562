"""Opens what a chain trains on and what it judges by."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from edgeferry_converter.comparison.accuracy import Metric, choose_output
from edgeferry_converter.compress import dataset, functions
from edgeferry_converter.compress.dataset import Columns, Target
from edgeferry_converter.compress.given import Given, words
from edgeferry_converter.compress.judging import Judge
from edgeferry_converter.compress.lessons import Lessons, predict
from edgeferry_converter.compress.network import BINARY, CROSS_ENTROPY, LOSSES, SQUARED, Network, Objective
from edgeferry_converter.compress.recipe import CompressRecipe, Train
from edgeferry_converter.quiet import foreign
from edgeferry_runtime.errors import DataError, UsageError
from edgeferry_runtime.tensors import Array

HELD_OUT = 10
"""One sample of so many is held out where nothing is given to judge by."""
LOOKED_AT = 256
"""How many samples tell whether an output is a distribution."""


@dataclass(frozen=True)
class School:
    """What a chain trains on, and what it judges by.

    Attributes:
        lessons: What is trained on.
        judge: What judges.
        objective: What is made small, before any teacher.
        notes: What was decided on the way.
    """

    lessons: Lessons
    judge: Judge
    objective: Objective
    notes: tuple[str, ...] = ()


def open_school(network: Network, recipe: CompressRecipe, given: Given, stack: ExitStack) -> School:
    """Read data and labels for a network.

    Args:
        network: What will be trained.
        recipe: With the metric, the output and the seed.
        given: With what to train on and to judge by.
        stack: Holds what the user's files need until all is done.

    Raises:
        DataError: If samples or labels do not fit; names the sample and the value.
        UsageError: If it is not clear what to train, or the metric does not fit the output.
    """
    output = choose_output(network.outputs, Metric(recipe.metric, recipe.metric_output, "metric_output"))
    where = words(given.data)
    files = functions.Files(stack)
    columns = _columns(where, _loaded(given.data, files))
    target = Target(output, _size(network, where, columns, output), recipe.metric)
    lessons = dataset.lessons(where, columns, network, target)
    judge = _judge(network, given.evaluate, target, files)
    notes: tuple[str, ...] = ()
    if judge is None:
        lessons, held = held_out(lessons, recipe.seed, where)
        judge = Judge(where, target, held)
        notes = (f"nothing is given to judge by: {len(held)} of {len(lessons) + len(held)} samples are held out",)
    if judge.metric == "top1" and target.size == 1:
        raise UsageError("metric top1", f"needs classes, and {output!r} is one value", 'say metric = "auc" or "mse"')
    return School(lessons, judge, objective(network, lessons, target), notes)


def held_out(lessons: Lessons, seed: int, where: str) -> tuple[Lessons, Lessons]:
    """Split a seeded tenth off, to judge by.

    Raises:
        DataError: If there are fewer than two samples.
    """
    if len(lessons) < 2:
        raise DataError(where, "holds one sample, and none can be held out to judge by", "give more, or --evaluate")
    order = np.random.default_rng(seed).permutation(len(lessons))
    count = max(1, len(lessons) // HELD_OUT)
    return _some(lessons, np.sort(order[count:])), _some(lessons, np.sort(order[:count]))


def objective(network: Network, lessons: Lessons, target: Target) -> Objective:
    """Choose the loss by the labels, and see whether the output is a distribution already."""
    loss = SQUARED if target.metric == "mse" else BINARY if target.size == 1 else CROSS_ENTROPY
    found = predict(network, lessons.first(LOOKED_AT).inputs, target.output)
    return Objective(loss, target.output, probabilities=loss != SQUARED and _is_distribution(found))


def with_train(general: Objective, train: Train) -> Objective:
    """Return a step's objective: with the loss and the smoothing that the recipe says.

    Raises:
        UsageError: If the loss does not fit the labels.
    """
    loss = general.loss if train.loss not in LOSSES else train.loss
    fits = {CROSS_ENTROPY: (CROSS_ENTROPY,), BINARY: (BINARY, SQUARED), SQUARED: (SQUARED,)}[general.loss]
    if loss not in fits:
        reason = f"does not fit the labels of {general.output!r}, which are for {general.loss}"
        raise UsageError(f"loss {loss}", reason, f"use {' or '.join(fits)}, or leave it out")
    return replace(general, loss=loss, label_smoothing=train.label_smoothing)


def _size(network: Network, where: str, columns: Columns, output: str) -> int:
    """Run the first sample, and count the values of its output."""
    first = dataset.inputs(where, {name: values[:1] for name, values in columns.items()}, network)
    return int(predict(network, first, output).size)


def _is_distribution(values: Array) -> bool:
    flat = values.reshape(len(values), -1)
    inside = bool((flat >= 0).all() and (flat <= 1 + 1e-6).all())
    return inside and (flat.shape[1] == 1 or bool(np.allclose(flat.sum(1), 1, atol=1e-3)))


def _some(lessons: Lessons, indices: Array) -> Lessons:
    batch = lessons.at(indices)
    return Lessons(batch.inputs, batch.truth)


def _loaded(given: object, files: functions.Files) -> object:
    """Return what was given, ``FILE.py:FUNCTION`` as the function."""
    return files.load(given) if isinstance(given, str) and functions.split(given) else given


def _columns(where: str, given: object) -> Columns:
    if not callable(given):
        return dataset.read(where, given)
    with foreign(where, "the function failed", "mend it", DataError):
        return dataset.read(where, given())


def _judge(network: Network, given: object, target: Target, files: functions.Files) -> Judge | None:
    if given is None:
        return None
    where, given = words(given), _loaded(given, files)
    if callable(given) and functions.needs_argument(where, given):
        return Judge(where, target, function=given)
    return Judge(where, target, dataset.lessons(where, _columns(where, given), network, target))
