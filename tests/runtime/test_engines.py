"""Engines: what each tells of an artifact, and what it says when it refuses one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeferry_runtime.engines import Delegate, litert, onnxruntime, open_engine
from edgeferry_runtime.errors import CorruptFileError, EngineError, MissingExtraError

CPU = (Delegate(),)


@pytest.mark.parametrize("kind", ["pair.tflite", "pair.onnx"])
def test_an_engine_runs_in_its_own_order(artifacts, kind: str) -> None:
    engine = open_engine(artifacts[kind].suffix[1:], artifacts[kind], (Delegate("cpu", 1),))
    given = {"a": np.ones((2, 3), np.float32), "b": np.full((2, 3), 5, np.float32)}
    found = engine.run([given[spec.name] for spec in engine.inputs])
    answers = {spec.name: value for spec, value in zip(engine.outputs, found, strict=True)}
    assert answers["total"].max() == 6
    assert answers["gap"].max() == 4


def test_a_signature_of_another_subgraph_is_reached(artifacts) -> None:
    engine = open_engine("tflite", artifacts["second.tflite"], CPU)
    assert [spec.name for spec in (*engine.inputs, *engine.outputs)] == ["question", "answer"]
    assert engine.run([np.ones((1, 4), np.float32)])[0].tolist() == [[2, 2, 2, 2]]


def test_litert_falls_back_to_the_next_package(artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    found = litert.import_engine(artifacts["double.tflite"])
    monkeypatch.setattr(
        litert, "PACKAGES", {"absent": ("not_there.interpreter", "x"), found.name: litert.PACKAGES[found.name]}
    )
    assert litert.import_engine(artifacts["double.tflite"]) == found


def test_litert_that_is_not_installed_is_a_missing_extra(artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litert, "PACKAGES", {"absent": ("not_there.interpreter", "not-there")})
    with pytest.raises(MissingExtraError, match=r"edgeferry\[litert\]"):
        open_engine("tflite", artifacts["double.tflite"], CPU)


def test_litert_that_cannot_be_imported_says_why(artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "too_new_litert.py").write_text("raise ImportError('GLIBC_2.99 not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(litert, "PACKAGES", {"too_new": ("too_new_litert", "too-new")})
    with pytest.raises(EngineError, match=r"too_new is installed and cannot be imported \(GLIBC_2\.99 not found\)"):
        open_engine("tflite", artifacts["double.tflite"], CPU)


def test_a_package_without_metadata_has_an_unknown_version(artifacts, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "own_litert.py").write_text("class Interpreter: ...\n\n\ndef load_delegate(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(litert, "PACKAGES", {"own": ("own_litert", "no-such-distribution")})
    assert litert.import_engine(artifacts["double.tflite"]).version == "unknown"


@pytest.mark.parametrize(
    ("name", "said"),
    [("edgetpu-custom-op", "is compiled for the Edge TPU, and cannot run on a CPU"), ("Decode.v2", "Decode.v2")],
)
def test_custom_operators_are_named(tiny, tmp_path: Path, name: str, said: str) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(tiny.tflite_custom(name))
    with pytest.raises(EngineError, match=said):
        open_engine("tflite", path, CPU)


def test_onnxruntime_refuses_in_one_line(tmp_path: Path, tiny) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny.onnx_pair().replace(b"Sub", b"Sob"))
    with pytest.raises(EngineError) as error:
        open_engine("onnx", path, CPU)
    assert "Sob" in str(error.value)
    assert "ONNXRuntimeError" not in str(error.value)


def test_onnxruntime_never_falls_back_nor_prints(tmp_path: Path, tiny, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny.onnx_pair().replace(b"total", b"t\xff\xfeal"))
    with pytest.raises(EngineError):
        open_engine("onnx", path, CPU).run([])
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("text", ["{", "[1]", '{"x": 1}', '{"x": {"scale": ["a"], "zero_point": [0], "axis": null}}'])
def test_quantization_metadata_that_cannot_be_read(text: str) -> None:
    with pytest.raises(CorruptFileError, match=r"edgeferry\.quantization"):
        onnxruntime._quantizations(Path("model.onnx"), text)


def test_a_run_that_fails_is_an_engine_error(artifacts) -> None:
    wrong = [np.ones((3, 3), np.float32)]
    for kind in ("double.tflite", "double.onnx"):
        with pytest.raises(EngineError, match="refuses it"):
            open_engine(kind[7:], artifacts[kind], CPU).run(wrong)


def test_ports_without_names_are_numbered(tiny, tmp_path: Path) -> None:
    data = tiny.tflite_double().replace(b"\1\0\0\0x\0", b"\1\0\0\0\0\0").replace(b"\1\0\0\0y\0", b"\0\0\0\0\0\0")
    path = tmp_path / "model.tflite"
    path.write_bytes(data)
    engine = open_engine("tflite", path, CPU)
    assert engine.outputs[0].name == "output_0"


@pytest.mark.parametrize("kind", ["pair.tflite", "pair.onnx"])
def test_an_engine_closes_twice_and_then_refuses(artifacts, kind: str) -> None:
    engine = open_engine(artifacts[kind].suffix[1:], artifacts[kind], CPU)
    engine.reset()
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="was closed"):
        engine.run([])


def test_the_cpu_tells_the_share_of_xnnpack(artifacts) -> None:
    execution = open_engine("tflite", artifacts["pair.tflite"], (Delegate("cpu", 2),)).execution
    assert execution.processor == "CPU, XNNPACK, 2 threads"
    assert (execution.nodes_total, execution.nodes_delegated, execution.partitions) == (2, 2, 1)
    assert execution.full


def test_onnxruntime_counts_its_nodes_and_delegates_none(artifacts) -> None:
    execution = open_engine("onnx", artifacts["pair.onnx"], CPU).execution
    assert execution.nodes_total in (2, None)
    assert execution.nodes_delegated is None
    assert execution.full
