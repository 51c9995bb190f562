"""Pruning of weights, of both frameworks: what is reached, what is left alone, and what a later step keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_converter.compress.lessons import Lessons
from edgeferry_converter.compress.methods import Context, Options
from edgeferry_converter.compress.methods.masking import keep_zeros
from edgeferry_converter.compress.methods.pattern import PrunePattern, depth_axis
from edgeferry_converter.compress.methods.quantizing import Quantize
from edgeferry_converter.compress.methods.weights import PruneWeights
from edgeferry_converter.compress.network import Course, Network, Objective
from edgeferry_converter.compress.opening import open_network
from edgeferry_converter.compress.recipe import Train
from edgeferry_converter.compress.sensitivity import judge
from edgeferry_converter.sources import SourceSpec
from edgeferry_runtime.errors import TrainingError, UnknownNameError, UsageError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
FRAMEWORKS = ("keras", "torch")
Open = Callable[[str], tuple[Network, Lessons]]


@pytest.fixture(scope="module")
def opened(keras_pupil: Any, torch_pupil: Any) -> Open:
    """Open a small model of a framework, with 96 labelled samples."""

    def open_pupil(framework: str) -> tuple[Network, Lessons]:
        pupil = {"keras": keras_pupil, "torch": torch_pupil}[framework]
        with np.load(pupil.data) as data:
            lessons = Lessons({"image": data["image"]}, data["label"])
        return open_network(SourceSpec.parse(pupil.model)), lessons

    return open_pupil


def run(network: Network, lessons: Lessons, options: Options, train: Train, **more: Any) -> tuple[Any, list[str]]:
    """Carry out a step; return its work, and what it warned of."""
    said: list[str] = []
    steps = train.epochs * len(lessons.in_order(train.batch_size))
    output = network.outputs[0].name
    course = Course(Objective("cross-entropy", output, network.framework == "keras"), train, steps)
    score = judge(output)
    work = options.begin(
        network, Context(lessons, course, 0, more.get("strict", False), lambda n: score(n, lessons), said.append)
    )
    if train.epochs:
        trainer = work.network.trainer(course)
        for epoch in range(train.epochs):
            trainer.epoch(lessons.shuffled(train.batch_size, 0, epoch), work.after_step)
    work.finish()
    return work, said


def zeros(network: Network) -> dict[str, float]:
    return {w.layer: float(np.mean(network.read(w.name) == 0)) for w in network.weights()}


def overall(network: Network) -> float:
    return float(np.mean(np.concatenate([network.read(w.name).ravel() == 0 for w in network.weights()])))


AT_ONCE = Train(epochs=0)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_pruned_model_has_its_zeros_answers_as_before_and_is_saved_plain(
    opened: Open, framework: str, tmp_path: Path
) -> None:
    network, lessons = opened(framework)
    output = network.outputs[0].name
    if framework == "torch":
        run(network, lessons, PruneWeights(0.0), Train(epochs=30, learning_rate=0.02))
    before = judge(output)(network, lessons)
    work, _ = run(network, lessons, PruneWeights(0.5), Train(epochs=10, learning_rate=0.01))
    sizes = [int(np.prod(w.shape)) for w in network.weights()]
    assert overall(work.network) == work.facts["sparsity"] == np.ceil(0.5 * sum(sizes)) / sum(sizes)
    assert work.facts["layers"] == pytest.approx(zeros(network))
    assert judge(output)(work.network, lessons) >= before - 5
    work.network.save(tmp_path)
    assert share_of_file(tmp_path) == pytest.approx(work.facts["sparsity"], abs=1e-9)


def share_of_file(folder: Path) -> float:
    """Return the zeros of the kernels in what was saved, as anybody would load it."""
    if (folder / "model.keras").exists():
        import keras

        kernels = [v for v in keras.saving.load_model(folder / "model.keras").get_weights() if v.ndim > 1]
    else:
        from safetensors.numpy import load_file

        kernels = [v for v in load_file(folder / "weights.safetensors").values() if v.ndim > 1]
    return float(np.mean(np.concatenate([k.ravel() == 0 for k in kernels])))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_zeros_stay_through_a_later_step_that_prunes_no_more(opened: Open, framework: str) -> None:
    network, lessons = opened(framework)
    run(network, lessons, PruneWeights(0.7), AT_ONCE)
    before = {w.name: network.read(w.name) == 0 for w in network.weights()}
    later = network.clone()
    keep_zeros(later)
    objective = Objective("cross-entropy", later.outputs[0].name, framework == "keras")
    later.trainer(Course(objective, Train(), 3)).epoch(lessons.in_order(32), lambda step: None)
    for name, gone in before.items():
        assert not later.read(name)[gone].any(), name
        assert (later.read(name)[~gone] != network.read(name)[~gone]).any(), name
    work, _ = run(later, lessons, PruneWeights(0.3), AT_ONCE)
    assert overall(work.network) == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_zeros_stay_through_training_for_the_grid_of_integers(opened: Open, framework: str) -> None:
    network, lessons = opened(framework)
    run(network, lessons, PruneWeights(0.7), AT_ONCE)
    gone = {w.name: network.read(w.name) == 0 for w in network.weights()}
    objective = Objective("cross-entropy", network.outputs[0].name, framework == "keras")
    course = Course(objective, Train(epochs=1), 3)
    work = Quantize().begin(network, Context(lessons, course, 0, False, lambda n: 0.0, lambda t: None))
    keep_zeros(work.network)
    work.network.trainer(course).epoch(lessons.in_order(32), work.after_step)
    settled = work.finish()
    for name, zero in gone.items():
        assert not settled.read(name)[zero].any(), name


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_step_that_was_cut_goes_on_with_the_masks_it_had(opened: Open, framework: str) -> None:
    network, lessons = opened(framework)
    context = Context(lessons, Course(Objective("mse", "x"), Train(), 10), 0, False, lambda n: 0.0, lambda t: None)
    options = PruneWeights(0.8, every=1)
    first = options.begin(network.clone(), context)
    first.after_step(3)
    second = options.begin(network.clone(), context)
    second.network.restore(first.network.state())
    second.restore(first.state())
    for work in (first, second):
        work.after_step(4)
    assert zeros(first.network) == zeros(second.network)
    assert 0.6 < overall(first.network) < 0.8


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_pattern_leaves_at_most_n_of_m_and_names_what_it_does_not_fit(opened: Open, framework: str) -> None:
    network, lessons = opened(framework)
    conv, dense = network.weights()
    work, said = run(network, lessons, PrunePattern("2:4", "polynomial"), Train(epochs=1))
    groups = np.moveaxis(network.read(dense.name), depth_axis(network, dense), -1).reshape(-1, 4)
    assert (np.count_nonzero(groups, axis=1) == 2).all()
    assert work.facts["layers"] == {dense.layer: 0.5}
    assert work.facts["kept"] == {conv.layer: "its depth of 1 is no multiple of 4"}
    assert len(said) == 1
    assert conv.layer in said[0]
    with pytest.raises(UsageError, match=r"its depth of 1 is no multiple of 4.*name them in skip, or leave --strict"):
        run(network, lessons, PrunePattern(), AT_ONCE, strict=True)
    run(network, lessons, PrunePattern(skip=[conv.layer]), AT_ONCE, strict=True)
    with pytest.raises(UsageError, match="has no layer whose depth is a multiple of 7"):
        run(network, lessons, PrunePattern("2:7"), AT_ONCE)


def test_zeros_that_somebody_filled_again_are_not_passed_over(opened: Open) -> None:
    network, lessons = opened("torch")
    work, _ = run(network, lessons, PruneWeights(0.5), AT_ONCE)
    network.mask({})
    network.write("dense.weight", np.ones((5, 144), np.float32))
    with pytest.raises(TrainingError, match=r"reaches a sparsity of 0\.\d+ where 0\.5\d* was asked for; ask for less"):
        work.finish()


def test_layers_have_amounts_of_their_own_or_are_skipped(opened: Open) -> None:
    network, lessons = opened("torch")
    work, said = run(network, lessons, PruneWeights(amounts={"conv*": 0.5}, skip=["dense"]), AT_ONCE)
    assert work.facts["layers"] == {"conv": 0.5}
    assert work.facts["kept"] == {"dense": "skip names it"}
    assert said == []
    work, _ = run(opened("torch")[0], lessons, PruneWeights(0.9, scope="layer", layers=["c*"]), AT_ONCE)
    assert work.facts["layers"] == {"conv": pytest.approx(0.9, abs=1 / 36)}
    assert work.facts["kept"] == {"dense": "layers does not name it"}


def test_the_same_share_of_each_layer(opened: Open) -> None:
    network, lessons = opened("torch")
    run(network, lessons, PruneWeights(0.75, scope="layer"), AT_ONCE)
    assert zeros(network) == {"conv": 0.75, "dense": 0.75}


def test_a_share_of_the_whole_model_counts_what_is_not_pruned(opened: Open) -> None:
    network, lessons = opened("torch")
    work, _ = run(network, lessons, PruneWeights(0.5, of="model"), AT_ONCE)
    assert work.facts["zeros"] == np.ceil(0.5 * network.parameters())
    with pytest.raises(TrainingError, match=r"can reach a sparsity of 0\.\d+ of all values of the model, and 0.5 is"):
        run(network, lessons, PruneWeights(0.5, of="model", skip=["dense"]), AT_ONCE)


def test_a_scan_says_how_far_each_layer_goes(opened: Open) -> None:
    network, lessons = opened("keras")
    work, _ = run(network, lessons, PruneWeights(sensitivity=3), AT_ONCE)
    found = work.facts["sensitivity"]["layers"]
    for layer, reached in work.facts["layers"].items():
        assert reached == pytest.approx(found[layer]["most"], abs=1 / 36)
    with pytest.raises(TrainingError, match=r"can reach a sparsity of 0\.\d+ of the pruned kernels, and 0.99 is asked"):
        run(opened("keras")[0], lessons, PruneWeights(0.99, sensitivity=0), AT_ONCE)


def test_names_that_match_nothing_are_refused_with_the_nearest(opened: Open) -> None:
    network, lessons = opened("torch")
    for options in ({"layers": ["dence"]}, {"skip": ["dence"]}, {"amounts": {"dence": 0.5}}):
        with pytest.raises(UnknownNameError, match=r"layer: unknown name 'dence'; did you mean 'dense'"):
            run(network, lessons, PruneWeights(**options), AT_ONCE)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="has no layer that is to be pruned and can be"):
        run(network, lessons, PruneWeights(skip=["*"]), AT_ONCE)


def test_what_has_no_kernel_is_named_with_its_reason() -> None:
    import keras

    from edgeferry_converter.compress.on_keras.network import KerasNetwork

    words = keras.Input((6,), dtype="int32", name="words")
    x = keras.layers.Embedding(20, 8, name="table")(words)
    x = keras.layers.MultiHeadAttention(2, 4, name="look")(x, x)
    x = keras.layers.GRU(8, name="run")(keras.layers.LayerNormalization()(x))
    network = KerasNetwork("words", keras.Model(words, keras.layers.Dense(4, name="out")(x)))
    lessons = Lessons({"words": np.zeros((4, 6), np.int32)}, np.zeros(4, np.int64))
    assert network.unprunable() == {
        "table": "Embedding: its table is looked up and not multiplied",
        "look": "MultiHeadAttention: its projections are inside of one layer of attention",
        "run": "GRU: its kernels are recurrent, and run inside of one operator",
    }
    work, said = run(network, lessons, PruneWeights(0.5), AT_ONCE)
    assert work.facts["layers"] == {"out": 0.5}
    assert work.facts["kept"] == network.unprunable()
    assert len(said) == 3
    with pytest.raises(UsageError, match=r"cannot be pruned in table \(Embedding.*\), look .*, run"):
        run(network, lessons, PruneWeights(0.5), AT_ONCE, strict=True)


def test_modules_without_a_kernel_are_named_with_their_reason() -> None:
    import torch
    from torch import nn

    from edgeferry_converter.compress.on_torch.network import TorchNetwork
    from edgeferry_converter.sources.torch_lowering import Call

    table, out = nn.Embedding(20, 8), nn.Linear(8, 20)
    tied = nn.Linear(8, 20)
    tied.weight = nn.Parameter(torch.zeros(20, 8))
    own = nn.Embedding(20, 8)
    own.weight = tied.weight
    parts = {"table": table, "run": nn.LSTM(8, 8), "norm": nn.LayerNorm(8), "out": out, "tied": tied, "own": own}
    module = nn.ModuleDict(parts)
    assert TorchNetwork("words", Call(module, (), None), ((), ())).unprunable() == {
        "table": "Embedding: its table is looked up and not multiplied",
        "run": "LSTM: its kernels are recurrent, and run inside of one operator",
    }


def test_the_depth_of_an_einsum_is_what_its_equation_sums_over() -> None:
    import keras

    from edgeferry_converter.compress.on_keras.network import KerasNetwork

    x = keras.Input((5, 12), name="x")
    heads = keras.layers.EinsumDense("abc,cde->abde", (None, 3, 6), name="heads")(x)
    whole = keras.layers.EinsumDense("abde,def->abf", (None, 7), name="whole")(heads)
    network = KerasNetwork("heads", keras.Model(x, whole))
    assert [(w.inputs, w.outputs) for w in network.weights()] == [((0,), (1, 2)), ((0, 1), (2,))]
    lessons = Lessons({"x": np.zeros((4, 5, 12), np.float32)}, np.zeros((4, 5), np.int64))
    work, _ = run(network, lessons, PrunePattern("1:4"), AT_ONCE)
    assert work.facts["kept"] == {"whole": "its depth of 6 is no multiple of 4"}
    groups = np.moveaxis(network.read("heads/kernel"), 0, -1).reshape(-1, 4)
    assert (np.count_nonzero(groups, axis=1) == 1).all()
