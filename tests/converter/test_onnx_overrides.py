"""Layers of an ONNX model with a precision of their own: the graph holds it, and ONNX Runtime computes with it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_converter import Recipe, convert, inspect, plan
from edgeferry_converter.data import Samples, open_data
from edgeferry_converter.explain import explain
from edgeferry_converter.overrides import Override
from edgeferry_converter.quantize import Job, quantize
from edgeferry_converter.quantize.onnx_weights import Layout, integers
from edgeferry_converter.quantize.support import INT4, STATIC
from edgeferry_runtime.errors import UsageError
from edgeferry_runtime.model import load
from edgeferry_runtime.numerics import TOLERANCES, compare_output

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.slow

MODELS = Path(__file__).parent / "models"
FLOAT = MODELS / "digits.onnx"
FIRST, SECOND, HEAD = "node_conv2d", "node_conv2d_1", "node_linear"
PAIRS = [pair for pair in itertools.product(TOLERANCES, TOLERANCES) if pair[0] != pair[1]]
USUAL = {"weight-only-int4": "weight-only", "dynamic-int4": "dynamic"}
"""What a convolution gets in an int4 model."""


@pytest.fixture(scope="session")
def digits() -> Samples:
    with load(FLOAT) as model:
        return open_data(MODELS / "digits.npz").bind(model.inputs).take(32)


def carried(path: Path, name: str) -> str:
    """Read from a file in which precision it has a layer."""
    graph = onnx.load(str(path)).graph
    names = {name, f"{name}_MatMul", f"{name}_quant_dynamic", f"{name}_MatMul_quant_dynamic"}
    (node,) = [n for n in graph.node if n.name in names]
    makers = {output: n for n in graph.node for output in n.output}
    if node.op_type in ("ConvInteger", "MatMulInteger"):
        return "dynamic"
    if node.op_type == "MatMulNBits":
        return {1: "weight-only-int4", 4: "dynamic-int4"}[{a.name: a.i for a in node.attribute}["accuracy_level"]]
    weight = makers.get(node.input[1])
    if weight is None or weight.op_type == "Cast":
        return "fp16" if weight else "none"
    types = {t.name: t.data_type for t in graph.initializer}
    readers = [n for n in graph.node if node.output[0] in n.input]
    rounded = [types[n.input[2]] for n in readers if n.op_type == "QuantizeLinear"]
    if types[weight.input[0]] == onnx.TensorProto.INT4:
        return "weight-only-int4"
    if node.input[2] in makers:  # a bias of integers stands with static precisions only
        assert types[makers[node.input[0]].input[2]] == rounded[0]
        return {3: "int8", 5: "int16x8"}[rounded[0]]
    return "weight-only"


def make(target: Path, base: str, samples: Samples, *overrides: Override, **options: Any) -> None:
    static = {base, *(o.precision for o in overrides)} & {*STATIC}
    quantize("onnx", Job(FLOAT, target, base, samples=samples if static else None, overrides=overrides, **options))


def check_outputs(path: Path, samples: Samples, *precisions: str) -> None:
    tolerance = TOLERANCES[max(precisions, key=list(TOLERANCES).index)]
    with load(FLOAT) as whole, load(path) as model:
        answers = [[m.run(sample) for sample in samples] for m in (whole, model)]
    for name in ("digit", "features"):
        error = compare_output(name, *(np.stack([a[name] for a in part]) for part in answers))
        assert not tolerance.violations(error)
        assert error.cosine > 0.99


@pytest.mark.parametrize(("base", "own"), [pair for pair in PAIRS if pair[0] not in INT4])
def test_a_matrix_has_any_precision_in_a_model_of_any_other(
    base: str, own: str, digits: Samples, tmp_path: Path
) -> None:
    make(tmp_path / "m", base, digits, Override(own, operator="Gemm"))
    assert carried(tmp_path / "m", HEAD) == own
    assert carried(tmp_path / "m", SECOND) == base
    check_outputs(tmp_path / "m", digits, base, own)


@pytest.mark.parametrize(
    ("base", "own"), [pair for pair in PAIRS if pair[1] not in ("dynamic-int4", USUAL.get(pair[0]))]
)
def test_a_convolution_has_any_precision_but_dynamic_int4(base: str, own: str, digits: Samples, tmp_path: Path) -> None:
    make(tmp_path / "m", base, digits, Override(own, SECOND))
    assert carried(tmp_path / "m", SECOND) == own
    assert carried(tmp_path / "m", HEAD) == base
    assert carried(tmp_path / "m", FIRST) in (USUAL.get(base, base), "none"), "72 weights are too few for a cast"
    check_outputs(tmp_path / "m", digits, base, own)


@pytest.mark.parametrize(
    ("own", "shown"),
    [
        ("none", "float32"),
        ("fp16", "float32 x float16"),
        ("weight-only", "float32 x int8"),
        ("dynamic", "uint8 x int8"),
        ("weight-only-int4", "float32 x int4"),
        ("dynamic-int4", "int8 x int4"),
        ("int16x8", "int16 x int8"),
    ],
)
def test_an_inspection_tells_what_each_layer_computes_in(own: str, shown: str, digits: Samples, tmp_path: Path) -> None:
    make(tmp_path / "m.onnx", "int8", digits, Override(own, HEAD))
    found = inspect(tmp_path / "m.onnx").layers
    layers = {
        layer.name.removesuffix("_dynamic").removesuffix("_quant").removesuffix("_MatMul"): layer for layer in found
    }
    assert layers[HEAD].precision == shown
    assert layers[FIRST].precision == layers[SECOND].precision == "int8"
    assert layers[HEAD].macs == 2560
    assert layers[HEAD].parameters in (2560, 2570), "a split bias is a layer of its own"


def test_a_conversion_takes_overrides_of_every_kind(tmp_path: Path) -> None:
    overrides = [Override("int16x8", FIRST), Override("weight-only", SECOND), Override("dynamic-int4", operator="Gemm")]
    bundle = convert(
        FLOAT, tmp_path / "b", to="onnx", quantize="int8", calibrate=MODELS / "digits.npz", override=overrides
    )
    assert bundle.manifest.verification["layers"] == {"int4": 1, "int8": 2}
    kept = [carried(bundle.artifact, name) for name in (FIRST, SECOND, HEAD)]
    assert kept == ["int16x8", "weight-only", "dynamic-int4"]
    assert all(output["cosine"] > 0.99 for output in bundle.manifest.verification["outputs"])
    explained = explain(bundle.artifact, FLOAT, bundle.probe())
    assert {"relu", "relu_1", "linear", "digit"} <= {layer.name for layer in explained.layers}
    assert all(layer.snr_db > 20 for layer in explained.layers)


@pytest.mark.parametrize("io_dtype", ["int8", "uint8"])
@pytest.mark.parametrize("own", ["none", "int16x8", "dynamic", "weight-only"])
def test_integer_borders_stand_before_and_behind_any_precision(
    own: str, io_dtype: str, digits: Samples, tmp_path: Path
) -> None:
    last = "digit" if own in ("none", "int16x8") else HEAD
    overrides = (Override(own, FIRST if own != "weight-only" else SECOND), Override(own, last))
    make(tmp_path / "m", "int8", digits, *overrides, io_dtype=io_dtype, activations=io_dtype)
    with load(tmp_path / "m") as model:
        assert {spec.dtype for spec in (*model.inputs, *model.outputs)} == {io_dtype}
    check_outputs(tmp_path / "m", digits, "int8", own)


def test_an_activation_has_the_precision_of_the_layer_that_it_is_joined_with(digits: Samples, tmp_path: Path) -> None:
    make(tmp_path / "m", "int8", digits, Override("int16x8", SECOND))
    graph = onnx.load(str(tmp_path / "m")).graph
    types = {t.name: t.data_type for t in graph.initializer}
    rounded = {n.input[0]: types[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"}
    assert rounded["relu_1"] == onnx.TensorProto.INT16, "the convolution and what follows it are one"
    assert "conv2d_1" not in rounded
    assert rounded["relu"] == onnx.TensorProto.INT8


def test_int4_with_float_activations_is_exact_and_dynamic_is_what_rounds(tmp_path: Path) -> None:
    """Against the same integers in NumPy: float32 to rounding, and int8 activations to theirs."""
    random = np.random.default_rng(0)
    weights, x = random.standard_normal((64, 16)).astype("f4"), random.standard_normal((4, 64)).astype("f4")
    source = matrix(tmp_path / "s.onnx", weights)
    stored, scale = integers(weights, Layout(4, 1, 32))
    held = stored * np.repeat(scale, 32, axis=0)
    blocks = x.reshape(4, 2, 32)
    step = np.abs(blocks).max(-1, keepdims=True) / 127
    rounded = (np.rint(blocks / step) * step).reshape(4, 64)
    for precision, expected in (("weight-only-int4", x @ held), ("dynamic-int4", rounded @ held)):
        quantize("onnx", Job(source, tmp_path / precision, precision, block_size=32))
        with load(tmp_path / precision) as model:
            np.testing.assert_allclose(model.run({"x": x})["y"], expected, rtol=1e-4, atol=1e-4)
    assert np.abs(rounded @ held - x @ held).max() > 1e-2


def test_int8_weights_meet_float_activations(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights, x = random.standard_normal((64, 16)).astype("f4"), random.standard_normal((4, 64)).astype("f4")
    quantize("onnx", Job(matrix(tmp_path / "s.onnx", weights), tmp_path / "m", "weight-only"))
    stored, scale = integers(weights, Layout(8, 1))
    with load(tmp_path / "m") as model:
        np.testing.assert_allclose(model.run({"x": x})["y"], x @ (stored * scale), rtol=1e-4, atol=1e-4)


def matrix(path: Path, weights: np.ndarray, **options: Any) -> Path:
    """Write y = x * weights as a Gemm."""
    helper = onnx.helper
    values = [helper.make_tensor_value_info(n, 1, ("n", size)) for n, size in zip("xy", weights.shape, strict=True)]
    node = helper.make_node("Gemm", ["x", "w"], ["y"], "product", **options)
    graph = helper.make_graph([node], "g", values[:1], values[1:], [onnx.numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (Override("dynamic-int4", operator="Conv"), "Conv cannot be dynamic-int4 in ONNX"),
        (Override("fp16", operator="Softmax"), "Softmax cannot be fp16 in ONNX"),
        (Override("weight-only", operator="Relu"), "Relu cannot be weight-only in ONNX"),
        (Override("weight-only-int4", operator="Reshape"), "Reshape cannot be weight-only-int4"),
        (Override("dynamic", operator="Softmax"), "Softmax cannot be dynamic in ONNX"),
        (Override("fp16", operator="ReduceMeen"), "did you mean 'ReduceMean'"),
    ],
)
def test_what_an_operator_does_not_have_is_refused(
    override: Override, said: str, digits: Samples, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        make(tmp_path / "m", "weight-only", digits, override)
    assert not (tmp_path / "m").exists()


def test_a_product_that_is_scaled_has_no_int4(tmp_path: Path) -> None:
    source = matrix(tmp_path / "s.onnx", np.ones((32, 16), np.float32), alpha=0.5)
    with pytest.raises(UsageError, match="Gemm cannot be dynamic-int4"):
        quantize("onnx", Job(source, tmp_path / "m", "weight-only", overrides=(Override("dynamic-int4", "product"),)))


def test_a_plan_knows_that_an_override_needs_calibration(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--override node_linear=int16x8: .*give --calibrate"):
        plan(FLOAT, tmp_path / "b", Recipe("onnx", override=(Override("int16x8", HEAD),)))


@pytest.mark.parametrize(
    ("base", "own", "levels"),
    [("int16x8", "none", 65536), ("none", "int16x8", 65536), ("int8", "int16x8", 256), ("int16x8", "int8", 256)],
)
def test_ranges_are_chosen_for_the_steps_that_they_get(base: str, own: str, levels: int, tmp_path: Path) -> None:
    assert Job(FLOAT, tmp_path / "m", base, overrides=(Override(own, HEAD),)).levels == levels


@pytest.mark.parametrize(
    ("base", "own"), [("none", "int8"), ("weight-only", "int8"), ("int8", "none"), ("int8", "fp16")]
)
def test_operator_set_21_runs_where_float_layers_read_quantized_ones(
    base: str, own: str, digits: Samples, tmp_path: Path
) -> None:
    """ONNX Runtime's optimizer breaks such a graph of standard nodes behind a Reshape."""
    source = tmp_path / "s.onnx"
    onnx.save(onnx.version_converter.convert_version(onnx.load(str(FLOAT)), 21), str(source))
    override = Override(own, SECOND if own == "int8" else HEAD)
    quantize("onnx", Job(source, tmp_path / "m", base, samples=digits, overrides=(override,)))
    assert carried(tmp_path / "m", SECOND if own == "int8" else HEAD) == own
    check_outputs(tmp_path / "m", digits, base, own)
    shown = {layer.name: layer.precision for layer in inspect(tmp_path / "m").layers}
    assert shown[SECOND] == "int8"
