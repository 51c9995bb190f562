"""The PyTorch simulation against the artifact: the same integers of weights, and activations within one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

from edgeferry_converter import convert
from edgeferry_converter.compress.grid import Grid, Ranges, activation_scale, on_grid
from edgeferry_converter.compress.integers import weights
from edgeferry_converter.compress.lessons import Lessons
from edgeferry_converter.compress.methods import Context
from edgeferry_converter.compress.methods.quantizing import Quantize
from edgeferry_converter.compress.network import Course, Objective
from edgeferry_converter.compress.ranges_file import save
from edgeferry_converter.compress.recipe import Train
from edgeferry_converter.overrides import Override
from edgeferry_converter.recipe import Recipe
from edgeferry_runtime.errors import ConversionError, UnknownNameError, UsageError
from edgeferry_runtime.numerics import Tolerance
from edgeferry_runtime.tensors import Array

pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
KERNELS = {"c1", "d1", "c2", "c3", "t1", "fc1", "fc2"}
LOOSE = Tolerance(min_cosine=-1.0, min_top1=0.0, min_snr_db=-1000.0)


class Made(NamedTuple):
    """A simulation, what it settled to, and the artifact."""

    simulated: Any
    settled: Any
    ranges: Ranges
    artifact: Path


def made(blocks: ModuleType, module: Any, grid: Grid, folder: Path, **changes: Any) -> Made:
    simulated = blocks.network(module).simulated(grid)
    simulated.calibrate({"image": blocks.SAMPLES})
    blocks.train(simulated)
    simulated.calibrate({"image": blocks.SAMPLES})
    settled, ranges = simulated.settled()
    save(ranges, folder / "ranges.npz")
    if grid.activations:
        changes["ranges"] = folder / "ranges.npz"
    bundle = convert(settled.save(folder), folder / "bundle", quantize=grid.precision, tolerance=LOOSE, **changes)
    return Made(simulated, settled, ranges, bundle.artifact)


@pytest.fixture(scope="module")
def int8(torch_blocks: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Made:
    import torch

    torch.manual_seed(0)
    module = torch_blocks.seeded(torch_blocks.Blocks())
    return made(torch_blocks, module, Grid(), tmp_path_factory.mktemp("int8"))


def rows(weight: Any, values: Array) -> Array:
    """Return a kernel in the order of TFLite: [outputs, space, inputs], or [space, outputs] where it has one input."""
    if weight.kind == "dense":
        return values
    if values.shape[1] == 1:
        return values[:, 0].transpose(1, 2, 0)
    return values.transpose(1, 2, 3, 0) if weight.kind == "transposed" else values.transpose(0, 2, 3, 1)


def same_integers(found: Made) -> dict[str, Array]:
    """Hold the artifact's integers against the simulation's, kernel by kernel in the order of both; return them."""
    stored = [integers.values for integers in weights(found.artifact).values()]
    wanted = {}
    for weight, values in zip(found.settled.weights(), stored, strict=True):
        bits = found.simulated._prepared.module.get_submodule(found.simulated._prepared.by_kernel[weight.name]).bits
        trained = simulated_integers(found.simulated, weight.name)
        np.testing.assert_array_equal(values.reshape(rows(weight, trained).shape), rows(weight, trained), weight.name)
        settled = on_grid(found.settled.read(weight.name), weight.outputs, bits)[0]
        np.testing.assert_array_equal(settled, trained, weight.name)
        wanted[weight.layer] = trained
    return wanted


def simulated_integers(simulated: Any, name: str) -> Array:
    """Return what a fake quantizer rounds a kernel to, by its own output and scale."""
    import torch

    with torch.no_grad():
        quantizer = simulated._prepared.module.get_submodule(simulated._prepared.by_kernel[name])
        kernel = simulated.module.get_parameter(name)
        steps = quantizer.rows(quantizer(kernel)) / quantizer.scale(quantizer.rows(kernel))
        return np.rint(quantizer._kernel(steps, kernel.shape).numpy()).astype(np.int8)


def test_the_artifact_has_the_integers_of_the_simulation(int8: Made) -> None:
    found = same_integers(int8)
    assert set(found) == KERNELS
    assert all(np.abs(values).max() == 127 for values in found.values())


def stored_activations(path: Path, sample: Array) -> list[tuple[float, int, Array]]:
    """Run the artifact and return every int8 activation with its scale and zero point."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    engine = Interpreter(
        str(path), experimental_preserve_all_tensors=True, experimental_op_resolver_type=plain, num_threads=1
    )
    engine.allocate_tensors()
    engine.get_signature_runner()(image=sample)
    return [
        (detail["quantization"][0], detail["quantization"][1], engine.get_tensor(detail["index"]))
        for detail in engine.get_tensor_details()
        if detail["dtype"] is np.int8 and detail["quantization_parameters"]["scales"].size == 1
    ]


