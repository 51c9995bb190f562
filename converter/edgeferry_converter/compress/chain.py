"""The steps of a recipe one after the other: begun, trained, finished, measured, and held to their gates."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_converter.compress import measuring, recipe_text
from edgeferry_converter.compress.checkpoints import Done, Store
from edgeferry_converter.compress.grid import Ranges
from edgeferry_converter.compress.history import Entry, Epoch, History, Standing
from edgeferry_converter.compress.judging import Judge
from edgeferry_converter.compress.lessons import Lessons
from edgeferry_converter.compress.methods import Context, Work, name_of
from edgeferry_converter.compress.methods.masking import keep_zeros
from edgeferry_converter.compress.methods.quantizing import Quantize
from edgeferry_converter.compress.methods.teaching import SOURCE
from edgeferry_converter.compress.network import Course, Network, Objective
from edgeferry_converter.compress.recipe import CompressRecipe, Step
from edgeferry_converter.compress.schooling import School, with_train
from edgeferry_converter.compress.training import Event, Job, Watch, train
from edgeferry_converter.recipe import Recipe
from edgeferry_runtime.errors import EdgeferryError, GateError, TrainingError

OWN_MASKS = ("prune-weights", "prune-pattern")
"""The methods that set masks themselves, what was pruned before among them."""


@dataclass(frozen=True)
class Setting:
    """What a chain works with.

    Attributes:
        source: The model as it was given; nothing changes it.
        school: What is trained on and judged by.
        recipe: The steps.
        strict: Whether a layer that cannot be done is refused.
        store: Keeps what is done.
        watch: Is told.
    """

    source: Network
    school: School
    recipe: CompressRecipe
    strict: bool
    store: Store
    watch: Watch


@dataclass(frozen=True)
class Stage:
    """A network that a chain has come to.

    Attributes:
        number: Of the step that it came out of, from 1; 0 is the source.
        network: The network.
        ranges: What quantization-aware training settled for activations.
        bundle: What became of it where the recipe has [convert].
    """

    number: int
    network: Network
    ranges: Ranges | None = None
    bundle: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """How a chain has ended.

    Attributes:
        best: The last stage that passed its gate.
        start: The source's standing.
        steps: What was carried out.
        error: Why it ended early; None where it did not.
    """

    best: Stage
    start: Standing
    steps: tuple[Entry, ...]
    error: EdgeferryError | None = None

    def history(self, setting: Setting) -> History:
        """Return what happened, as data."""
        return History(
            source=setting.source.name,
            framework=setting.source.framework,
            metric=setting.school.judge.metric,
            trained=len(setting.school.lessons),
            judged=setting.school.judge.samples,
            seed=setting.recipe.seed,
            start=self.start,
            steps=self.steps,
            stopped=f"{self.error.subject}: {self.error.reason}" if self.error else "",
            best=self.steps[self.best.number - 1].name if self.best.number else "",
        )


def run(setting: Setting) -> Outcome:
    """Carry out every step, from where an earlier run has come to; end with the best model so far.

    Raises:
        TrainingError: If the first step cannot do what is asked.
        EdgeferryError: If a step cannot be done at all; what is done stays in the store.
    """
    _check_teachers(setting)
    start, stage = _source(setting)
    best, entries = stage, list[Entry]()
    for step in setting.recipe.step:
        try:
            stage, entry, stopped = _reopened(setting, stage, step) or carry_out(setting, stage, step, start)
        except TrainingError as refused:
            if not entries:
                raise
            return Outcome(best, start, tuple(entries), _at(step, refused))
        entries.append(entry)
        if not entry.passed:
            return Outcome(best, start, tuple(entries), _failed(setting.school.judge, start, entry))
        best = stage
        if stopped:
            fix = "lower the learning rate, or give clip_norm, and add --resume"
            return Outcome(best, start, tuple(entries), TrainingError(step.name, stopped, fix))
    return Outcome(best, start, tuple(entries))


def carry_out(setting: Setting, before: Stage, step: Step, start: Standing) -> tuple[Stage, Entry, str]:
    """Do one step on a copy of the network of the stage before.

    Returns:
        What came out, what the history tells of it, and why it ended early, empty where it did not.

    Raises:
        TrainingError: If the loss is not finite in the first epoch, or the method's target cannot be reached.
        EdgeferryError: If the method cannot do it.
    """
    begin, number = time.perf_counter(), before.number + 1
    setting.watch(Event(step.name, "begin"))
    digest = recipe_text.digests(setting.recipe)[number - 1]
    work, epochs, stopped, told = _trained(setting, before, step, digest)
    network = work.finish()
    setting.watch(Event(step.name, "measure"))
    ranges: Ranges | None = getattr(work, "ranges", None)
    stage, standing = _measured(setting, Stage(number, network, ranges))
    seconds = time.perf_counter() - begin
    entry = _entry(setting, step, work, standing, start)
    entry = replace(entry, epochs=epochs, facts={**entry.facts, **told}, seconds=seconds)
    if stopped:
        entry = replace(entry, facts={**entry.facts, "stopped": stopped})
    else:
        setting.store.finish(Done(digest, entry), network.state(), ranges)
    setting.watch(Event(step.name, "end", score=standing.score, seconds=seconds))
    return stage, entry, stopped


def _trained(
    setting: Setting, before: Stage, step: Step, digest: str
) -> tuple[Work, tuple[Epoch, ...], str, dict[str, Any]]:
    """Begin a step and train it; return the work, its epochs, why they ended early, and facts beside the work's."""
    network = before.network.clone()
    lessons, objective = _taught(setting, step, network)
    seed = _seed(setting.recipe.seed, before.number + 1)
    steps = step.train.epochs * math.ceil(len(lessons) / step.train.batch_size)
    course = Course(objective, step.train, steps, seed)
    warnings: list[str] = []

    def warn(text: str) -> None:
        warnings.append(text)
        setting.watch(Event(step.name, "note", text=text))

    for note in (*_undone(setting.recipe, before), *lessons.notes):
        warn(note)
    judge, store = setting.school.judge, setting.store
    context = Context(lessons, course, seed, setting.strict, judge.score, warn)
    keep_zeros(network)
    work = step.method.begin(network, context)
    if name_of(step.method) not in OWN_MASKS:
        keep_zeros(work.network)
    save = partial(store.keep_lap, digest)
    job = Job(step.name, work, lessons, course, seed, judge.score, save, setting.watch)
    epochs, stopped = train(job, store.lap(digest))
    told: dict[str, Any] = {"loss": objective.loss, "probabilities": objective.probabilities}
    told |= {key: value for key, value in {"teacher": lessons.facts, "warnings": warnings}.items() if value}
    return work, epochs, stopped, told


