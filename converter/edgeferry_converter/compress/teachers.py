"""Teachers: any model that answers, asked once about every sample, so that its framework does not matter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from edgeferry_converter.compress import pairing
from edgeferry_converter.compress.features import Look, OnDemand, check_ranks
from edgeferry_converter.compress.lessons import Lessons
from edgeferry_converter.compress.logits import are_probabilities, as_logits, flat, score
from edgeferry_converter.compress.methods.teaching import SOURCE, Match, Teach
from edgeferry_converter.compress.network import (
    ATTENTION,
    BINARY,
    CROSS_ENTROPY,
    FEATURE,
    LOGITS,
    Arrays,
    Feeds,
    Hint,
    Network,
    Objective,
)
from edgeferry_converter.compress.teacher import Teacher, open_teacher
from edgeferry_runtime.errors import DataError
from edgeferry_runtime.tensors import Array

BATCH = 256
"""How many samples are asked about at once."""
ROOM = 1 << 30
"""How many bytes a teacher's layers may take in memory; what is larger is computed anew for every batch."""


def teach(
    told: Teach, lessons: Lessons, objective: Objective, source: Network, student: Network
) -> tuple[Lessons, Objective]:
    """Ask a teacher about every sample, and let the objective count what it said.

    Outputs are kept as logits: of a teacher that gives probabilities their logarithm, which is the logits up to a
    constant that no softmax sees. A teacher's layers are brought to the sizes of the student's.

    Args:
        told: Whom to ask, and what for. A factory is executed: the caller knows that the user gave it.
        lessons: The samples, by the student's input names.
        objective: What is made small without a teacher.
        source: The model as it was given; it must stay as it is while the student learns.
        student: What will be trained; it is only run.

    Returns:
        The samples with what was taught of them, with `Lessons.facts` and `Lessons.notes`; and the objective.

    Raises:
        DataError: If shapes, classes or inputs of teacher and student do not fit.
        UsageError: If an artifact is asked for its layers.
        UnknownNameError: If there is no such layer.
        EdgeferryError: What opening the teacher raises.
    """
    first = lessons.first(1).inputs
    teacher = open_teacher(told, source, first, student.framework)
    try:
        looks = _looks(told, teacher, student, first)
        taught, facts, notes = _asked(teacher, lessons, objective, student)
        shown, bytes_, more = _shown(teacher, lessons, looks)
    finally:
        teacher.close()
    known = pairing.notes(teacher.name, teacher.wires, first) + notes + more + _same(told, source, student)
    facts |= {"soft": told.soft, "temperature": told.temperature, "feature_bytes": bytes_}
    objective = replace(
        objective,
        hard=objective.hard * (1 - told.soft),
        soft=told.soft,
        temperature=told.temperature,
        hints=tuple(look.hint for look in looks),
    )
    return replace(lessons, taught={LOGITS: taught, **shown}, facts=facts, notes=known), objective


def check(told: Teach, lessons: Lessons, objective: Objective, source: Network) -> None:
    """Ask a teacher about one sample, so that one that does not fit is refused before anything is trained.

    Args:
        told: Whom.
        lessons: As for `teach`.
        objective: Likewise.
        source: The model as it was given: what it takes and gives is what each student of a chain takes and gives.

    Raises:
        EdgeferryError: As `teach` does, but for layers, which other steps may change.
    """
    first = lessons.first(1).inputs
    teacher = open_teacher(told, source, first, source.framework)
    try:
        own = flat(source.predict(first)[objective.output])
        pairing.output_of(teacher.name, teacher.answers(first), objective.output, own.shape[1])
    finally:
        teacher.close()


