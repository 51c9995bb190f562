"""``ferry engines``: what this machine can execute with, tried for true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import edgeferry_runtime
from edgeferry_runtime import machine
from edgeferry_runtime.commands.engines import _text
from edgeferry_runtime.engines import litert
from edgeferry_runtime.errors import EngineCrashError, EngineError
from edgeferry_runtime.guard import check_artifact
from edgeferry_runtime.model import load
from edgeferry_runtime.survey import Finding, Survey, _way_out, edgetpu, survey
from edgeferry_runtime.survey import engines as surveyed
from edgeferry_runtime.survey.tiny import write_models
from edgeferry_runtime.survey.trial import try_out


@pytest.fixture(scope="module")
def found() -> Survey:
    return survey()


def listed(python: str, environment: dict[str, str]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what another Python finds, by name and kind."""
    env = {**environment, "PYTHONPATH": str(Path(edgeferry_runtime.__file__).parents[1])}
    command = [python, "-m", "edgeferry_runtime", "engines", "--json"]
    data = json.loads(subprocess.run(command, env=env, capture_output=True, check=True, timeout=120).stdout)
    assert data["schema"] == 1
    return {(f["name"], f["kind"]): f for f in (*data["engines"], *data["delegates"])}


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_the_tiny_models_are_sound_and_double(kind: str, tmp_path: Path) -> None:
    path = write_models(tmp_path)[kind]
    assert check_artifact(path) == kind
    with load(path) as model:
        assert model([[1, 2, 3, 4]]).tolist() == [[2, 4, 6, 8]]


@pytest.mark.slow
def test_what_is_installed_here_is_usable(found: Survey) -> None:
    engines = {f.name: f for f in found.engines}
    assert list(engines) == [
        "LiteRT Interpreter", "LiteRT CompiledModel", "tflite_runtime", "TensorFlow Lite", "ONNX Runtime"
    ]  # fmt: skip
    names = {"LiteRT Interpreter": "ai_edge_litert", "tflite_runtime": "tflite_runtime", "ONNX Runtime": "onnxruntime"}
    installed = machine.installed_engines()
    assert [engines[name].version for name in names] == [installed.get(engine) for engine in names.values()]
    assert [engines[name].usable for name in names] == [engine in installed for engine in names.values()]
    cpus = {f.kind: f for f in found.delegates if f.name == "cpu"}
    assert ("XNNPACK" in str(cpus["tflite"].detail)) == any("lite" in engine for engine in installed)
    assert ("cores" in str(cpus["onnx"].detail)) == ("onnxruntime" in installed)


def test_what_cannot_be_used_says_why_and_what_to_do(found: Survey) -> None:
    for finding in (*found.engines, *found.delegates):
        if finding.usable is False:
            assert finding.reason, finding
            assert finding.fix, finding
            assert "--delegate" not in finding.fix, finding
    assert {f.name for f in found.delegates if f.kind == "tflite"} == {
        "cpu",
        "gpu",
        "npu",
        "edgetpu:usb",
        "edgetpu:pci",
    }