def _undone(recipe: CompressRecipe, before: Stage) -> tuple[str, ...]:
    """Say that a step undoes what the one before it trained for integers, where no later one trains for them again."""
    if before.ranges is None or any(isinstance(step.method, Quantize) for step in recipe.step[before.number :]):
        return ()
    name = recipe.step[before.number - 1].name
    return (f"undoes what {name} trained for integers: the artifact is float again; let {name} be the last step",)


def _taught(setting: Setting, step: Step, student: Network) -> tuple[Lessons, Objective]:
    objective = with_train(setting.school.objective, step.train)
    if step.teach is None:
        return setting.school.lessons, objective
    from edgeferry_converter.compress import teachers

    taught: tuple[Lessons, Objective]
    taught = teachers.teach(step.teach, setting.school.lessons, objective, setting.source, student)
    return taught


def _check_teachers(setting: Setting) -> None:
    """Refuse a teacher of a later step that does not fit; that of the first one is asked at once anyway."""
    for step in setting.recipe.step[1:]:
        if step.teach is not None and step.teach.teacher != SOURCE:
            from edgeferry_converter.compress import teachers

            teachers.check(step.teach, setting.school.lessons, setting.school.objective, setting.source)


def _seed(*numbers: int) -> int:
    """Return a seed of 32 bits that depends on all numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _source(setting: Setting) -> tuple[Standing, Stage]:
    """Measure the source, or take what an earlier run measured."""
    journal = setting.store.journal
    stage = Stage(0, setting.source.clone())
    if journal.start is not None:
        return journal.start, replace(stage, bundle=setting.store.bundle(0))
    setting.watch(Event("source", "begin"))
    setting.watch(Event("source", "measure"))
    begin = time.perf_counter()
    stage, standing = _measured(setting, stage)
    setting.store.keep(replace(setting.store.journal, start=standing))
    setting.watch(Event("source", "end", score=standing.score, seconds=time.perf_counter() - begin))
    return standing, stage


def _measured(setting: Setting, stage: Stage) -> tuple[Stage, Standing]:
    score = setting.school.judge.score(stage.network)
    place = setting.store.place(stage.number)
    convert = as_trained(setting.recipe, stage)
    ranges = stage.ranges if recipe_text.trains_integers(setting.recipe) else Ranges()
    standing, bundle = measuring.stand(stage.network, score, convert, ranges, place)
    return replace(stage, bundle=bundle), standing


def as_trained(recipe: CompressRecipe, stage: Stage) -> Recipe | None:
    """Return how a stage becomes an artifact: where its weights were trained for integers, with those."""
    if recipe.convert is None or stage.ranges is None:
        return recipe.convert
    method = recipe.step[stage.number - 1].method
    assert isinstance(method, Quantize)
    return method.converted_by(recipe.convert, stage.network)


def _entry(setting: Setting, step: Step, work: Work, standing: Standing, start: Standing) -> Entry:
    facts = dict(work.facts)
    kept: Mapping[str, str] = {**facts.pop("kept", {}), **getattr(work, "kept", {})}
    drop = setting.school.judge.drop(start.score, standing.score)
    return Entry(step.name, name_of(step.method), standing, drop, step.max_drop, facts=facts, kept=kept)


def _reopened(setting: Setting, before: Stage, step: Step) -> tuple[Stage, Entry, str] | None:
    """Return a stage that an earlier run has finished; None where it has not."""
    number, store = before.number + 1, setting.store
    if number > len(store.journal.steps):
        return None
    state, source = store.state(number), setting.source.state()
    if state.keys() != source.keys():  # folded: its network is not that of the source with other values
        while len(store.journal.steps) >= number:
            store.forget()
        return None
    same = all(state[name].shape == source[name].shape for name in source)
    network = setting.source.clone() if same else setting.source.resized(state)
    if same:
        network.restore(state)
    entry = replace(store.journal.steps[number - 1].entry, name=step.name, max_drop=step.max_drop)
    setting.watch(Event(step.name, "note", text="was done by an earlier run, and is taken over"))
    return Stage(number, network, store.ranges(number), store.bundle(number)), entry, ""


def _failed(judge: Judge, start: Standing, entry: Entry) -> GateError:
    values = f"{judge.metric} goes from {start.score:.4g} to {entry.standing.score:.4g}"
    words = "percent" if judge.metric == "mse" else "points"
    reason = f"{values}, and the drop of {entry.drop:.3g} {words} is above max_drop {entry.max_drop:g}"
    return GateError(entry.name, reason, "ask for less, train longer, or raise max_drop, and add --resume")


def _at(step: Step, error: TrainingError) -> TrainingError:
    return TrainingError(step.name, f"{error.subject} {error.reason}", error.fix)
