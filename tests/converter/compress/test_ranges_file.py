"""Trained ranges as a file: what was saved comes back, and nothing else is taken for them."""

from __future__ import annotations

import json
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_converter.compress.grid import Moments, Ranges
from edgeferry_converter.compress.ranges_file import TABLE, load, save
from edgeferry_runtime.errors import DataError, MissingFileError

NAMES = st.text(string.printable, min_size=1, max_size=12)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
LIMITS = st.tuples(FINITE, FINITE).map(lambda pair: (min(pair), max(pair)))
MOMENTS = st.builds(
    lambda limits, mean, square, count: Moments(*limits, mean, square, count),
    LIMITS,
    FINITE,
    FINITE,
    st.integers(1, 10**9),
)


@pytest.mark.slow
@given(st.dictionaries(NAMES, LIMITS), st.dictionaries(NAMES, MOMENTS), st.sets(NAMES, max_size=3))
def test_ranges_survive_their_file(
    tmp_path_factory: pytest.TempPathFactory, ranges: dict, moments: dict, inputs: set[str]
) -> None:
    samples = {name: np.arange(6, dtype=np.float32).reshape(3, 2) + len(name) for name in inputs}
    file = tmp_path_factory.mktemp("ranges") / "ranges.npz"
    save(Ranges(samples, ranges, moments), file)
    found = load(file)
    assert (found.ranges, found.moments) == (ranges, moments)
    assert found.samples.keys() == samples.keys()
    for name, values in samples.items():
        np.testing.assert_array_equal(found.samples[name], values)
        assert found.samples[name].dtype == values.dtype


def ranges() -> Ranges:
    samples = {"b": np.ones((2, 3), np.float32), "a": np.zeros((2, 1), np.uint8)}
    moments = {"conv": Moments(-1.0, 2.0, 0.1, 0.2, 64), "act": Moments(0.0, 2.0, 0.2, 0.1, 64)}
    return Ranges(samples, {"conv": (-0.9, 1.7), "act": (0.0, 1.7)}, moments)


def test_the_same_ranges_give_the_same_bytes(tmp_path: Path) -> None:
    one = ranges()
    turned = Ranges(*(dict(reversed(table.items())) for table in (one.samples, one.ranges, one.moments)))
    save(one, tmp_path / "a.npz")
    save(turned, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("limits", [(0.0, float("nan")), (0.0, float("inf")), (1.0, 0.5)])
def test_no_range_is_saved_that_is_none(tmp_path: Path, limits: tuple[float, float]) -> None:
    with pytest.raises(DataError, match=r"in 'ranges' for 'conv'; train again"):
        save(Ranges({}, {"conv": limits}), tmp_path / "ranges.npz")
    assert not list(tmp_path.iterdir())


def table(**changes: object) -> dict[str, object]:
    return {"format": "edgeferry-ranges", "version": 1, "ranges": {}, "moments": {}, **changes}


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x": np.ones(3)}, "holds no trained ranges"),
        ({TABLE: np.ones(3)}, "holds no trained ranges"),
        ({TABLE: np.array("{")}, "cannot be read"),
        ({TABLE: np.array("[" * 100_000)}, "cannot be read"),
        ({TABLE: np.array("[]")}, "holds no trained ranges"),
        ({TABLE: np.array(json.dumps(table(format="other")))}, "holds no trained ranges"),
        ({TABLE: np.array(json.dumps(table(version=2)))}, "is of version 2, and this ferry reads 1; use the ferry"),
        ({TABLE: np.array(json.dumps(table(ranges=[1])))}, "has no table 'ranges'"),
        ({TABLE: np.array(json.dumps(table(ranges={"c": [1]})))}, r"has \[1\] in 'ranges' for 'c'"),
        ({TABLE: np.array(json.dumps(table(ranges={"c": [False, True]})))}, r"has \[False, True\] in"),
        ({TABLE: np.array(json.dumps(table(moments={"c": [0, 1, 0, 0, None]})))}, "in 'moments' for 'c'"),
        ({TABLE: np.array('{"format": "edgeferry-ranges", "version": 1, "ranges": {"c": [0, NaN]}}')}, "for 'c'"),
        ({TABLE: np.array(json.dumps(table())), "input/x": np.array("text")}, "has samples of <U4"),
        ({TABLE: np.array(json.dumps(table())), "input/x": np.array(1.0)}, "has samples of float64"),
        (
            {TABLE: np.array(json.dumps(table())), "input/x": np.ones(2), "input/y": np.ones(3)},
            r"unequal numbers of samples \(x: 2, y: 3\)",
        ),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], reason: str) -> None:
    np.savez(tmp_path / "ranges.npz", **arrays)
    with pytest.raises(DataError, match=reason):
        load(tmp_path / "ranges.npz")


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "ranges.npz", **{TABLE: np.array([{}], object)})
    with pytest.raises(DataError, match="only numbers and texts are read"):
        load(tmp_path / "ranges.npz")


def test_a_damaged_file_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    save(ranges(), tmp_path / "ranges.npz")
    whole = (tmp_path / "ranges.npz").read_bytes()
    for end in range(0, len(whole), 97):
        (tmp_path / "cut.npz").write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"cut\.npz: cannot be read"):
            load(tmp_path / "cut.npz")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such ranges; check the path"):
        load(tmp_path / "nowhere.npz")
