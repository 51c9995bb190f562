"""The loop of epochs that every step goes through, whatever its method and framework."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgeferry_converter.compress.history import Epoch
from edgeferry_converter.compress.lessons import Lessons
from edgeferry_converter.compress.methods import Work
from edgeferry_converter.compress.network import Arrays, Course, Network
from edgeferry_converter.quiet import foreign
from edgeferry_runtime.errors import TrainingError


@dataclass(frozen=True)
class Event:
    """What a chain is doing, for whoever watches.

    Attributes:
        step: The name of the step; empty before the first.
        doing: ``open``, ``train``, ``measure``, ``write``, ``note`` or ``end``.
        done: Optimizer steps so far.
        of: How many there will be.
        loss: Of the last epoch; None before one has ended.
        score: The metric after the last epoch, or after the step.
        text: What is to be said, of a ``note``.
        seconds: How long the step took, at its ``end``.
    """

    step: str
    doing: str
    done: int = 0
    of: int = 0
    loss: float | None = None
    score: float | None = None
    text: str = ""
    seconds: float | None = None


Watch = Callable[[Event], None]


@dataclass(frozen=True)
class Lap:
    """A training after some epoch: all that is needed to go on exactly.

    Attributes:
        epochs: What has been.
        network: Its `state`.
        trainer: Likewise.
        work: Likewise.
    """

    epochs: tuple[Epoch, ...] = ()
    network: Arrays = field(default_factory=dict)
    trainer: Arrays = field(default_factory=dict)
    work: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What is trained, on what.

    Attributes:
        name: Of the step.
        work: The method at work.
        lessons: The samples.
        course: How.
        seed: Of the step.
        score: Judges after each epoch.
        save: Keeps a lap.
        watch: Is told.
    """

    name: str
    work: Work
    lessons: Lessons
    course: Course
    seed: int
    score: Callable[[Network], float]
    save: Callable[[Lap], None]
    watch: Watch


def train(job: Job, begun: Lap | None = None) -> tuple[tuple[Epoch, ...], str]:
    """Train to the last epoch; its weights are kept, not those of the best, since schedules end there.

    Args:
        job: What.
        begun: Where an earlier run has come to. Going on from there gives what an uninterrupted training gives.

    Returns:
        The epochs, and why it ended early, empty where it did not: then the network is as after the last good epoch.

    Raises:
        TrainingError: If the loss is not finite in the first epoch.
    """
    if job.course.train.epochs == 0:
        return (), ""
    trainer = job.work.network.trainer(job.course)
    lap = begun
    if begun:
        _restore(job, trainer, begun)
    for number in range(len(begun.epochs) + 1 if begun else 1, job.course.train.epochs + 1):
        try:
            epoch = _epoch(job, trainer, number)
            state = _finite(job.work.network)
        except TrainingError as error:
            if lap is None:
                raise
            _restore(job, trainer, lap)
            return lap.epochs, f"{error.reason} (epoch {number})"
        epochs = (*(lap.epochs if lap else ()), epoch)
        lap = Lap(epochs, state, trainer.state(), job.work.state())
        job.save(lap)
    return (lap.epochs if lap else ()), ""


def _epoch(job: Job, trainer: Any, number: int) -> Epoch:
    begin, train = time.perf_counter(), job.course.train
    batches = job.lessons.shuffled(train.batch_size, job.seed, number)
    event = Event(job.name, "train", of=job.course.steps)

    def after_step(step: int) -> None:
        job.work.after_step(step)
        job.watch(replace(event, done=step))

    with foreign(job.work.network.name, "it could not be trained"):
        loss = trainer.epoch(batches, after_step)
    score = job.score(job.work.network)
    job.watch(replace(event, done=number * len(batches), loss=loss, score=score))
    return Epoch(number, loss, score, time.perf_counter() - begin)


def _finite(network: Network) -> Arrays:
    """Return the state of a network whose values all are numbers.

    Raises:
        TrainingError: If one is not.
    """
    state = network.state()
    for name, values in state.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            reason = f"{name} is no longer finite"
            raise TrainingError(network.name, reason, "lower the learning rate, or give clip_norm")
    return state


def _restore(job: Job, trainer: Any, lap: Lap) -> None:
    work: Mapping[str, Any] = lap.work
    job.work.network.restore(lap.network)
    trainer.restore(lap.trainer)
    job.work.restore(work)
