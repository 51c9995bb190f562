"""Teachers of every kind, asked about a student's samples; and what does not fit."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

from edgeferry_converter.compress import teachers
from edgeferry_converter.compress.methods.teaching import Match, Teach
from edgeferry_converter.compress.network import BINARY, CROSS_ENTROPY, LOGITS, SQUARED, Course, Objective
from edgeferry_converter.compress.recipe import Train
from edgeferry_converter.compress.teachers import teach
from edgeferry_runtime.errors import DataError, UnknownNameError, UsageError

pytestmark = pytest.mark.slow
OBJECTIVE = Objective(CROSS_ENTROPY, "digit")


class Kept(NamedTuple):
    """A teacher of [N, 8, 8, 1] in several files, and what it says of the lessons."""

    keras: Path
    tflite: Path
    onnx: Path
    savedmodel: Path
    h5: Path
    bundle: Path
    logits: Any


@pytest.fixture(scope="module")
def kept(twins: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    from edgeferry_converter import convert
    from edgeferry_converter.quiet import quiet
    from edgeferry_converter.sources import SourceSpec, open_source

    folder = tmp_path_factory.mktemp("teachers")
    network = twins.keras_twin("softmax", width=7)
    path = network.save(folder)
    with quiet():
        network.model.export(folder / "savedmodel", verbose=False)
        network.model.save(folder / "model.h5")
    source = open_source(SourceSpec(path))
    for kind in ("tflite", "onnx"):
        source.lower(kind, folder / f"model.{kind}")
    convert(path, folder / "bundle", to="tflite")
    said = network.predict(twins.lessons(5).inputs)["digit"]
    logits = np.log(said) - np.log(said).mean(1, keepdims=True)
    places = [folder / name for name in ("model.tflite", "model.onnx", "savedmodel", "model.h5", "bundle")]
    return Kept(path, *places, logits)


def _centred(values: Any) -> Any:
    return values - values.mean(1, keepdims=True)


@pytest.mark.parametrize("kind", ["keras", "tflite", "onnx", "savedmodel", "h5", "bundle"])
def test_a_student_of_pytorch_learns_what_any_file_says(twins: ModuleType, kept: Kept, kind: str) -> None:
    student, lessons = twins.torch_twin(), twins.lessons(5, "torch")
    told = Teach(str(getattr(kept, kind)), soft=0.75, temperature=3)
    found, objective = teach(told, lessons, OBJECTIVE, student, student)
    np.testing.assert_allclose(_centred(found.taught[LOGITS]), kept.logits, atol=1e-4)
    assert (objective.hard, objective.soft, objective.temperature) == (0.25, 0.75, 3)
    assert found.facts["gives"] == "probabilities"
    assert 0 <= found.facts["teacher_score"] <= 100
    assert found.notes[0].startswith(f"the teacher {told.teacher} is given 'image' ")


def test_the_source_teaches(twins: ModuleType) -> None:
    source, lessons = twins.keras_twin(), twins.lessons(5)
    found, _ = teach(Teach(), lessons, OBJECTIVE, source, twins.keras_twin(width=3))
    np.testing.assert_array_equal(found.taught[LOGITS], source.predict(lessons.inputs)["digit"])
    assert found.facts["gives"] == "values"
    assert not any("teaches it" in note for note in found.notes)


def test_a_student_that_is_its_own_teacher_is_named(twins: ModuleType) -> None:
    source = twins.torch_twin()
    found, _ = teach(Teach(), twins.lessons(5, "torch"), OBJECTIVE, source, source.clone())
    assert found.notes == ("the student is still the model that teaches it: it knows already what it is taught",)


def test_a_factory_teaches_a_student_of_keras(twins: ModuleType, torch_factory: Any) -> None:
    """Its shape is nowhere told, so it is the student's with the channels in front."""
    student, lessons = twins.keras_twin(classes=10), twins.lessons(5)
    told = Teach(torch_factory.text, str(torch_factory.safetensors), hints=(Match("early", "conv"),))
    found, objective = teach(told, lessons, OBJECTIVE, student, student)
    assert found.taught["feature:early"].shape == (5, 8, 8, 8)
    assert found.notes[0] == f"the teacher {told.teacher} is given 'image' with its channels first"
    from edgeferry_converter.compress.on_keras.losses import Loss

    loss = Loss(student, objective)
    assert [tuple(variable.shape) for variable in loss.variables] == [(6, 8)]
    assert np.isfinite(float(loss.of(found.in_order(5)[0], training=False)))


def test_layers_are_brought_to_the_students_size(twins: ModuleType) -> None:
    source, student, lessons = twins.keras_twin(), twins.torch_twin(), twins.lessons(5, "torch")
    told = Teach(hints=(Match("late", "early", 2.0),), attention=(Match("late", "late"),))
    found, objective = teach(told, lessons, OBJECTIVE, source, student)
    early, late = (source.features(twins.lessons(5).inputs, [name])[name] for name in ("early", "late"))
    halved = early.reshape(5, 4, 2, 4, 2, 6).mean((2, 4))
    assert np.corrcoef(found.taught["feature:late"].ravel(), halved.ravel())[0, 1] > 0.9
    np.testing.assert_allclose(found.taught["attention:late"], np.square(late).mean(-1), rtol=1e-5)
    assert [(hint.kind, hint.weight, hint.channels) for hint in objective.hints] == [
        ("feature", 2.0, 6),
        ("attention", 1.0, 8),
    ]


