"""What a chain trains on and what judges it, for a real network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_converter.compress import schooling
from edgeferry_converter.compress.given import Given
from edgeferry_converter.compress.lessons import Lessons
from edgeferry_converter.compress.network import BINARY, CROSS_ENTROPY, SQUARED, Network
from edgeferry_converter.compress.opening import open_network
from edgeferry_converter.compress.recipe import CompressRecipe, Train
from edgeferry_converter.sources import SourceSpec
from edgeferry_runtime.errors import DataError, EdgeferryError, UnknownNameError, UsageError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def network(keras_pupil: Any) -> Network:
    return open_network(SourceSpec(Path(keras_pupil.model)))


def learn(network: Network, given: Given, **recipe: Any) -> schooling.School:
    with ExitStack() as stack:
        return schooling.open_school(network, CompressRecipe(**recipe), given, stack)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x: x[:, :7], "sample 0 of 'image': has shape [7, 8, 1]"),
        (lambda x: x.transpose(0, 3, 1, 2), "it looks like NCHW"),
        (lambda x: np.where(np.arange(96)[:, None, None, None] == 9, np.nan, x), "sample 9 of 'image': holds NaN"),
        (lambda x: np.where(np.arange(96)[:, None, None, None] == 3, 1e300, x.astype(float)), "sample 3 of 'image'"),
    ],
)
def test_inputs_that_do_not_fit_are_named(
    network: Network, keras_pupil: Any, spoil: Callable[..., Any], said: str
) -> None:
    with np.load(keras_pupil.data) as data, pytest.raises(DataError) as error:
        learn(network, Given((spoil(data["image"]), data["label"])))
    assert said in str(error.value)


def test_a_tenth_is_held_out_by_the_seed_and_said(network: Network, keras_pupil: Any) -> None:
    found, again, other = (learn(network, Given(str(keras_pupil.data)), seed=seed) for seed in (1, 1, 2))
    assert isinstance(found.judge.lessons, Lessons)
    assert (len(found.lessons), found.judge.samples) == (87, 9)
    assert "9 of 96 samples are held out" in found.notes[0]
    assert np.array_equal(found.lessons.truth, again.lessons.truth)
    assert not np.array_equal(found.lessons.inputs["image"], other.lessons.inputs["image"])


def test_the_output_is_seen_to_be_a_distribution_and_the_loss_follows_from_the_labels(network: Network) -> None:
    x = np.zeros((4, 8, 8, 1), np.float32)
    found = learn(network, Given((x, [0, 1, 2, 3])))
    assert (found.objective.loss, found.objective.probabilities) == (CROSS_ENTROPY, True)
    values = learn(network, Given((x, np.zeros((4, 5)))), metric="mse")
    assert (values.objective.loss, values.objective.probabilities) == (SQUARED, False)
    with pytest.raises(UsageError, match="does not fit the labels"):
        schooling.with_train(found.objective, Train(loss=BINARY))


def test_a_function_judges_by_what_it_is_given(network: Network, keras_pupil: Any) -> None:
    with np.load(keras_pupil.data) as stored:
        data = dict(stored)

    def accuracy(predict: Any) -> float:
        assert predict(data["image"]).shape == (96, 5)
        return float((predict({"image": data["image"]}).argmax(1) == data["label"]).mean())

    judge = learn(network, Given(str(keras_pupil.data), accuracy)).judge
    assert judge.metric == "evaluate"
    own = learn(network, Given(str(keras_pupil.data), str(keras_pupil.data))).judge
    assert judge.score(network) == pytest.approx(own.score(network) / 100)
    assert judge.drop(0.9, 0.8) == pytest.approx(0.1)


@pytest.mark.parametrize("answer", [float("nan"), "good", None, [1, 2]])
def test_a_judge_that_returns_no_number_is_refused(network: Network, keras_pupil: Any, answer: Any) -> None:
    judge = learn(network, Given(str(keras_pupil.data), lambda predict: answer)).judge
    with pytest.raises(DataError, match="return one finite number"):
        judge.score(network)


def test_the_function_of_a_file_is_called_with_its_folder_importable(network: Network, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("import numpy as np\nX = np.zeros((4, 8, 8, 1), np.float32)\n")
    (tmp_path / "d.py").write_text("def train_data():\n    from beside import X\n    return X, [0, 1, 2, 3]\n")
    assert len(learn(network, Given(f"{tmp_path / 'd.py'}:train_data", (np.zeros((1, 8, 8, 1)), [0]))).lessons) == 4


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("raise ZeroDivisionError('no')", DataError, "it failed when it was imported (ZeroDivisionError: no)"),
        ("def other(): pass", UnknownNameError, "valid are other"),
        ("def f(): raise KeyError('x')", DataError, "the function failed (KeyError: 'x')"),
        ("def f(a, b): return a", DataError, "the function failed"),
        ("def f(): return 3", DataError, "is int, no labelled samples"),
    ],
)
def test_a_file_that_fails_is_one_clear_error(
    network: Network, tmp_path: Path, code: str, kind: type[EdgeferryError], said: str
) -> None:
    (tmp_path / "d.py").write_text(code)
    with pytest.raises(kind) as error:
        learn(network, Given(f"{tmp_path / 'd.py'}:f"))
    assert said in str(error.value)
