"""Samples in the teacher's layout, its outputs, its layers' sizes, and what its values are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeferry_converter.compress.features import resized
from edgeferry_converter.compress.lessons import Lessons
from edgeferry_converter.compress.logits import are_probabilities, as_logits
from edgeferry_converter.compress.network import BINARY, CROSS_ENTROPY, FEATURE, SQUARED, Hint
from edgeferry_converter.compress.pairing import notes, output_of, wires
from edgeferry_runtime.errors import DataError
from edgeferry_runtime.tensors import Array, Quantization, TensorSpec

PICTURES = {"image": np.arange(2 * 4 * 5 * 3, dtype=np.float32).reshape(2, 4, 5, 3)}


def _spec(*shape: int, name: str = "image", dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, (-1, *shape), dtype)


@pytest.mark.parametrize(
    ("spec", "expected", "words"),
    [
        (_spec(4, 5, 3), PICTURES["image"], ()),
        (_spec(4, 5, 3, name="x"), PICTURES["image"], ()),
        (_spec(-1, -1, 3), PICTURES["image"], ()),
        (_spec(3, 4, 5), PICTURES["image"].transpose(0, 3, 1, 2), ("with its channels first",)),
        (_spec(3, -1, -1), PICTURES["image"].transpose(0, 3, 1, 2), ("with its channels first",)),
        (_spec(5, 3, 4), PICTURES["image"].transpose(0, 2, 3, 1), ("with its channels last",)),
        (_spec(4, 5, 3, 1), PICTURES["image"][..., None], ("as image float32[?x4x5x3x1]",)),
    ],
)
def test_inputs_are_carried(spec: TensorSpec, expected: Array, words: tuple[str, ...]) -> None:
    (wire,) = wires("t", [spec], PICTURES)
    np.testing.assert_array_equal(wire.carry(PICTURES["image"]), expected)
    said = notes("t", [wire], PICTURES)
    assert said == tuple(f"the teacher t is given 'image' {w}" for w in words)


def test_a_quantized_input_takes_real_values() -> None:
    spec = TensorSpec("image", (1, 4, 5, 3), "int8", Quantization((0.5,), (0,)))
    assert wires("t", [spec], PICTURES)[0].carry(PICTURES["image"]).dtype == np.float32


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (_spec(4, 5, 2), r"takes image float32\[\?x4x5x2\], and a sample of 'image' is \[4x5x3\]"),
        (_spec(4, 5, 3, dtype="uint8"), "samples of 'image' are float32"),
        (_spec(-1, -1), r"a sample of 'image' is \[4x5x3\]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(spec: TensorSpec, message: str) -> None:
    with pytest.raises(DataError, match=message):
        wires("t", [spec], PICTURES)


def test_a_layout_that_could_be_either_is_refused() -> None:
    data = {"image": np.zeros((1, 4, 5, 4), np.float32)}
    with pytest.raises(DataError, match="could have their channels first or last"):
        wires("t", [_spec(-1, 4, -1)], data)


def test_inputs_without_partner_are_refused() -> None:
    data = {**PICTURES, "more": np.zeros((2, 1))}
    with pytest.raises(DataError, match=r"takes other float32.*the student takes image, more"):
        wires("t", [_spec(4, 5, 3, name="other")], data)


def test_outputs_are_found() -> None:
    answers = {"a": np.zeros((2, 10)), "b": np.zeros((2, 1, 5)), "c": np.zeros((2, 10))}
    assert output_of("t", answers, "a", 10) == "a"
    assert output_of("t", answers, "scores", 5) == "b"
    for wanted, count, message in (("scores", 10, "several could be"), ("scores", 7, "has 7"), ("b", 10, "has 10")):
        with pytest.raises(DataError, match=message):
            output_of("t", answers, wanted, count)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(
    arrays.arrays(np.float32, (2, 7, 5, 3), elements=st.floats(-5, 5, width=32)),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_resizing_keeps_bounds_and_flat_pictures(values: Array, height: int, width: int) -> None:
    found = resized(values, (height, width))
    assert found.shape == (2, height, width, 3)
    assert found.min() >= values.min() - 1e-4
    assert found.max() <= values.max() + 1e-4
    np.testing.assert_allclose(resized(np.ones_like(values), (height, width)), 1, rtol=1e-6)
    np.testing.assert_array_equal(resized(values, (7, 5)), values)


def test_resizing_halves_a_ramp_to_a_ramp() -> None:
    ramp = np.arange(8, dtype=np.float32).reshape(1, 8, 1)
    np.testing.assert_allclose(resized(ramp, (4,)).ravel()[1:3], [2.5, 4.5], rtol=1e-6)
    np.testing.assert_allclose(resized(ramp, (16,)).ravel()[1:4], [0.25, 0.75, 1.25], rtol=1e-6)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(arrays.arrays(np.float32, (4, 5), elements=st.floats(-6, 6, width=32)))
def test_logits_come_back_from_probabilities(values: Array) -> None:
    said = np.exp(values) / np.exp(values).sum(1, keepdims=True)
    assert are_probabilities(said, CROSS_ENTROPY)
    centred = values - values.mean(1, keepdims=True)
    found = as_logits(said, CROSS_ENTROPY)
    np.testing.assert_allclose(found - found.mean(1, keepdims=True), centred, atol=1e-3)
    one = 1 / (1 + np.exp(-values))
    np.testing.assert_allclose(as_logits(one, BINARY), values, atol=1e-3)


def test_what_values_are_is_seen() -> None:
    stored = np.round(np.array([[0.998, 0.002, 0.0], [0.4, 0.3, 0.3]]) * 256) / 256
    assert are_probabilities(stored, CROSS_ENTROPY)
    assert as_logits(stored, CROSS_ENTROPY)[0, 2] == pytest.approx(np.log(1 / 512))
    assert not are_probabilities(np.array([[0.4, 0.9]]), CROSS_ENTROPY)
    assert not are_probabilities(np.array([[-0.5, 1.5]]), CROSS_ENTROPY)
    assert are_probabilities(np.array([[0.4], [0.9]]), BINARY)
    assert not are_probabilities(np.array([[0.4], [1.9]]), BINARY)
    assert not are_probabilities(np.array([[0.4], [0.6]]), SQUARED)


def test_projections_begin_the_same_everywhere() -> None:
    hint = Hint("a", FEATURE, 1.0, 5)
    first, again = hint.projection(3), Hint("a", FEATURE, 2.0, 5).projection(3)
    assert first is not None
    assert again is not None
    np.testing.assert_array_equal(first, again)
    other = Hint("b", FEATURE, 1.0, 5).projection(3)
    assert other is not None
    assert not np.array_equal(first, other)
    assert hint.projection(5) is None
    assert Hint("a").projection(3) is None


def test_batches_are_made_when_they_are_asked_for() -> None:
    lessons = Lessons({"x": np.arange(10)}, np.arange(10))
    batches = lessons.shuffled(4, 1, 2)
    assert [len(batch.truth) for batch in batches] == [4, 4, 2]
    np.testing.assert_array_equal(batches[2].truth, list(batches)[2].truth)
    with pytest.raises(IndexError):
        batches[3]
