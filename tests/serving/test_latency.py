"""The ring of recent requests, held to NumPy's percentiles."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_runtime.serving.latency import MOST, Recent


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=MOST + 50), st.floats(0.1, 100))
def test_percentiles_are_those_of_the_latest(taken: list[float], percent: float) -> None:
    recent = Recent()
    for ms in taken:
        recent.add(ms)
    (found,) = recent.percentiles(percent)
    assert recent.requests == len(taken)
    assert found == np.percentile(taken[-MOST:], percent, method="inverted_cdf")


def test_of_no_request_there_is_none() -> None:
    assert Recent().percentiles(50, 99) == [None, None]
