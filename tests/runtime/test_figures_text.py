"""The table of errors says what the figures say, also where they are not finite."""

from __future__ import annotations

import numpy as np

from edgeferry_runtime.commands.figures_text import decibels, figures_table
from edgeferry_runtime.numerics import NO_SIGNAL_DB, compare_output


def shown(reference: list[float], actual: list[float]) -> list[str]:
    error = compare_output("y", np.array(reference, np.float32), np.array(actual, np.float32))
    return figures_table([error.to_dict()]).splitlines()[1].split()


def test_equal_outputs_have_an_infinite_ratio() -> None:
    assert shown([1, 2], [1, 2]) == ["y", "0", "0", "1.000000", "inf"]


def test_a_close_output_has_all_figures() -> None:
    name, worst, mean, cosine, ratio = shown([1, 2], [1, 2.1])
    assert (name, worst, mean) == ("y", "0.1", "0.05")
    assert 0.99 < float(cosine) < 1
    assert 26 < float(ratio) < 28


def test_noise_without_a_signal_is_never_shown_as_equal() -> None:
    assert shown([0, 0], [1, 0])[-1] == decibels(NO_SIGNAL_DB) == "-300.0"


def test_what_is_not_finite_is_said() -> None:
    assert shown([1, 2], [1, np.nan]) == ["y", "not", "finite"]
    assert shown([1, 2], [1, np.inf]) == ["y", "not", "finite"]