def nearest(stored: list[tuple[float, int, Array]], wanted: Array, limits: tuple[float, float]) -> Array:
    """Return the stored tensor of a range that is nearest to what is wanted, as floats in PyTorch's layout."""
    scale, zero = activation_scale(*limits)
    found = [(values.astype(np.int64) - zero) * scale for s, z, values in stored if np.isclose(s, scale) and z == zero]
    turned = [np.moveaxis(values, -1, 1) if values.ndim == 4 else values for values in found]
    same = [values.astype(np.float32) for values in (*found, *turned) if values.shape == wanted.shape]
    assert same, f"no tensor has the range {limits}"
    return min(same, key=lambda values: float(np.abs(values - wanted).max()))


def test_every_operator_is_within_one_step_of_the_simulation(int8: Made, torch_blocks: ModuleType) -> None:
    """Each is given what the artifact gave to its operator."""
    import torch

    layers, module = int8.simulated._prepared.layers, int8.simulated.module.eval()
    compared = set()

    class Following(torch.fx.Interpreter):
        stored: Any

        def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
            value = super().call_module(target, args, kwargs)
            if target not in layers or kwargs:
                return value
            limits = int8.ranges.ranges[layers[target]]
            mine = nearest(self.stored, value.numpy(), limits)
            steps = np.abs(mine - value.numpy()).max() / activation_scale(*limits)[0]
            assert steps < 1.01, (layers[target], steps)
            compared.add(layers[target])
            return torch.from_numpy(mine)

    for sample in torch_blocks.SAMPLES[:4]:
        following = Following(module)
        following.stored = stored_activations(int8.artifact, sample[np.newaxis])
        with torch.no_grad():
            following.run(torch.from_numpy(sample[np.newaxis]))
    assert compared == {"image", "c1", "d1", "c2", "r3", "cat", "t1", "fc1", "tanh", "fc2", "softmax"}


def test_the_answers_are_within_two_steps_from_end_to_end(int8: Made, torch_blocks: ModuleType) -> None:
    from edgeferry_runtime.model import load

    model = load(int8.artifact)
    stored = np.concatenate([model({"image": one[np.newaxis]}) for one in torch_blocks.SAMPLES])
    steps = np.abs(stored - int8.simulated.predict({"image": torch_blocks.SAMPLES})["output_0"]) * 256
    assert steps.max() <= 2
    assert (steps > 0.5).mean() < 0.1


