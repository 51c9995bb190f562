"""Quantized ONNX artifacts: right values, QDQ per channel, and borders as they were."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeferry_converter.data import Samples, open_data
from edgeferry_converter.quantize import Job, quantize
from edgeferry_runtime.errors import ConversionError, DataError
from edgeferry_runtime.model import Model, load
from edgeferry_runtime.numerics import compare_output

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

MODELS = Path(__file__).parent / "models"
FLOAT = MODELS / "digits.onnx"
VARIANTS = [("fp16", "float32"), ("dynamic", "float32"), ("int8", "float32"), ("int8", "int8")]


@pytest.fixture(scope="session")
def float_onnx() -> Model:
    return load(FLOAT)


@pytest.fixture(scope="session")
def digits(float_onnx: Model) -> Samples:
    return open_data(MODELS / "digits.npz").bind(float_onnx.inputs)


@pytest.fixture(scope="session")
def onnx_artifacts(tmp_path_factory: pytest.TempPathFactory, digits: Samples) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("onnx")
    made = {}
    for precision, io_dtype in VARIANTS:
        target = folder / f"{precision}-{io_dtype}.onnx"
        quantize("onnx", Job(FLOAT, target, precision, io_dtype, digits if precision == "int8" else None))
        made[precision, io_dtype] = target
    return made


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_output_stays_close(
    variant: tuple[str, str], onnx_artifacts: dict[tuple[str, str], Path], float_onnx: Model, digits: Samples
) -> None:
    model = load(onnx_artifacts[variant])
    for name in ("digit", "features"):
        reference = np.stack([float_onnx.run(sample)[name] for sample in digits])
        actual = np.stack([model.run(sample)[name] for sample in digits])
        error = compare_output(name, reference, actual)
        assert error.cosine > 0.999
        assert error.top1 is None or error.top1 >= 0.98


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_order_and_shapes_survive(
    variant: tuple[str, str], onnx_artifacts: dict[tuple[str, str], Path], float_onnx: Model
) -> None:
    model = load(onnx_artifacts[variant])
    for before, after in zip(float_onnx.inputs + float_onnx.outputs, model.inputs + model.outputs, strict=True):
        assert (before.name, before.shape) == (after.name, after.shape)
        assert after.dtype == variant[1]
        assert (after.quantization is not None) == (variant[1] == "int8")


@pytest.mark.parametrize("variant", VARIANTS)
def test_artifacts_are_valid_and_declare_only_what_they_use(
    variant: tuple[str, str], onnx_artifacts: dict[tuple[str, str], Path]
) -> None:
    model = onnx.load(str(onnx_artifacts[variant]))
    domains = {node.domain for node in model.graph.node} | {""}
    assert {o.domain for o in model.opset_import} == domains
    if domains == {""}:
        onnx.checker.check_model(model, full_check=True)


def test_static_is_qdq_in_int8_per_channel(onnx_artifacts: dict[tuple[str, str], Path]) -> None:
    model = onnx.load(str(onnx_artifacts["int8", "float32"]))
    kinds = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds
    assert not any(kind.startswith("QLinear") for kind in kinds)
    weights = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]
    assert len(weights) == 2
    scales = {t.name: t.dims for t in model.graph.initializer}
    assert sorted(scales[w.name.replace("_quantized", "_scale")][0] for w in weights) == [8, 16]


def test_integer_borders_tell_their_quantization(onnx_artifacts: dict[tuple[str, str], Path]) -> None:
    model = onnx.load(str(onnx_artifacts["int8", "int8"]))
    told = json.loads({p.key: p.value for p in model.metadata_props}["edgeferry.quantization"])
    assert set(told) == {"image", "digit", "features"}
    assert told["image"]["axis"] is None
    assert told["image"]["scale"] == [pytest.approx(1 / 255)]
    assert told["image"]["zero_point"] == [-128]
    touching = [n.op_type for n in model.graph.node if "image" in n.input or "digit" in n.output]
    assert "QuantizeLinear" not in [n.op_type for n in model.graph.node if "image" in n.input], touching


def test_fp16_halves_the_large_weights_only(onnx_artifacts: dict[tuple[str, str], Path]) -> None:
    model = onnx.load(str(onnx_artifacts["fp16", "float32"]))
    half = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    assert sorted(int(np.prod(t.dims)) for t in half) == [8 * 16 * 9, 2560]
    assert onnx_artifacts["fp16", "float32"].stat().st_size < FLOAT.stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_comes_out_the_same_each_time(
    variant: tuple[str, str], onnx_artifacts: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from edgeferry_converter.quantize import Job, quantize\n"
        "from edgeferry_converter.data import open_data; from edgeferry_runtime.model import load\n"
        f"source = Path({str(FLOAT)!r})\n"
        f"samples = open_data(Path({str(MODELS / 'digits.npz')!r})).bind(load(source).inputs)\n"
        f"quantize('onnx', Job(source, Path({str(tmp_path / 'o')!r}), *{variant!r}, samples))\n"
        "print(sorted({'tensorflow', 'torch', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (tmp_path / "o").read_bytes() == onnx_artifacts[variant].read_bytes()
    assert done.stdout == "[]\n"
    assert done.stderr == ""


def gemm(tmp_path: Path, *, listed: bool) -> Path:
    """An old model: opset 9, weights listed among the inputs, a bias of [1, N]."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((6, 5)).astype("f4"), "w"),
        numpy_helper.from_array(rng.standard_normal((1, 5)).astype("f4"), "b"),
    ]
    values = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", (1, 6)), ("w", (6, 5)), ("b", (1, 5)))]
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "g",
        values if listed else values[:1],
        [helper.make_tensor_value_info("y", 1, (1, 5))],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=3 if listed else 8)
    onnx.save(model, str(tmp_path / "gemm.onnx"))
    return tmp_path / "gemm.onnx"


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("io_dtype", ["float32", "int8"])
def test_old_models_with_listed_weights_and_row_biases_are_taken(tmp_path: Path, listed: bool, io_dtype: str) -> None:
    source = gemm(tmp_path, listed=listed)
    spec = load(source).inputs
    data = np.random.default_rng(1).standard_normal((50, 6)).astype("f4")
    samples = Samples(tmp_path, spec, {"x": data})
    quantize("onnx", Job(source, tmp_path / "q.onnx", "int8", io_dtype, samples))
    float_model, model = load(source), load(tmp_path / "q.onnx")
    assert [s.name for s in model.inputs] == ["x"]
    for sample in samples:
        np.testing.assert_allclose(model.run(sample)["y"], float_model.run(sample)["y"], atol=0.15)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_quantized_file_is_not_quantized_again(
    variant: tuple[str, str], onnx_artifacts: dict[tuple[str, str], Path], digits: Samples, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError, match=r"model\.onnx: is quantized already"):
        quantize("onnx", Job(onnx_artifacts[variant], tmp_path / "o", "int8", "float32", digits, "model.onnx"))
    assert not (tmp_path / "o").exists()


