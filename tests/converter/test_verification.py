"""Proof: what is recorded, what is compared, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from edgeferry_converter import verification
from edgeferry_converter.verification import check, compare, record
from edgeferry_runtime.bundle import Probe
from edgeferry_runtime.errors import ConversionError, DataError, VerificationError
from edgeferry_runtime.numerics import TOLERANCES, Tolerance
from edgeferry_runtime.tensors import Array, TensorSpec

SAMPLES = [{"x": np.full((1, 4), float(i), np.float32)} for i in range(5)]


class Function:
    """A source that is one function."""

    outputs = (TensorSpec("y", (1, 4), "float32"),)

    def __init__(self, function: Callable[[Array], Array], name: str = "y") -> None:
        self.function, self.name = function, name

    def run(self, feeds: Mapping[str, Array], /) -> dict[str, Array]:
        return {self.name: self.function(feeds["x"])}


def test_the_probe_is_what_went_in_and_what_came_out() -> None:
    probe = record(Path("p"), Function(lambda x: x + 1), SAMPLES)
    assert len(probe) == 5
    assert probe.inputs["x"].shape == (5, 1, 4)
    np.testing.assert_array_equal(probe.outputs["y"], probe.inputs["x"] + 1)


def test_the_probe_stays_small_enough_to_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "PROBE_BYTES", 40)
    assert len(record(Path("p"), Function(lambda x: x), SAMPLES)) == 2
    monkeypatch.setattr(verification, "PROBE_BYTES", 1)
    assert len(record(Path("p"), Function(lambda x: x), SAMPLES)) == 1


def test_samples_of_several_shapes_are_refused() -> None:
    mixed = [{"x": np.zeros((1, n), np.float32)} for n in (2, 3)]
    with pytest.raises(DataError, match=r"several shapes, such as \[1, 2\] and \[1, 3\]"):
        record(Path("p"), Function(lambda x: x), mixed)


def test_a_source_that_answers_nothing_finite_is_refused() -> None:
    with pytest.raises(DataError, match="without one finite number"):
        record(Path("p"), Function(lambda x: x * np.nan), SAMPLES)


@pytest.mark.parametrize("precision", sorted(TOLERANCES))
def test_the_same_function_passes_every_tolerance(precision: str) -> None:
    probe = record(Path("p"), Function(np.cos), SAMPLES)
    errors = compare(probe, Function(np.cos))
    assert errors[0].max_abs == 0
    check("model", errors, TOLERANCES[precision], precision)


def test_every_failing_output_is_named_with_its_figures() -> None:
    good = np.random.default_rng(0).random((5, 1, 4)).astype("f4")
    probe = Probe({"x": good}, {"one": good, "two": good, "three": good})

    class Three:
        outputs = ()

        def run(self, feeds: Mapping[str, Array], /) -> dict[str, Array]:
            return {"one": feeds["x"], "two": feeds["x"] + 9, "three": -feeds["x"]}

    with pytest.raises(VerificationError) as caught:
        check("m.h5 as tflite int8", compare(probe, Three()), TOLERANCES["int8"], "int8")
    said = str(caught.value)
    assert "one:" not in said
    assert "two: SNR dB" in said
    assert "three: cosine -1 is below 0.95" in said
    assert "--calibrate" in said
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_never_passes(wrong: float) -> None:
    probe = record(Path("p"), Function(lambda x: x + 1), SAMPLES)
    errors = compare(probe, Function(lambda x: np.full_like(x, wrong)))
    with pytest.raises(VerificationError):
        check("m", errors, Tolerance(max_abs=1e30, min_cosine=-1), "none")


def test_an_output_that_is_missing_or_of_another_shape_is_an_error() -> None:
    probe = record(Path("p"), Function(lambda x: x), SAMPLES)
    with pytest.raises(ConversionError, match="has no output 'y'"):
        compare(probe, Function(lambda x: x, "z"))
    with pytest.raises(ConversionError, match=r"\[1, 2\], and its source as \[1, 4\]"):
        compare(probe, Function(lambda x: x[:, :2]))