def test_int4_weights_are_the_integers_of_the_simulation(torch_blocks: ModuleType, tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    precision, module = "weight-only-int4", torch_blocks.seeded(torch_blocks.Blocks())
    narrow = {"c1.weight", "c2.weight", "c3.weight"}
    bits = {w.name: 8 for w in torch_blocks.network(module).weights() if w.kind != "dense" and w.name not in narrow}
    override = (Override(precision, operator="CONV_2D"),)
    found = made(torch_blocks, module, Grid(precision, 4, False, False, bits), tmp_path, override=override)
    for layer, values in same_integers(found).items():
        assert np.abs(values).max() == (127 if layer in ("c1", "d1", "t1") else 7), layer
    assert found.ranges.ranges == {}
    assert found.simulated.kept == {"c1": "is stored as a depthwise convolution, whose weights keep 8 bits"}


def test_the_method_quantize_ends_in_a_bundle(torch_blocks: ModuleType, tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    network = torch_blocks.network(torch_blocks.seeded(torch_blocks.Blocks()))
    lessons, warned = Lessons({"image": torch_blocks.SAMPLES}, torch_blocks.LABELS), list[str]()
    course = Course(Objective("cross-entropy", "output_0", probabilities=True), Train(), 2)
    context = Context(lessons, course, 0, True, lambda network: 0.0, warned.append)
    work = Quantize("dynamic-int4", override=({"operator": "TRANSPOSE_CONV", "precision": "none"},)).begin(
        network, context
    )
    work.network.trainer(course).epoch(lessons.in_order(16), work.after_step)
    settled = work.finish()
    recipe = replace(work.options.converted_by(Recipe(), settled), tolerance=LOOSE)
    stored = convert(settled.save(tmp_path), tmp_path / "bundle", recipe).artifact
    assert work.facts["layers"] == {
        **{layer: "int4" if layer.startswith("fc") else "int8" for layer in KERNELS},
        "t1": "float32",
    }
    kernels = [weight for weight in settled.weights() if weight.layer != "t1"]
    for weight, integers in zip(kernels, weights(stored).values(), strict=True):
        found = on_grid(settled.read(weight.name), weight.outputs, 4 if weight.kind == "dense" else 8)[0]
        np.testing.assert_array_equal(integers.values.ravel(), rows(weight, found).ravel(), weight.name)
        assert np.abs(integers.values).max() == (7 if weight.kind == "dense" else 127)
    assert warned == []


def test_an_override_by_layer_is_refused_since_the_artifact_would_not_know_it(torch_blocks: ModuleType) -> None:
    network = torch_blocks.network(torch_blocks.seeded(torch_blocks.Blocks()))
    course = Course(Objective("cross-entropy", "output_0", probabilities=True), Train(), 2)
    lessons = Lessons({"image": torch_blocks.SAMPLES}, torch_blocks.LABELS)
    context = Context(lessons, course, 0, True, lambda network: 0.0, print)
    with pytest.raises(UsageError, match="names a layer, and artifacts of PyTorch models have no names of layers"):
        Quantize("int8", override=({"layer": "c3", "precision": "none"},)).begin(network, context)


def test_the_settled_network_is_the_users_module_without_anything_of_ours(int8: Made) -> None:
    parts = dict(int8.settled.module.named_modules())
    assert {type(part).__module__.split(".")[0] for part in parts.values()} == {"torch", "torch_blocks"}
    assert [name for name, part in parts.items() if type(part).__name__ == "Identity"] == ["b1", "b2", "b3", "b4"]
    assert {weight.layer for weight in int8.settled.weights()} == KERNELS


def test_moments_are_those_of_the_settled_network(int8: Made) -> None:
    samples = {"image": int8.ranges.samples["image"]}
    values = int8.settled.features(samples, ["fc2", "c2"])
    for layer, found in values.items():
        seen = int8.ranges.moments[layer]
        np.testing.assert_allclose([seen.low, seen.high], [found.min(), found.max()], rtol=1e-4)
        np.testing.assert_allclose([seen.mean, seen.square], [found.mean(), (found**2).mean()], rtol=1e-3)
        assert seen.count == found[0].size
    assert int8.ranges.moments["c1"].low == 0  # after the fused ReLU6


@pytest.fixture(scope="module")
def calibrated(torch_blocks: ModuleType) -> Any:
    import torch

    torch.manual_seed(0)
    made = torch_blocks.network(torch_blocks.seeded(torch_blocks.Blocks())).simulated(Grid())
    made.calibrate({"image": torch_blocks.SAMPLES})
    return made


@pytest.fixture
def simulated(calibrated: Any) -> Any:
    return calibrated.clone()


def test_training_lowers_the_loss_and_dropout_switches(simulated: Any, torch_blocks: ModuleType) -> None:
    feeds = {"image": torch_blocks.SAMPLES}
    before = simulated.predict(feeds)["output_0"]
    np.testing.assert_array_equal(before, simulated.predict(feeds)["output_0"])
    dropout = next(part for part in simulated.module.modules() if type(part).__name__ == "Dropout")
    assert dropout.p == 0.2
    assert not dropout.training
    simulated.module.train()
    first, second = (simulated.answers_and_features(feeds, ())[0]["output_0"] for _ in range(2))
    assert (first != second).any()
    simulated.module.eval()
    torch_blocks.train(simulated, 20)
    truth = torch_blocks.LABELS
    after = simulated.predict(feeds)["output_0"]
    picked = np.arange(len(truth)), truth
    assert -np.log(after[picked]).mean() < -np.log(before[picked]).mean() - 0.05


def test_what_was_zero_stays_zero(simulated: Any, torch_blocks: ModuleType) -> None:
    mask = np.random.default_rng(0).random(simulated.read("c3.weight").shape) < 0.5
    simulated.mask({"c3.weight": mask})
    torch_blocks.train(simulated)
    settled = simulated.settled()[0].read("c3.weight")
    assert (settled[~mask] == 0).all()
    assert (settled[mask] != 0).mean() > 0.9


def test_a_state_can_be_taken_up_again(simulated: Any, torch_blocks: ModuleType) -> None:
    feeds, other = {"image": torch_blocks.SAMPLES}, simulated.clone()
    torch_blocks.train(simulated)
    assert (other.predict(feeds)["output_0"] != simulated.predict(feeds)["output_0"]).any()
    other.restore(simulated.state())
    np.testing.assert_array_equal(other.predict(feeds)["output_0"], simulated.predict(feeds)["output_0"])
    assert other.settled()[1].ranges == simulated.settled()[1].ranges
    assert other.parameters() == simulated.settled()[0].parameters()


def test_frozen_ranges_stay(simulated: Any, torch_blocks: ModuleType) -> None:
    before = simulated.settled()[1].ranges
    torch_blocks.train(simulated)
    moved = simulated.settled()[1].ranges
    assert moved != before
    simulated.freeze()
    torch_blocks.train(simulated)
    assert simulated.settled()[1].ranges == moved


def test_learned_ranges_are_trained(torch_blocks: ModuleType) -> None:
    made = torch_blocks.network(torch_blocks.Blocks()).simulated(Grid(learned=True))
    made.calibrate({"image": torch_blocks.SAMPLES})
    before: Mapping[str, Any] = made.settled()[1].ranges
    made.freeze()
    torch_blocks.train(made)
    after = made.settled()[1].ranges
    assert set(after) == set(before)
    assert {layer for layer in before if before[layer] != after[layer]} >= {"c1", "fc2", "cat"}
    assert after["softmax"] == before["softmax"] == (0.0, 255 / 256)


def test_layers_give_features_with_gradients(simulated: Any, torch_blocks: ModuleType) -> None:
    _, found = simulated.answers_and_features({"image": torch_blocks.SAMPLES}, ["b3", "fc1"])
    assert {layer: tuple(value.shape) for layer, value in found.items()} == {"b3": (32, 8, 8, 8), "fc1": (32, 16)}
    assert found["fc1"].requires_grad
    with pytest.raises(UnknownNameError, match="layer of blocks"):
        simulated.features({"image": torch_blocks.SAMPLES}, ["nothing"])


def test_what_pt2e_cannot_take_is_refused(torch_blocks: ModuleType, simulated: Any) -> None:
    import torch
    from torch import nn

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 4, batch_first=True)

        def forward(self, image: Any) -> Any:
            return self.lstm(image[:, 0])[0][:, -1]

    class Branch(nn.Module):
        def forward(self, image: Any) -> Any:
            return image * 2 if image.sum() > 0 else image

    class Conditional(nn.Module):
        def forward(self, image: Any) -> Any:
            return torch.cond(image.sum() > 0, lambda x: x * 2, lambda x: x + 1, (image,))

    with pytest.raises(
        ConversionError, match=r"'lstm' is one operator .*PT2E cannot look; leave the step quantize out"
    ):
        torch_blocks.network(Last()).simulated(Grid())
    with pytest.raises(ConversionError, match=r"torch.export could not trace it.*let forward be free of branches"):
        torch_blocks.network(Branch()).simulated(Grid())
    with pytest.raises(ConversionError, match="branches or loops inside of its graph"):
        torch_blocks.network(Conditional()).simulated(Grid())
    with pytest.raises(ConversionError, match="cannot be resized; prune it before"):
        simulated.resized({})
    assert torch.is_grad_enabled()