def test_a_model_without_weights_has_nothing_to_quantize(tmp_path: Path) -> None:
    helper = onnx.helper
    value = [helper.make_tensor_value_info(n, 1, (1, 4)) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(tmp_path / "a"))
    with pytest.raises(ConversionError, match="no operator that the quantizer supports"):
        quantize("onnx", Job(tmp_path / "a", tmp_path / "o", "dynamic"))


def test_integer_borders_reach_into_the_bodies_of_branches(tmp_path: Path) -> None:
    """A graph of y = MatMul(x, w), z = If(flag, x + y, x - y): both bodies read x and y from outside."""
    helper, rng = onnx.helper, np.random.default_rng(0)
    bodies = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(kind, ["x", "y"], [f"{name}_out"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", 1, (1, 4))],
        )
        for name, kind in (("then", "Add"), ("else", "Sub"))
    }
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("If", ["flag"], ["z"], **bodies)],
        "g",
        [helper.make_tensor_value_info("x", 1, (1, 4)), helper.make_tensor_value_info("flag", 9, ())],
        [helper.make_tensor_value_info("y", 1, (1, 4)), helper.make_tensor_value_info("z", 1, (1, 4))],
        [onnx.numpy_helper.from_array(rng.standard_normal((4, 4)).astype("f4"), "w")],
    )
    source = tmp_path / "if.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(source))
    columns = {"x": rng.standard_normal((40, 4)).astype("f4"), "flag": np.arange(40) % 2 == 0}
    samples = Samples(tmp_path, load(source).inputs, columns)
    quantize("onnx", Job(source, tmp_path / "q.onnx", "int8", "int8", samples))
    float_model, model = load(source), load(tmp_path / "q.onnx")
    assert [spec.dtype for spec in (*model.inputs, *model.outputs)] == ["int8", "bool", "int8", "int8"]
    for sample in samples:
        for name in ("y", "z"):
            np.testing.assert_allclose(model.run(sample)[name], float_model.run(sample)[name], atol=0.2)


def test_static_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no samples"):
        quantize("onnx", Job(FLOAT, tmp_path / "o", "int8"))