def _asked(
    teacher: Teacher, lessons: Lessons, objective: Objective, student: Network
) -> tuple[Array, dict[str, Any], tuple[str, ...]]:
    """Return the teacher's logits of every sample, what the history says of them, and what the user should know."""
    own = np.concatenate([flat(student.predict(b.inputs)[objective.output]) for b in lessons.in_order(BATCH)])
    output, found = "", []
    for batch in lessons.in_order(BATCH):
        answers = teacher.answers(batch.inputs)
        output = output or pairing.output_of(teacher.name, answers, objective.output, own.shape[1])
        found.append(flat(answers[output]))
    values = np.concatenate(found)
    if not np.isfinite(values).all():
        bad = int(np.argmin(np.isfinite(values).all(1)))
        raise DataError(teacher.name, f"answers sample {bad} with a value that is not finite", "mend the teacher")
    gives = are_probabilities(values, objective.loss)
    logits = as_logits(values, objective.loss) if gives else values
    scores = [score(objective, *pair, lessons.truth) for pair in ((logits, False), (own, objective.probabilities))]
    facts: dict[str, Any] = {"teacher": teacher.name, "gives": "probabilities" if gives else "values", "output": output}
    facts |= {"teacher_score": scores[0], "student_score": scores[1], "scored_on": f"{len(lessons)} training samples"}
    return logits, facts, _worse(teacher.name, objective.loss, scores)


def _worse(teacher: str, loss: str, scores: list[float]) -> tuple[str, ...]:
    """Warn of a teacher that knows less than its student."""
    better = scores[0] >= scores[1] if loss in (CROSS_ENTROPY, BINARY) else scores[0] <= scores[1]
    if better:
        return ()
    unit = "%" if loss in (CROSS_ENTROPY, BINARY) else " mean squared error"
    figures = f"{scores[0]:.4g}{unit}, and the student {scores[1]:.4g}{unit}"
    return (f"the teacher {teacher} is worse than the student on the training samples: it has {figures}",)


def _same(told: Teach, source: Network, student: Network) -> tuple[str, ...]:
    if told.teacher != SOURCE:
        return ()
    mine, its = student.state(), source.state()
    if mine.keys() != its.keys() or any(not np.array_equal(mine[name], its[name]) for name in mine):
        return ()
    return ("the student is still the model that teaches it: it knows already what it is taught",)


def _looks(told: Teach, teacher: Teacher, student: Network, first: Feeds) -> tuple[Look, ...]:
    """Pair the layers that are named, and refuse those that cannot be compared."""
    pairs: list[tuple[str, Match]] = [(FEATURE, m) for m in told.hints] + [(ATTENTION, m) for m in told.attention]
    if not pairs:
        return ()
    own = student.features(first, list({match.student: None for _, match in pairs}))
    its = teacher.layers(first, list({match.teacher: None for _, match in pairs}))
    found = []
    for kind, match in pairs:
        mine, theirs = own[match.student], its[match.teacher]
        hint = Hint(match.student, kind, match.weight, theirs.shape[-1])
        found.append(Look(hint, match.teacher, mine.shape[1:-1]))
        check_ranks(teacher.name, found[-1], mine, theirs)
    return tuple(found)


def _shown(teacher: Teacher, lessons: Lessons, looks: tuple[Look, ...]) -> tuple[Arrays, int, tuple[str, ...]]:
    """Return what the teacher's layers say of every sample, how many bytes that is, and what the user should know."""
    if not looks:
        return {}, 0, ()
    names = list({look.layer: None for look in looks})

    def show(inputs: Feeds) -> Arrays:
        features = teacher.layers(inputs, names)
        return {look.hint.key: look.shown(features) for look in looks}

    size = len(lessons) * sum(values.nbytes for values in show(lessons.first(1).inputs).values())
    if size > ROOM:
        rows = OnDemand(show, lessons.inputs)
        note = f"the teacher's layers would take {size / 2**30:.1f} GiB, so they are computed anew for every batch"
        return {look.hint.key: rows.column(look.hint.key) for look in looks}, size, (note,)
    parts = [show(batch.inputs) for batch in lessons.in_order(BATCH)]
    return {look.hint.key: np.concatenate([part[look.hint.key] for part in parts]) for look in looks}, size, ()
