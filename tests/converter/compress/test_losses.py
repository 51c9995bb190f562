"""The objective: the same in both frameworks, and what its formulas say."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeferry_converter.compress.network import (
    ATTENTION,
    BINARY,
    CROSS_ENTROPY,
    FEATURE,
    LOGITS,
    SQUARED,
    Batch,
    Hint,
    Objective,
)
from edgeferry_runtime.tensors import Array

pytestmark = pytest.mark.slow
LASTS = {CROSS_ENTROPY: "softmax", BINARY: "sigmoid"}


def _batch(loss: str, count: int = 9) -> Batch:
    random = np.random.default_rng(0)
    image = random.random((count, 8, 8, 1), dtype=np.float32)
    truths = {
        CROSS_ENTROPY: random.integers(0, 4, count),
        BINARY: random.integers(0, 2, (count, 4)),
        SQUARED: random.normal(size=(count, 4)).astype(np.float32),
    }
    taught = {
        LOGITS: random.normal(size=(count, 4)).astype(np.float32) * 3,
        "feature:early": random.normal(size=(count, 8, 8, 6)).astype(np.float32),
        "feature:late": random.normal(size=(count, 4, 4, 5)).astype(np.float32),
        "attention:late": random.random((count, 4, 4), dtype=np.float32),
    }
    return Batch({"image": image}, truths[loss], taught)


def _for_torch(batch: Batch) -> Batch:
    return replace(batch, inputs={"image": batch.inputs["image"].transpose(0, 3, 1, 2)})


def _both(networks: tuple[Any, Any], objective: Objective, batch: Batch) -> tuple[float, float]:
    from edgeferry_converter.compress.on_keras import losses as on_keras
    from edgeferry_converter.compress.on_torch import losses as on_torch

    left = on_keras.Loss(networks[0], objective).of(batch, training=False)
    right = on_torch.Loss(networks[1], objective)(_for_torch(batch))
    return float(left), float(right.detach())


HINTS = (Hint("early", FEATURE, 0.5, 6), Hint("late", FEATURE, 2.0, 5), Hint("late", ATTENTION, 3.0, 5))


@pytest.mark.parametrize("loss", [CROSS_ENTROPY, BINARY, SQUARED])
@pytest.mark.parametrize("probabilities", [False, True])
def test_is_the_same_in_both_frameworks(twins: ModuleType, loss: str, probabilities: bool) -> None:
    networks = twins.pair(LASTS.get(loss) if probabilities else None)
    objective = Objective(loss, "digit", probabilities, 0.3, 0.7, 2.5, HINTS, 0.1 if loss == CROSS_ENTROPY else 0.0)
    left, right = _both(networks, objective, _batch(loss))
    assert left == pytest.approx(right, rel=1e-5)


def test_gradients_are_the_same_in_both_frameworks(twins: ModuleType) -> None:
    networks, batch = twins.pair("softmax"), _batch(CROSS_ENTROPY)
    objective = Objective(CROSS_ENTROPY, "digit", True, 0.3, 0.7, 2.5, HINTS)
    left = networks[0].gradients([batch], objective, ["early/kernel", "digit/kernel"])
    right = networks[1].gradients([_for_torch(batch)], objective, ["early.weight", "digit.weight"])
    np.testing.assert_allclose(left["digit/kernel"], right["digit.weight"].T, atol=2e-6)
    np.testing.assert_allclose(left["early/kernel"], right["early.weight"].transpose(2, 3, 1, 0), atol=2e-6)


def _log_softmax(values: Array) -> Array:
    shifted = values.astype(np.float64) - values.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_soft_targets_are_those_of_the_paper(twins: ModuleType) -> None:
    networks, batch = twins.pair(), _batch(CROSS_ENTROPY)
    student = networks[0].predict(batch.inputs)["digit"]
    teacher, heat = batch.taught[LOGITS], 4.0
    wanted, found = _log_softmax(teacher / heat), _log_softmax(student / heat)
    soft = heat**2 * (np.exp(wanted) * (wanted - found)).sum(-1).mean()
    hard = -_log_softmax(student)[np.arange(9), batch.truth].mean()
    for value in _both(networks, Objective(CROSS_ENTROPY, "digit", hard=0.1, soft=0.9, temperature=heat), batch):
        assert value == pytest.approx(0.1 * hard + 0.9 * soft, rel=1e-5)


def test_the_gradient_of_the_last_layer_is_the_textbooks(twins: ModuleType) -> None:
    """Of a softmax with cross-entropy the gradient at the logits is what it says minus what it should say."""
    network, batch = twins.keras_twin(), _batch(CROSS_ENTROPY)
    wrong = np.exp(_log_softmax(network.predict(batch.inputs)["digit"])) - np.eye(4)[batch.truth]
    features = network.features(batch.inputs, ["late"])["late"].mean((1, 2))
    found = network.gradients([batch], Objective(CROSS_ENTROPY, "digit"), ["digit/kernel"])["digit/kernel"]
    np.testing.assert_allclose(found, features.T @ wrong / 9, atol=1e-6)


@pytest.mark.parametrize("loss", [CROSS_ENTROPY, BINARY, SQUARED])
@pytest.mark.parametrize("probabilities", [False, True])
def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn(
    twins: ModuleType, loss: str, probabilities: bool
) -> None:
    from edgeferry_converter.compress.logits import as_logits

    networks, batch = twins.pair(LASTS.get(loss) if probabilities else None), _batch(loss)
    said = networks[0].predict(batch.inputs)["digit"]
    logits = as_logits(said, loss) if probabilities and loss in LASTS else said
    batch = replace(batch, taught={LOGITS: logits})
    for value in _both(networks, Objective(loss, "digit", probabilities, 0, 1, 3.0), batch):
        assert abs(value) < 1e-6


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.floats(-8, 8), min_size=6, max_size=6), min_size=1, max_size=5), st.floats(0.5, 20))
def test_soft_targets_never_go_below_zero(rows: list[list[float]], heat: float) -> None:
    import torch

    from edgeferry_converter.compress.on_torch.losses import _soft

    values = torch.tensor(rows)
    for loss in (CROSS_ENTROPY, BINARY, SQUARED):
        objective = Objective(loss, "digit", soft=1.0, temperature=heat)
        assert float(_soft(values[:, :3], values[:, 3:], objective)) >= -1e-4
        assert abs(float(_soft(values[:, :3], values[:, :3], objective))) < 1e-4
        moved = values[:, 3:] + 5  # a constant is no difference to a softmax
        if loss == CROSS_ENTROPY:
            both = [float(_soft(values[:, :3], taught, objective)) for taught in (values[:, 3:], moved)]
            assert both[0] == pytest.approx(both[1], abs=1e-3)


def test_hints_are_measured_against_the_teachers_own_size(twins: ModuleType) -> None:
    networks, batch = twins.pair(), _batch(CROSS_ENTROPY)
    student = networks[0].features(batch.inputs, ["early"])["early"]
    objective = Objective(CROSS_ENTROPY, "digit", hard=0, hints=(Hint("early", FEATURE, 1.0, 6),))
    twice = replace(batch, taught={"feature:early": student * 2})
    assert _both(networks, objective, twice) == pytest.approx((0.25, 0.25), rel=1e-5)
    same = replace(batch, taught={"feature:early": student})
    assert _both(networks, objective, same) == pytest.approx((0, 0), abs=1e-9)


def test_attention_does_not_count_how_strong_it_is(twins: ModuleType) -> None:
    networks, batch = twins.pair(), _batch(CROSS_ENTROPY)
    looked = np.square(networks[0].features(batch.inputs, ["late"])["late"]).mean(-1)
    objective = Objective(CROSS_ENTROPY, "digit", hard=0, hints=(Hint("late", ATTENTION, 1.0),))
    same = replace(batch, taught={"attention:late": looked * 7})
    assert _both(networks, objective, same) == pytest.approx((0, 0), abs=1e-6)
    unit = looked.reshape(9, -1) / np.linalg.norm(looked.reshape(9, -1), axis=1, keepdims=True)
    flat = np.ones_like(looked)
    away = np.square(unit - 1 / 4).sum(1).mean()  # of 16 places each has a quarter
    found = _both(networks, objective, replace(batch, taught={"attention:late": flat}))
    assert found == pytest.approx((away, away), rel=1e-4)
