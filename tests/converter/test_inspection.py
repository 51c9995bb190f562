"""What the inspection reads, against models whose every figure is known."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_converter.inspection import Inspection, inspect
from edgeferry_converter.inspection.arena import Life, pack
from edgeferry_converter.inspection.text import count, render, shorten, size
from edgeferry_runtime.errors import CorruptFileError, EdgeferryError, MissingFileError, UsageError

MODELS = Path(__file__).parent / "models"
GOLDEN = Path(__file__).parent / "golden"
TINY = Path(__file__).parents[1] / "runtime" / "tiny_models.py"


@pytest.fixture(scope="module")
def tiny() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_models", TINY)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    made = {
        "dense.tflite": tiny.tflite_dense(16, 2),
        "int8.tflite": tiny.tflite_logistic_int8(),
        "pair.tflite": tiny.tflite_pair(),
        "custom.tflite": tiny.tflite_custom("FlexErf"),
        "batch.tflite": tiny.tflite_double(dynamic=True),
        "second.tflite": tiny.tflite_second_subgraph(),
        "dense.onnx": tiny.onnx_dense(16, 2),
        "int8.onnx": tiny.onnx_identity_int8(),
        "pair.onnx": tiny.onnx_pair(),
        "batch.onnx": tiny.onnx_double(dynamic=True),
    }
    for name, data in made.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    "name", ["dense.tflite", "int8.tflite", "pair.tflite", "custom.tflite", "dense.onnx", "int8.onnx", "batch.onnx"]
)
def test_the_text_is_the_golden_one(name: str, files: Path, request: pytest.FixtureRequest) -> None:
    text = render(inspect(files / name)) + "\n"
    golden = GOLDEN / f"inspect-{name}.txt"
    if request.config.getoption("--update-golden"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8"), "run: pytest --update-golden"
    assert max(map(len, text.splitlines())) <= 100
    assert len(text.splitlines()) <= 40


@pytest.mark.parametrize("name", ["dense.tflite", "dense.onnx"])
def test_two_dense_layers_are_counted(name: str, files: Path) -> None:
    found = inspect(files / name)
    assert found.macs == 2 * 16 * 16
    assert [layer.precision for layer in found.layers] == ["float32", "float32"]
    assert [spec.shape for spec in (*found.inputs, *found.outputs)] == [(1, 16), (1, 16)]
    assert found.arena_bytes == 3 * 64, (
        "input, hidden and output of 64 bytes; the first two live at once, and inputs stay"
    )


def test_weights_are_counted_once_however_often_they_are_used(files: Path) -> None:
    found = inspect(files / "dense.onnx")
    assert [layer.parameters for layer in found.layers] == [256, 0], "both layers multiply by the same w"
    assert [layer.weight for layer in found.layers] == ["float32", "float32"]


def test_the_names_are_those_of_the_signature(files: Path) -> None:
    found = inspect(files / "pair.tflite")
    assert [spec.name for spec in found.inputs] == ["a", "b"]
    assert not any("no signature" in note for note in found.notes)
    assert [spec.name for spec in inspect(files / "second.tflite").inputs] == ["question"]


def test_flex_operators_stand_apart_from_custom_ones(tiny: ModuleType, files: Path, tmp_path: Path) -> None:
    assert (inspect(files / "custom.tflite").flex, inspect(files / "custom.tflite").custom) == (("FlexErf",), ())
    (tmp_path / "own.tflite").write_bytes(tiny.tflite_custom("Own"))
    assert inspect(tmp_path / "own.tflite").custom == ("Own",)


def test_one_network_in_both_formats_has_the_same_size() -> None:
    lite, onnx = inspect(MODELS / "digits.tflite"), inspect(MODELS / "digits.onnx")
    assert lite.macs == onnx.macs == 64 * 9 * 8 + 16 * 9 * 8 * 16 + 256 * 10
    assert lite.parameters == onnx.parameters == 80 + 1168 + 2570


def test_a_dequantized_weight_belongs_to_the_layer_that_uses_it(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    w = np.arange(12, dtype=np.int8).reshape(3, 4)
    constants = [
        onnx.numpy_helper.from_array(w, "w"),
        onnx.numpy_helper.from_array(np.float32(0.1), "s"),
        onnx.numpy_helper.from_array(np.int8(0), "z"),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["real"]),
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("MatMul", ["t", "real"], ["y"]),
    ]
    sides = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 2, 3, 5]), ("y", None))]
    graph = helper.make_graph(nodes, "g", sides[:1], sides[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    found = inspect(tmp_path / "m.onnx")
    assert [layer.operator for layer in found.layers] == ["Transpose", "MatMul"]
    assert (found.parameters, found.layers[1].weight_bytes) == (12, 12)
    assert found.layers[1].precision == "float32 x int8"
    assert found.transposes == ("t",)


def test_a_convolution_of_halves_computes_in_float_with_half_weights(tmp_path: Path) -> None:
    from edgeferry_converter.quantize import Job, quantize

    quantize("tflite", Job(MODELS / "digits.tflite", tmp_path / "h.tflite", "fp16"))
    found = inspect(tmp_path / "h.tflite")
    assert found.parameters == inspect(MODELS / "digits.tflite").parameters
    convolutions = [layer for layer in found.layers if layer.operator == "CONV_2D"]
    assert {layer.precision for layer in convolutions} == {"float32 x float16"}


lives = st.builds(
    lambda size, first, length: Life(size, first, min(first + length, 9)),
    st.integers(1, 1000), st.integers(0, 9), st.integers(0, 9),
)  # fmt: skip


@pytest.mark.slow
@given(st.lists(lives, max_size=12))
def test_an_arena_holds_what_lives_at_once_and_is_never_larger_than_everything(found: list[Life]) -> None:
    peak = max((sum(x.size for x in found if x.first <= at <= x.last) for at in range(10)), default=0)
    assert peak <= pack(found, 9) <= sum(-(-x.size // 64) * 64 for x in found)


def test_numbers_in_human_units() -> None:
    assert [count(n) for n in (None, 0, 999, 1000, 12_501_632, 3 * 10**9)] == ["?", "0", "999", "1 k", "12.5 M", "3 G"]
    assert [size(n) for n in (0, 98_496, 4_300_000)] == ["0 B", "98.5 kB", "4.3 MB"]
    assert shorten("a/very/long/name", 8) == "…ng/name"


@pytest.mark.slow
def test_no_framework_and_no_engine_is_imported() -> None:
    code = "import sys; from edgeferry_converter.inspection import inspect"
    code += "\nfor path in sys.argv[1:]: inspect(path)\nprint(*sys.modules)"
    files = [str(MODELS / f"digits.{suffix}") for suffix in ("tflite", "onnx")]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert modules.isdisjoint({"tensorflow", "torch", "keras", "jax", "onnxruntime", "ai_edge_litert.interpreter"})


def test_what_cannot_be_inspected_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        inspect(tmp_path / "nowhere.tflite")
    with pytest.raises(UsageError, match="only when it runs"):
        inspect("net.py:make")
    whole = (MODELS / "digits.tflite").read_bytes()
    (tmp_path / "half.tflite").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptFileError):
        inspect(tmp_path / "half.tflite")


def ferry(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeferry_runtime", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_command_prints_text_or_json() -> None:
    import json

    done = ferry("inspect", MODELS / "digits.tflite")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("digits.tflite: tflite, 18.8 kB, 3.82 k parameters, 25.6 k MACs")
    data = json.loads(ferry("inspect", MODELS / "digits.tflite", "--json").stdout)
    assert (data["schema"], data["parameters"], data["format"]) == (1, 3818, "tflite")
    assert len(data["layers"]) == sum(operator["count"] for operator in data["operators"])


@pytest.mark.zoo
def test_the_zoo_is_survived_with_sane_figures(zoo: Path) -> None:
    found: dict[str, Inspection] = {}
    for path in (*zoo.rglob("*.tflite"), *zoo.rglob("*.onnx")):
        try:
            found[path.name] = inspect(path)
        except EdgeferryError as error:
            assert "invalid_models" in str(path) or "litert-testdata" in str(path), error
        else:
            text = render(found[path.name], every=True)
            assert max(map(len, text.splitlines())) <= 100, path
            assert found[path.name].parameters * 0.4 <= found[path.name].size, path
    assert len(found) > 100
    assert found["mobilenet_v1_0.25_128_quant.tflite"].macs == pytest.approx(13.6e6, rel=0.01)
    assert found["pretrainedResnet.tflite"].macs == pytest.approx(12.5e6, rel=0.01)
    assert found["mobilenet_v2_1.0_224_quant.tflite"].parameters == pytest.approx(3.49e6, rel=0.01)
    assert found["mobilenet_v1_0.25_128_quant_edgetpu.tflite"].custom == ("edgetpu-custom-op",)
