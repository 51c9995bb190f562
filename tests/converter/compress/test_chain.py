"""Chains of steps: gates, losses that are no numbers, seeds, and runs that are killed and go on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_converter.compress import Compressed, CompressRecipe, Event, Step, Train, compress
from edgeferry_converter.compress.checkpoints import folder_of
from edgeferry_converter.compress.methods.quantizing import Quantize
from edgeferry_converter.compress.methods.weights import PruneWeights
from edgeferry_converter.quiet import quiet
from edgeferry_converter.recipe import Recipe
from edgeferry_runtime.errors import GateError, OutputExistsError, TrainingError, UsageError

pytestmark = pytest.mark.slow

SHORT = Train(epochs=2, batch_size=16, learning_rate=0.003)
TWO = CompressRecipe(step=(Step(PruneWeights(0.4), SHORT), Step(PruneWeights(0.6), SHORT)))
SPOILED = Step(PruneWeights(0.98, schedule="constant"), Train(epochs=0), max_drop=1)

KILLED = """
import os, signal
from edgeferry_converter.compress import CompressRecipe, compress

def watch(event):
    if event.step.startswith("2") and event.doing == "train" and event.score is not None:
        watch.epochs += 1
    if watch.epochs and event.doing == "train" and event.score is None:
        os.kill(os.getpid(), signal.SIGKILL)

watch.epochs = 0
compress({model!r}, {output!r}, {recipe!r}, data={data!r}, progress=watch)
"""


def same(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def states(found: Compressed) -> dict[str, np.ndarray]:
    return found.network.state()


@pytest.fixture(scope="module", params=["keras_pupil", "torch_pupil"])
def pupil(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def whole(pupil: Any, tmp_path_factory: pytest.TempPathFactory) -> Compressed:
    """A chain of two steps that nothing has stopped."""
    return compress(pupil.model, tmp_path_factory.mktemp("whole") / "out", TWO, data=str(pupil.data))


def test_a_run_that_was_killed_goes_on_to_the_same_bits(pupil: Any, whole: Compressed, tmp_path: Path) -> None:
    recipe, output = tmp_path / "r.toml", tmp_path / "out"
    table = "[[step]]\nmethod = 'prune-weights'\nsparsity = {}\n"
    recipe.write_text(
        "[train]\nepochs = 2\nbatch_size = 16\nlearning_rate = 0.003\n" + table.format(0.4) + table.format(0.6)
    )
    code = KILLED.format(model=pupil.model, output=str(output), recipe=str(recipe), data=str(pupil.data))
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not output.exists(), "nothing is half written"
    left = folder_of(output)
    assert {"journal.json", "epoch.npz", "step-1.npz"} <= {file.name for file in left.iterdir()}

    with pytest.raises(OutputExistsError, match="go on with --resume"):
        compress(pupil.model, output, recipe, data=str(pupil.data))
    seen: list[Event] = []
    found = compress(pupil.model, output, recipe, data=str(pupil.data), resume=True, progress=seen.append)
    trained = [e for e in seen if e.doing == "train" and e.score is not None]
    assert [e.step for e in trained] == ["2-prune-weights"], "only the last epoch is trained again"
    assert same(states(found), states(whole))
    assert [e.standing for e in found.history.steps] == [e.standing for e in whole.history.steps]
    assert not left.exists()


def test_another_seed_gives_other_bits(pupil: Any, whole: Compressed, tmp_path: Path) -> None:
    """That the same seed gives the same ones, in another process even, the test above has shown."""
    other = compress(pupil.model, tmp_path / "out", TWO, data=str(pupil.data), seed=1, step=TWO.step[:1])
    assert other.history.steps[0].epochs[0].loss != whole.history.steps[0].epochs[0].loss
    assert not same(states(other), states(whole))


def test_zeros_stay_through_the_next_step_and_the_history_tells_all(pupil: Any, whole: Compressed) -> None:
    told = json.loads((whole.path / "history.json").read_text())
    assert told["format"] == "edgeferry-compression"
    assert [step["method"] for step in told["steps"]] == ["prune-weights"] * 2
    assert [round(step["standing"]["sparsity"], 1) for step in told["steps"]] == [0.4, 0.6]
    assert [len(step["epochs"]) for step in told["steps"]] == [2, 2]
    assert told["best"] == "2-prune-weights"
    assert (told["trained"], told["judged"]) == (87, 9)
    assert CompressRecipe.from_toml(whole.path / "recipe.toml").step == TWO.step
    assert whole.model.is_file()


def run(pupil: Any, output: Path, *steps: Step, **options: Any) -> Compressed:
    return compress(
        pupil.model, output, CompressRecipe(step=steps), data=str(pupil.data), evaluate=str(pupil.data), **options
    )


def test_a_step_over_its_gate_ends_the_chain_with_the_model_before_it(keras_pupil: Any, tmp_path: Path) -> None:
    light = Step(PruneWeights(0.1), Train(epochs=0), max_drop=50)
    found = run(keras_pupil, tmp_path / "out", light, SPOILED, light)
    assert [step.passed for step in found.history.steps] == [True, False]
    assert found.history.best == "1-prune-weights"
    assert "is above max_drop 1" in found.history.stopped
    kept = sum(int((found.network.read(w.name) == 0).sum()) for w in found.network.weights())
    assert kept == found.history.steps[0].facts["zeros"]
    with pytest.raises(GateError):
        found.check()
    loose = replace(SPOILED, max_drop=100)
    seen: list[Event] = []
    again = run(keras_pupil, tmp_path / "out", light, loose, resume=True, progress=seen.append)
    assert again.error is None
    assert again.history.best == "2-prune-weights"
    assert not [e for e in seen if e.doing == "end"], "what was done is taken over, with the new gate"


def test_a_step_behind_quantize_is_said_to_undo_it_and_the_model_keeps_its_name(
    keras_pupil: Any, tmp_path: Path
) -> None:
    quantize, prune = Step(Quantize(), Train(epochs=0)), Step(PruneWeights(0.1), Train(epochs=0))
    found = run(keras_pupil, tmp_path / "out", quantize, prune)
    assert "let 1-quantize be the last step" in found.history.steps[1].facts["warnings"][0]
    assert not (found.path / "convert.toml").exists()
    again = run(keras_pupil, tmp_path / "again", quantize, prune, quantize)
    assert "warnings" not in again.history.steps[1].facts
    names = [zipfile.ZipFile(one.model).read("config.json") for one in (found, again)]
    assert names[0] == names[1], "no counter of the process is in it"


def test_a_first_step_over_its_gate_leaves_the_model_as_it_was(torch_pupil: Any, tmp_path: Path) -> None:
    found = run(torch_pupil, tmp_path / "out", replace(SPOILED, max_drop=-1000))
    assert (found.history.best, found.history.steps[0].passed) == ("", False)
    assert np.isfinite(found.network.read("dense.weight")).all()
    assert (found.network.read("dense.weight") != 0).all()


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model of one dense layer that predicts a value, and its data."""
    folder = tmp_path_factory.mktemp("line")
    x = np.random.default_rng(0).random((64, 16), dtype=np.float32)
    np.savez(folder / "data.npz", x=x, label=x.sum(1))
    with quiet():
        import keras

        keras.utils.set_random_seed(0)
        inputs = keras.Input((16,), name="x")
        keras.Model(inputs, keras.layers.Dense(1, name="y")(inputs)).save(folder / "line.keras")
    return folder / "line.keras", str(folder / "data.npz")


