"""Labelled samples of every form, and the first that does not fit."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_converter.compress import functions
from edgeferry_converter.compress.dataset import Target, read, truth
from edgeferry_runtime.errors import DataError, MissingFileError, UsageError

X = np.arange(12, dtype=np.float32).reshape(6, 2)
Y = np.array([0, 1, 2, 0, 1, 2])
CLASSES = Target("digit", 3, "top1")


def batches() -> Any:
    return [(X[:4], Y[:4]), (X[4:], Y[4:])]


@pytest.mark.parametrize(
    "form",
    [
        (X, Y),
        [X, Y],
        (X.tolist(), Y.tolist()),
        (list(X), Y),
        ({"": X}, Y),
        {"": X, "label": Y},
        batches(),
        iter(batches()),
        [{"": X[:1], "label": Y[:1]}, {"": X[1:], "label": Y[1:]}],
    ],
    ids=["pair", "list", "numbers", "rows", "named", "dict", "batches", "iterator", "dicts"],
)
def test_every_form_gives_the_same_samples(form: Any) -> None:
    found = read("data", form)
    assert np.array_equal(found[""], X)
    assert np.array_equal(found["label"], Y)


def test_an_npz_is_read_as_it_is(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", image=X, label=Y)
    assert np.array_equal(read("d", tmp_path / "d.npz")["image"], X)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((X[:5], Y), "has unequal numbers of samples (inputs: 5, label: 6)"),
        ((X[:0], Y[:0]), "holds no samples"),
        ([], "holds no samples"),
        (7, "is int, no labelled samples"),
        (X, "is ndarray, no labelled samples"),
        ([1, 2, 3], "is int, no labelled samples"),
        ((X, ["a"] * 6), "no array of numbers"),
        ((X, np.int64(3)), "no array of numbers"),
        ([(X[:4], Y[:4]), (X[4:, :1], Y[4:])], "sample 4: has [1] for 'the input', and sample 0 [2]"),
        (([[1], [2, 3]], [0, 1]), "no array"),
    ],
)
def test_what_is_no_labelled_samples_is_refused(given: Any, said: str) -> None:
    with pytest.raises(DataError) as error:
        read("data", given)
    assert said in str(error.value)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", image=np.array([{}] * 3, dtype=object), label=np.zeros(3))
    with pytest.raises(DataError, match="Python objects"):
        read("d", tmp_path / "d.npz")


@pytest.mark.parametrize(
    ("labels", "target", "said"),
    [
        ([0, 1, 3], CLASSES, "sample 2: its label 3 is none of the 3 classes"),
        ([0, -1, 2], CLASSES, "sample 1: its label -1 is none of the 3 classes"),
        ([0, 0.5, 1], CLASSES, "sample 1: its label 0.5 is none of the 3 classes"),
        ([0, 1, np.nan], CLASSES, "sample 2: its label nan is not finite"),
        ([[0, 1, 0], [1, 1, 0]], CLASSES, "sample 1: its label [1, 1, 0] is not one-hot"),
        ([[0, 1], [1, 0]], CLASSES, "has 2 labels a sample"),
        ([0, 2], Target("y", 1, "auc"), "sample 1: its label 2 is neither 0 nor 1"),
        ([[0.5, 1]], Target("y", 3, "mse"), "has 2 reference values a sample, and the output 3"),
    ],
)
def test_the_first_label_that_is_none_is_named(labels: Any, target: Target, said: str) -> None:
    with pytest.raises(DataError) as error:
        truth("train.npz", np.array(labels), target)
    assert said in str(error.value)


@pytest.mark.slow
@given(st.lists(st.integers(0, 2), min_size=1))
def test_numbers_and_one_hot_rows_say_the_same(labels: list[int]) -> None:
    """Property: however classes are written, losses and metrics see the same numbers."""
    numbers = np.array(labels)
    for form in (numbers, numbers.astype(np.float32), numbers[:, None], np.eye(3)[numbers]):
        assert np.array_equal(truth("d", form, CLASSES), numbers)


def test_a_file_is_executed_once_for_all_its_functions(tmp_path: Path) -> None:
    (tmp_path / "both.py").write_text("made = []\ndef train():\n    return made\njudge = lambda: made\n")
    with ExitStack() as stack:
        files = functions.Files(stack)
        train, judge = (files.load(f"{tmp_path}/both.py:{name}") for name in ("train", "judge"))
    assert train() is judge()


def test_files_and_functions_are_told_apart(tmp_path: Path) -> None:
    assert functions.split("a/data.py:train") == (Path("a/data.py"), "train")
    assert functions.split("a/data.npz") is None
    for wrong in ("data.py", "data.py:", "data.py:1x"):
        with pytest.raises(UsageError):
            functions.split(wrong)
    with ExitStack() as stack, pytest.raises(MissingFileError):
        functions.Files(stack).load(f"{tmp_path}/none.py:f")
    with pytest.raises(DataError, match="must be given a, b"):
        functions.needs_argument("f", lambda a, b: 0)