def test_layers_that_are_too_large_are_computed_for_every_batch(
    twins: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, student, lessons = twins.torch_twin(), twins.keras_twin(width=3), twins.lessons(20)
    told = Teach(hints=(Match("early", "early"),), attention=(Match("late", "late"),))
    whole, _ = teach(told, lessons, OBJECTIVE, source, student)
    monkeypatch.setattr(teachers, "ROOM", 100)
    lazy, objective = teach(told, lessons, OBJECTIVE, source, student)
    assert any("computed anew for every batch" in note for note in lazy.notes)
    for left, right in zip(whole.shuffled(8, 0, 0), lazy.shuffled(8, 0, 0), strict=True):
        for key in ("feature:early", "attention:late"):
            np.testing.assert_allclose(left.taught[key], right.taught[key], atol=1e-6)
    trainer = student.trainer(Course(objective, Train(epochs=1, batch_size=8), 3))
    assert np.isfinite(trainer.epoch(lazy.shuffled(8, 0, 0), lambda step: None))
    assert lazy.first(3).taught["feature:early"].shape == (3, 8, 8, 6)


def test_a_teacher_that_knows_less_is_named(twins: ModuleType) -> None:
    source, student, lessons = twins.keras_twin(), twins.keras_twin(width=3), twins.lessons(40)
    right = student.predict(lessons.inputs)["digit"].argmax(1)
    found, _ = teach(Teach(), replace(lessons, truth=right), OBJECTIVE, source, student)
    assert found.facts["student_score"] == 100
    assert "is worse than the student on the training samples" in found.notes[-1]


@pytest.mark.parametrize("loss", [BINARY, SQUARED])
def test_other_losses_are_taught_too(twins: ModuleType, loss: str) -> None:
    last = "sigmoid" if loss == BINARY else None
    source, student, lessons = twins.torch_twin(last), twins.keras_twin(last, width=3), twins.lessons(6)
    truth = np.random.default_rng(0).integers(0, 2, (6, 4))
    found, objective = teach(
        Teach(), replace(lessons, truth=truth), Objective(loss, "digit", loss == BINARY), source, student
    )
    said = source.predict(twins.lessons(6, "torch").inputs)["digit"]
    expected = np.log(said) - np.log1p(-said) if loss == BINARY else said
    np.testing.assert_allclose(found.taught[LOGITS], expected, atol=1e-5)
    assert np.isfinite(float(_keras_loss(student, objective, found)))


def _keras_loss(student: Any, objective: Objective, lessons: Any) -> Any:
    from edgeferry_converter.compress.on_keras.losses import Loss

    return Loss(student, objective).of(lessons.in_order(6)[0], training=False)


def test_an_artifact_shows_no_layers(twins: ModuleType, kept: Kept) -> None:
    told, student = Teach(str(kept.tflite), hints=(Match("early", "early"),)), twins.keras_twin()
    with pytest.raises(UsageError, match=r"is tflite, which shows no layers; give the \.keras file or factory"):
        teach(told, twins.lessons(5), OBJECTIVE, student, student)


def test_other_classes_are_refused(twins: ModuleType) -> None:
    with pytest.raises(DataError, match="gives digit of 8 values a sample, and the student's 'digit' has 4"):
        teach(Teach(), twins.lessons(5), OBJECTIVE, twins.keras_twin(classes=8), twins.keras_twin())


@pytest.mark.parametrize("match", [Match("early", "nowhere"), Match("nowhere", "early")])
def test_layers_that_are_not_there_are_refused(twins: ModuleType, match: Match) -> None:
    with pytest.raises(UnknownNameError, match="unknown name 'nowhere'"):
        teach(Teach(hints=(match,)), twins.lessons(5), OBJECTIVE, twins.torch_twin(), twins.keras_twin())


def test_layers_of_other_axes_are_refused(twins: ModuleType) -> None:
    told = Teach(hints=(Match("late", "digit"),))
    with pytest.raises(DataError, match=r"'digit' gives \[4\] a sample, and the student's 'late' \[4x4x8\]"):
        teach(told, twins.lessons(5), OBJECTIVE, twins.torch_twin(), twins.keras_twin())


def test_attention_needs_places(twins: ModuleType) -> None:
    told = Teach(attention=(Match("digit", "digit"),))
    with pytest.raises(DataError, match="has no places to look at"):
        teach(told, twins.lessons(5), OBJECTIVE, twins.torch_twin(), twins.keras_twin())


def test_answers_that_are_not_finite_are_refused(twins: ModuleType) -> None:
    source, lessons = twins.keras_twin(), twins.lessons(5)
    lessons.inputs["image"][3] = np.nan
    with pytest.raises(DataError, match="answers sample 3 with a value that is not finite"):
        teach(Teach(), lessons, OBJECTIVE, source, twins.keras_twin(width=3))