def exploding(epochs: int, rate: float = 2.0) -> Step:
    """A step whose weights grow about twentyfold with each of its optimizer steps."""
    train = Train(epochs, 8, "sgd", learning_rate=rate, momentum=0.0, schedule="constant")
    return Step(PruneWeights(0.1, schedule="constant"), train)


def test_a_loss_that_is_no_number_goes_back_to_the_last_good_epoch(line: Any, tmp_path: Path) -> None:
    model, data = line
    recipe = CompressRecipe(step=(exploding(9), exploding(1)), metric="mse")
    found = compress(model, tmp_path / "out", recipe, data=data, evaluate=data)
    (step,) = found.history.steps
    assert 0 < len(step.epochs) < 9
    assert f"(epoch {len(step.epochs) + 1})" in step.facts["stopped"]
    assert np.isfinite(step.epochs[-1].loss)
    assert step.standing.score == step.epochs[-1].score, "the model is that of the last good epoch"
    assert all(np.isfinite(values).all() for values in states(found).values())
    with pytest.raises(TrainingError, match="lower the learning rate"):
        found.check()
    calm = replace(recipe, step=(exploding(2, 0.001),))
    again = compress(model, tmp_path / "out", calm, data=data, evaluate=data, resume=True)
    assert again.error is None
    assert len(again.history.steps[0].epochs) == 2


