"""What outlives a killed run: written whole, read back exactly, and refused where it is damaged or not ours."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from edgeferry_converter.compress import checkpoints
from edgeferry_converter.compress.checkpoints import Done, Journal, Store, folder_of, opened
from edgeferry_converter.compress.grid import Moments, Ranges
from edgeferry_converter.compress.history import Entry, Epoch, Standing
from edgeferry_converter.compress.training import Lap
from edgeferry_runtime.errors import CorruptFileError, OutputExistsError, UsageError

STANDING = Standing(91.5, 10, 0.25, macs=7, precision="int8")
ENTRY = Entry("1-x", "distill", STANDING, 0.5, 1.0, (Epoch(1, 0.5, 91.5, 2.0),), {"a": [1]}, {"dense": "why"}, 3.0)
LAP = Lap(
    ENTRY.epochs, {"a/kernel:0": np.ones(2)}, {"0:exp_avg": np.zeros(()), "file": np.arange(3)}, {"told": np.ones(1)}
)
RANGES = Ranges({"x": np.ones((1, 1))}, {"dense": (-1.0, 2.0)}, {"dense": Moments(-1.0, 2.0, 0.0, 1.0, 3)})
ORIGIN = {"the model": "1", "the data": "2"}


def begun(tmp_path: Path) -> Path:
    """A folder with one finished step, and an epoch of the next."""
    with opened(tmp_path / "out", resume=False) as store:
        store.begin(ORIGIN, "float")
        store.finish(Done("one", ENTRY), {"w": np.ones(3, np.float32)}, RANGES)
        store.keep_lap("two", LAP)
    return folder_of(tmp_path / "out")


def test_everything_comes_back_as_it_was(tmp_path: Path) -> None:
    begun(tmp_path)
    with opened(tmp_path / "out", resume=True) as store:
        assert store.journal == Journal(ORIGIN, "float", None, (Done("one", ENTRY),))
        assert np.array_equal(store.state(1)["w"], np.ones(3, np.float32))
        ranges = store.ranges(1)
        assert ranges is not None
        assert (ranges.ranges, ranges.samples["x"].tolist()) == (RANGES.ranges, [[1.0]])
        lap = store.lap("two")
        assert lap is not None
        assert lap.epochs == LAP.epochs
        for part in ("network", "trainer", "work"):
            found, wanted = getattr(lap, part), getattr(LAP, part)
            assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in wanted.items()}
        assert store.lap("another") is None


@pytest.mark.slow
@settings(max_examples=30)
@given(st.dictionaries(st.text("ab/.:%é file", min_size=1), arrays(np.float32, array_shapes(min_dims=0)), max_size=4))
def test_any_name_and_any_bits_survive(tmp_path_factory: pytest.TempPathFactory, values: dict[str, np.ndarray]) -> None:
    """Property: arrays come back bit for bit, whatever they are called."""
    store = Store(tmp_path_factory.mktemp("store"))
    store.keep_lap("d", Lap((), values))
    lap = store.lap("d")
    assert lap is not None
    assert {k: v.tobytes() for k, v in lap.network.items()} == {k: v.tobytes() for k, v in values.items()}


def test_what_is_left_is_not_thrown_away_unasked(tmp_path: Path) -> None:
    left = begun(tmp_path)
    with (
        pytest.raises(OutputExistsError, match="go on with --resume, or begin anew: rm -r"),
        opened(tmp_path / "out", resume=False),
    ):
        pass
    assert (left / "step-1.npz").is_file()


def test_a_run_that_did_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError), opened(tmp_path / "out", resume=False) as store:
        store.begin(ORIGIN, "float")
        raise UsageError("it", "went wrong", "try again")
    assert list(tmp_path.iterdir()) == []


def test_finished_steps_are_kept_as_far_as_the_recipe_is_the_same(tmp_path: Path) -> None:
    begun(tmp_path)
    with opened(tmp_path / "out", resume=True) as store:
        store.finish(Done("two", ENTRY), {"w": np.zeros(1)})
        store.go_on(ORIGIN, "float", ["one", "changed", "three"])
        assert [done.digest for done in store.journal.steps] == ["one"]
        with pytest.raises(UsageError, match="the data is not what it was begun with"):
            store.go_on({**ORIGIN, "the data": "3"}, "float", ["one"])
        store.forget()
        assert store.journal.steps == ()
        store.finish(Done("one", ENTRY), {"w": np.zeros(1)})
        assert store.ranges(1) is None, "those of a step that was forgotten are gone"


def test_the_source_is_measured_again_where_artifacts_are_made_otherwise(tmp_path: Path) -> None:
    begun(tmp_path)
    with opened(tmp_path / "out", resume=True) as store:
        store.keep(replace(store.journal, start=STANDING))
        store.go_on(ORIGIN, "float", ["one"])
        assert store.journal.start == STANDING
        store.go_on(ORIGIN, "int8", ["one"])
        assert store.journal.start is None


@pytest.mark.slow
def test_two_at_once_are_refused(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys\nfrom edgeferry_converter.compress.checkpoints import opened\n"
        "with opened(pathlib.Path(sys.argv[1]), resume=False):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with (
            pytest.raises(OutputExistsError, match="is in use by another ferry compress"),
            opened(tmp_path / "out", resume=True),
        ):
            pass
        other.kill()
    with opened(tmp_path / "out", resume=False):
        """The lock is gone with the process."""


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"schema": 99}', b"\xff\xfe", b'{"schema": 1, "steps": 3}']
)
def test_a_damaged_journal_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (begun(tmp_path) / "journal.json").write_bytes(content)
    with pytest.raises(CorruptFileError, match="begin anew: rm -r"), opened(tmp_path / "out", resume=True):
        pass


@pytest.mark.parametrize("keep", [0, 10, 100, -30])
def test_a_damaged_epoch_is_one_clear_error(tmp_path: Path, keep: int) -> None:
    file = begun(tmp_path) / "epoch.npz"
    file.write_bytes(file.read_bytes()[:keep])
    with opened(tmp_path / "out", resume=True) as store, pytest.raises(CorruptFileError):
        store.lap("two")


def test_a_pickle_in_an_epoch_is_not_read(tmp_path: Path) -> None:
    file = begun(tmp_path) / "epoch.npz"
    np.savez(file, **{"array/told": np.array([{}], dtype=object)})
    with opened(tmp_path / "out", resume=True) as store, pytest.raises(CorruptFileError):
        store.lap("two")


def test_an_output_among_checkpoints_is_refused(tmp_path: Path) -> None:
    left = begun(tmp_path)
    for output in (left / "x", left / "standing-1" / "x"):
        with pytest.raises(OutputExistsError, match="goes when their chain has ended"):
            checkpoints.check_outside(output)
    checkpoints.check_outside(tmp_path / "out")


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "out")
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="holds no checkpoints of ours"), opened(tmp_path / "out", resume=True):
        pass
    assert (folder / "thesis.txt").read_text() == "mine"
    assert [file.name for file in folder.iterdir()] == ["thesis.txt"], "not even a lock"
    other = folder_of(tmp_path / "b")
    other.write_text("a file")
    with pytest.raises(OutputExistsError, match="is no folder"), opened(tmp_path / "b", resume=True):
        pass
    assert checkpoints.LOCK not in {file.name for file in tmp_path.iterdir()}
