"""Quantized TFLite artifacts: right values, true ranges, and borders as they were."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeferry_converter.data import Samples, open_data
from edgeferry_converter.quantize import Job, quantize
from edgeferry_converter.quantize.tflite import make_names_unique
from edgeferry_runtime.errors import ConversionError
from edgeferry_runtime.model import Model, load
from edgeferry_runtime.numerics import compare_output

flatbuffers = pytest.importorskip("ai_edge_litert.tools.flatbuffer_utils")
pytest.importorskip("ai_edge_quantizer")

MODELS = Path(__file__).parent / "models"
FLOAT = MODELS / "digits.tflite"
VARIANTS = [("fp16", "float32"), ("dynamic", "float32"), ("int8", "float32"), ("int8", "int8")]


@pytest.fixture(scope="session")
def float_model() -> Model:
    return load(FLOAT)


@pytest.fixture(scope="session")
def samples(float_model: Model) -> Samples:
    return open_data(MODELS / "digits.npz").bind(float_model.inputs)


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory, samples: Samples) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("tflite")
    made = {}
    for precision, io_dtype in VARIANTS:
        target = folder / f"{precision}-{io_dtype}.tflite"
        quantize("tflite", Job(FLOAT, target, precision, io_dtype, samples if precision == "int8" else None))
        made[precision, io_dtype] = target
    return made


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_output_stays_close(
    variant: tuple[str, str], artifacts: dict[tuple[str, str], Path], float_model: Model, samples: Samples
) -> None:
    model = load(artifacts[variant])
    for name in ("digit", "features"):
        reference = np.stack([float_model.run(sample)[name] for sample in samples])
        actual = np.stack([model.run(sample)[name] for sample in samples])
        error = compare_output(name, reference, actual)
        assert error.cosine > 0.999
        assert error.top1 is None or error.top1 >= 0.98


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_order_shapes_and_signature_survive(
    variant: tuple[str, str], artifacts: dict[tuple[str, str], Path], float_model: Model
) -> None:
    model = load(artifacts[variant])
    for before, after in zip(float_model.inputs + float_model.outputs, model.inputs + model.outputs, strict=True):
        assert (before.name, before.shape) == (after.name, after.shape)
        assert after.dtype == variant[1]
        assert (after.quantization is not None) == (variant[1] == "int8")
    before, after = (flatbuffers.read_model(str(path)) for path in (FLOAT, artifacts[variant]))
    assert [s.signatureKey for s in before.signatureDefs] == [s.signatureKey for s in after.signatureDefs]
    for border in ("inputs", "outputs"):
        names = [[m.subgraphs[0].tensors[i].name for i in getattr(m.subgraphs[0], border)] for m in (before, after)]
        assert names[0] == names[1]


def test_quantized_artifacts_are_smaller_and_the_same_each_time(
    artifacts: dict[tuple[str, str], Path], samples: Samples, tmp_path: Path
) -> None:
    assert artifacts["int8", "int8"].stat().st_size < FLOAT.stat().st_size
    again = tmp_path / "again.tflite"
    quantize("tflite", Job(FLOAT, again, "int8", "int8", samples))
    assert again.read_bytes() == artifacts["int8", "int8"].read_bytes()


def test_weights_are_symmetric_per_channel_and_activations_are_not(artifacts: dict[tuple[str, str], Path]) -> None:
    model = flatbuffers.read_model(str(artifacts["int8", "float32"]))
    weights = [t for t in model.subgraphs[0].tensors if t.type == 9 and len(t.quantization.scale) > 1]
    assert sorted(len(t.quantization.scale) for t in weights) == [8, 10, 16]
    assert all(not np.any(t.quantization.zeroPoint) for t in weights)
    activations = [t for t in model.subgraphs[0].tensors if t.type == 9 and len(t.quantization.scale) == 1]
    assert -128 in [int(t.quantization.zeroPoint[0]) for t in activations], "a ReLU's range begins at zero"


@pytest.mark.parametrize("variant", VARIANTS)
def test_stored_values_are_aligned_for_every_processor(
    variant: tuple[str, str], artifacts: dict[tuple[str, str], Path]
) -> None:
    content = np.frombuffer(artifacts[variant].read_bytes(), np.uint8)
    model = flatbuffers.Model.GetRootAs(content)
    stored = [model.Buffers(i).DataAsNumpy() for i in range(model.BuffersLength()) if model.Buffers(i).DataLength()]
    assert len(stored) > 4
    begin = content.__array_interface__["data"][0]
    assert {(values.__array_interface__["data"][0] - begin) % 16 for values in stored} == {0}


def test_tensors_that_share_a_name_are_told_apart(samples: Samples, tmp_path: Path, float_model: Model) -> None:
    model = flatbuffers.read_model(str(FLOAT))
    for tensor in model.subgraphs[0].tensors:
        tensor.name = b"same"
    twin, target = tmp_path / "twin.tflite", tmp_path / "out.tflite"
    flatbuffers.write_model(model, str(twin))
    quantize("tflite", Job(twin, target, "int8", "float32", samples))
    quantized = load(target)
    assert [s.name for s in quantized.outputs] == [s.name for s in float_model.outputs]
    sample = next(iter(samples))
    np.testing.assert_allclose(quantized.run(sample)["digit"], float_model.run(sample)["digit"], atol=0.1)
    assert make_names_unique(model)
    assert not make_names_unique(model)


def test_a_file_without_signature_keeps_its_tensor_names(samples: Samples, tmp_path: Path) -> None:
    model = flatbuffers.read_model(str(FLOAT))
    model.signatureDefs = None
    bare, target = tmp_path / "bare.tflite", tmp_path / "out.tflite"
    flatbuffers.write_model(model, str(bare))
    names = [spec.name for spec in load(bare).inputs + load(bare).outputs]
    renamed = Samples(samples.path, load(bare).inputs, {names[0]: samples.columns["image"]})
    for io_dtype in ("float32", "int8"):
        quantize("tflite", Job(bare, target, "int8", io_dtype, renamed))
        assert [spec.name for spec in load(target).inputs + load(target).outputs] == names


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_files_from_before_2020_are_read_right(
    precision: str, samples: Samples, tmp_path: Path, artifacts: dict[tuple[str, str], Path]
) -> None:
    model = flatbuffers.read_model(str(FLOAT))
    for code in model.operatorCodes:
        code.builtinCode = 0
    old, target = tmp_path / "old.tflite", tmp_path / "out.tflite"
    flatbuffers.write_model(model, str(old))
    quantize("tflite", Job(old, target, precision, "float32", samples if precision == "int8" else None))
    new = load(artifacts[precision, "float32"])
    for sample in samples.take(4):
        np.testing.assert_array_equal(load(target).run(sample)["digit"], new.run(sample)["digit"])


@pytest.mark.parametrize("variant", [("int8", "int8"), ("dynamic", "float32"), ("fp16", "float32")])
def test_a_quantized_file_is_not_quantized_again(
    variant: tuple[str, str], artifacts: dict[tuple[str, str], Path], samples: Samples, tmp_path: Path
) -> None:
    target = tmp_path / "twice.tflite"
    with pytest.raises(ConversionError, match="is quantized already"):
        quantize("tflite", Job(artifacts[variant], target, "int8", "float32", samples))
    assert not target.exists()


@pytest.mark.slow
def test_quantizing_imports_no_training_framework(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edgeferry_converter.quantize import Job, quantize\n"
        f"quantize('tflite', Job(Path({str(FLOAT)!r}), Path({str(tmp_path / 'o.tflite')!r}), 'dynamic'))\n"
        "print(sorted({'tensorflow', 'torch', 'jax', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n", "and nothing else is printed"
    assert done.stderr == ""