def test_a_loss_that_is_no_number_from_the_beginning_writes_nothing(line: Any, tmp_path: Path) -> None:
    model, data = line
    recipe = CompressRecipe(step=(exploding(2, 1e6),), metric="mse")
    with pytest.raises(TrainingError, match="lower the learning rate"):
        compress(model, tmp_path / "out", recipe, data=data, evaluate=data)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_keeps_what_is_done_and_only_the_same_model_data_and_seed_go_on(line: Any, tmp_path: Path) -> None:
    model, data = line
    recipe = CompressRecipe(step=(exploding(3, 0.001),), metric="mse")

    def press(event: Event) -> None:
        if event.done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(model, tmp_path / "out", recipe, data=data, evaluate=data, progress=press)
    with np.load(data) as stored:
        x, y = stored["x"], stored["label"]
    changes: dict[str, dict[str, Any]] = {
        "the seed": {"seed": 5},
        "the data": {"data": (x + 1, y)},
        "what it is judged by": {"evaluate": lambda predict: 0.5},
    }
    for said, change in changes.items():
        with pytest.raises(UsageError, match=f"{said} is not what it was begun with"):
            compress(model, tmp_path / "out", recipe, **{"data": data, "evaluate": data, "resume": True, **change})
    found = compress(model, tmp_path / "out", recipe, data=data, evaluate=data, resume=True)
    assert same(states(found), states(compress(model, tmp_path / "b", recipe, data=data, evaluate=data)))


def test_functions_and_arrays_may_stand_for_files(line: Any, tmp_path: Path) -> None:
    model, data = line
    with np.load(data) as stored:
        x, y = stored["x"], stored["label"]

    def batches() -> Any:
        return ((x[i : i + 8], y[i : i + 8]) for i in range(0, 64, 8))

    def judge(predict: Callable[..., np.ndarray]) -> float:
        return -float(((predict(x)[:, 0] - y) ** 2).mean())

    step = exploding(1, 0.001)
    found = compress(model, tmp_path / "a", step=(step,), metric="mse", data=batches, evaluate=judge)
    same_data = compress(model, tmp_path / "b", step=(step,), metric="mse", data=data, evaluate=(x, y))
    assert same(states(found), states(same_data))
    assert found.history.metric == "evaluate"
    assert found.history.start.score == pytest.approx(-same_data.history.start.score, rel=1e-5)


def test_a_run_killed_before_it_wrote_keeps_what_quantization_settled(pupil: Any, tmp_path: Path) -> None:
    """PyTorch's normalization is folded, so that its step is finished anew; Keras's stands behind an activation."""
    recipe = CompressRecipe(step=(Step(Quantize(), Train(1, 32)),))

    def press(event: Event) -> None:
        if event.doing == "write":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(pupil.model, tmp_path / "out", recipe, data=str(pupil.data), progress=press)
    seen: list[Event] = []
    found = compress(pupil.model, tmp_path / "out", recipe, data=str(pupil.data), resume=True, progress=seen.append)
    assert not [event for event in seen if event.doing == "train"], "nothing is trained again"
    whole = compress(pupil.model, tmp_path / "whole", recipe, data=str(pupil.data))
    assert same(states(found), states(whole))
    for name in ("ranges.npz", "convert.toml"):
        assert (found.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_a_factory_that_gives_another_model_each_time_is_not_gone_on_with(torch_pupil: Any, tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        Path(torch_pupil.model.partition(":")[0]).read_text().replace("torch.manual_seed(0)", "torch.seed()")
    )
    recipe = CompressRecipe(step=(replace(SPOILED, max_drop=-1000),))
    options = {"data": str(torch_pupil.data), "evaluate": str(torch_pupil.data)}
    assert compress(f"{file}:make", tmp_path / "out", recipe, **options).error, "its checkpoints stay"
    with pytest.raises(UsageError, match="the model is not what it was begun with"):
        compress(f"{file}:make", tmp_path / "out", recipe, resume=True, **options)


def test_without_a_step_that_trains_for_integers_every_artifact_has_the_precision_of_convert(
    keras_pupil: Any, tmp_path: Path
) -> None:
    step = Step(PruneWeights(0.5, schedule="constant"), Train(epochs=0))
    found = run(keras_pupil, tmp_path / "out", step, convert=Recipe(quantize="dynamic"))
    assert [found.history.start.precision, found.history.steps[0].standing.precision] == ["dynamic", "dynamic"]
    assert found.bundle
    assert found.bundle.manifest.precision == "dynamic"