@pytest.mark.slow
def test_nothing_was_imported_here(tmp_path: Path) -> None:
    code = (
        "import sys; from edgeferry_runtime.survey import survey; survey(); "
        "print([m for m in sys.modules if m in ('onnxruntime', 'ai_edge_litert', 'tensorflow')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_the_table_names_each_way_out_once() -> None:
    lack = [Finding(name, "tflite", False, reason="no driver", fix="install one") for name in ("gpu", "npu")]
    text = _text(Survey((Finding("LiteRT", "engine", True, "2.3"),), (*lack, Finding("cpu", "onnx", True)), {}))
    assert "LiteRT      2.3  yes" in text
    assert "gpu       TFLite  no      no driver" in text
    assert text.endswith("What to do:\n  gpu (TFLite), npu (TFLite): install one")


@pytest.mark.slow
def test_the_command_prints_json(ferry) -> None:
    code, out, err = ferry("engines", "--json")
    data = json.loads(out)
    assert (code, data["schema"], err) == (0, 1, "")
    assert set(data) == {"schema", "engines", "delegates", "machine"}


def test_an_engine_that_kills_its_process_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tflite_runtime").mkdir()
    (tmp_path / "tflite_runtime/__init__.py").touch()
    (tmp_path / "tflite_runtime/interpreter.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(EngineCrashError, match="tflite_runtime: the engine crashed with SIGABRT"):
        try_out(write_models(tmp_path)["tflite"], {"package": "tflite_runtime"})


def test_an_engine_that_cannot_be_imported_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tflite_runtime").mkdir()
    (tmp_path / "tflite_runtime/__init__.py").touch()
    (tmp_path / "tflite_runtime/interpreter.py").write_text("raise ImportError('GLIBC_2.99 not found')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(EngineError, match=r"cannot be used \(GLIBC_2.99 not found\)"):
        try_out(write_models(tmp_path)["tflite"], {"package": "tflite_runtime"})


@pytest.fixture
def fatal_tflite_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a tflite_runtime that ends the process that imports it."""
    (tmp_path / "tflite_runtime").mkdir()
    (tmp_path / "tflite_runtime/__init__.py").write_text("raise SystemExit('imported')")
    info = tmp_path / "tflite_runtime-2.14.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tflite-runtime\nVersion: 2.14.0\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("fatal_tflite_runtime")
def test_numpy_2_is_told_before_tflite_runtime_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litert.np, "__version__", "2.4.6")
    finding = surveyed.try_interpreter(tmp_path / "absent", "tflite_runtime")
    assert (finding.version, finding.usable) == ("2.14.0", False)
    assert finding.reason == "needs NumPy 1, and this Python has NumPy 2.4.6"
    name = "tflite_runtime"
    monkeypatch.setattr(litert, "PACKAGES", {name: litert.PACKAGES[name]})
    with pytest.raises(EngineError, match=r"needs NumPy 1, and this Python has NumPy 2.*pip install 'numpy<2'"):
        litert.import_engine(Path("model.tflite"))


def test_numpy_1_is_no_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    assert litert.numpy_conflict("ai-edge-litert") is None
    monkeypatch.setattr(litert.np, "__version__", "1.26.4")
    assert litert.numpy_conflict("tflite-runtime") is None


def test_edge_tpus_on_usb(tmp_path: Path) -> None:
    assert edgetpu.usb_units(tmp_path) == []
    for name, ids in (("1-1", ("18d1", "9302")), ("1-2", ("046d", "c52b"))):
        folder = tmp_path / "sys/bus/usb/devices" / name
        folder.mkdir(parents=True)
        for file, text in zip(("idVendor", "idProduct", "busnum", "devnum"), (*ids, "2", "17"), strict=True):
            (folder / file).write_text(f"{text}\n")
    node = tmp_path / "dev/bus/usb/002/017"
    assert edgetpu.usb_units(tmp_path) == [(node, False)]
    node.parent.mkdir(parents=True)
    node.touch()
    assert edgetpu.usb_units(tmp_path) == [(node, True)]


def test_edge_tpus_on_pci(tmp_path: Path) -> None:
    assert edgetpu.pci_units(tmp_path) == []
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/apex_0").touch()
    assert [unit.allowed for unit in edgetpu.pci_units(tmp_path)] == [True]


def test_what_an_edge_tpu_lacks() -> None:
    unit = edgetpu.Unit(Path("/dev/apex_0"), False)
    assert edgetpu.lack("usb", []) == ("there is no Edge TPU on USB", "plug one in")
    reason, fix = edgetpu.lack("pci", [unit]) or ("", "")
    assert "may not open /dev/apex_0" in reason
    assert "group apex" in fix
    assert edgetpu.lack("pci", [unit, unit._replace(allowed=True)]) is None


def test_openvino_is_listed_where_it_is(openvino_python: str) -> None:
    rows = listed(openvino_python, dict(os.environ))
    assert rows["cpu:openvino", "onnx"]["usable"]
    assert "Device NPU is not available" in rows["npu:openvino", "onnx"]["reason"]
    assert rows["LiteRT Interpreter", "engine"]["reason"] == "is not installed"
    assert rows["ONNX Runtime", "engine"]["version"]


def test_gpus_are_listed_where_they_are(webgpu_python: str, lavapipe: dict[str, str]) -> None:
    assert "llvmpipe" in listed(webgpu_python, lavapipe)["gpu:webgpu", "onnx"]["detail"]
    assert "llvmpipe" in listed(sys.executable, lavapipe)["gpu", "tflite"]["detail"]


def test_nothing_is_to_be_installed_where_the_processor_is_too_old() -> None:
    reason = "this CPU lacks instructions that LiteRT's accelerators use (atomics)"
    old = EngineError("--delegate gpu", reason, "use another delegate")
    assert _way_out("tflite", "gpu", old) == "use another delegate"
    absent = EngineError("--delegate gpu", "LiteRT finds no GPU", "use another delegate")
    assert "Vulkan" in _way_out("tflite", "gpu", absent)
