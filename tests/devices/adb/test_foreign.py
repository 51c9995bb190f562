"""Measuring by a program that is not ours: one of ours that has its flags and output, and really runs the model."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgeferry_devices import history, inventory
from edgeferry_devices.adb import AdbDevice
from edgeferry_devices.foreign.binary import Binary, check_binary
from edgeferry_devices.foreign.measuring import measure
from edgeferry_devices.local import LocalDevice
from edgeferry_runtime.artifact_files import sha256_file
from edgeferry_runtime.benchmark import BenchOptions, compare_profiles
from edgeferry_runtime.bundle import Bundle, Manifest, Probe, write_bundle
from edgeferry_runtime.cli import main
from edgeferry_runtime.errors import DataError, DeviceRequirementError, EngineError, UsageError, VerificationError
from edgeferry_runtime.feeds import random_feeds
from edgeferry_runtime.model import load
from edgeferry_runtime.numerics import Tolerance
from edgeferry_runtime.profile import Profile, read_profile

HERE = Path(__file__).parent
QUICK = BenchOptions(num_runs=20, warmup_runs=2, min_secs=0, max_warmup_secs=0)
WIDTH = 50_000


def ferry(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory, missing: Callable[[str], None]) -> Callable[..., Binary]:
    """Compile the program, by whose definitions it behaves as others do."""
    compiler = shutil.which("cc")
    found = importlib.util.find_spec("ai_edge_litert")
    library = Path(str(found and found.origin)).with_name("libLiteRt.so")
    if compiler is None or not library.is_file():
        missing("a C compiler (cc) or LiteRT's C library (of ai-edge-litert) is not installed")
    folder = tmp_path_factory.mktemp("binaries")

    def make(*definitions: str) -> Binary:
        program = folder / f"benchmark_model{''.join(definitions)}"
        if not program.exists():
            defined = [f"-D{word}" for word in (f'LIBRARY="{library}"', *definitions)]
            source = HERE / "benchmark_model.c"
            subprocess.run([compiler, "-O1", *defined, "-o", program, source, "-ldl", "-lm"], check=True)
        return check_binary(program, sha256_file(program))

    return make


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_models", HERE.parents[1] / "runtime" / "tiny_models.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bundled(tmp_path: Path) -> Callable[..., Bundle]:
    """Write a bundle around a file, whose golden outputs our own runtime computes."""

    def make(content: bytes, names: tuple[str, ...] = (), samples: int = 2) -> Bundle:
        folder = tmp_path / f"bundle{len(list(tmp_path.iterdir()))}"
        (tmp_path / "model.tflite").write_bytes(content)
        with load(tmp_path / "model.tflite") as model:
            inputs = sorted(model.inputs, key=lambda spec: names.index(spec.name) if names else 0)
            outputs = model.outputs[::-1] if names else model.outputs
            fed = [random_feeds(inputs, seed) for seed in range(samples)]
            answers = [model.run(feeds) for feeds in fed]
        manifest = Manifest(
            "tiny", "model.tflite", "tflite", "none", tuple(inputs), tuple(outputs), {}, Tolerance(max_abs=1e-5)
        )
        golden = [{spec.name: np.stack([each[spec.name] for each in side]) for spec in specs}
                  for specs, side in ((inputs, fed), (outputs, answers))]  # fmt: skip

        def fill(folder: Path) -> None:
            (folder / "model.tflite").write_bytes(content)
            Probe(*golden).save(folder / "probe.npz")

        return write_bundle(folder, manifest, fill)

    return make


@pytest.fixture
def double(tiny: ModuleType, bundled: Callable[..., Bundle]) -> Bundle:
    """``y = x + x``, of enough numbers to take a while."""
    return bundled(tiny.tflite_double(width=WIDTH))


def test_integers_and_several_inputs_are_proven_in_the_order_of_the_graph(
    tiny: ModuleType, bundled: Callable[..., Bundle], build: Callable[..., Binary], tmp_path: Path
) -> None:
    here, binary = LocalDevice(tmp_path / "root"), build()
    assert measure(here, bundled(tiny.tflite_logistic_int8()), binary, QUICK).binary["proven"]
    pair = measure(here, bundled(tiny.tflite_pair(), ("a", "b")), binary, QUICK)
    assert {figure["name"]: figure["max_abs"] for figure in pair.binary["figures"]} == {"gap": 0, "total": 0}


def test_a_bundle_is_proven_and_measured(over_adb: AdbDevice, build: Callable[..., Binary], double: Bundle) -> None:
    binary, said = build(), []
    profile = measure(over_adb, double, binary, QUICK, said.append)
    assert profile.binary["proven"]
    assert profile.binary["samples"] == 2
    assert profile.binary["figures"][0]["max_abs"] == 0
    assert profile.binary["sha256"] == binary.sha256
    assert profile.binary["memory_bytes"]["overall"] > 1 << 20
    assert (profile.num_runs, profile.warmup_runs) == (20, 2)
    assert 0 < profile.min_ms <= profile.median_ms <= profile.max_ms < 1000
    assert profile.init_ms > 0.05
    assert profile.first_inference_ms > 0
    assert (profile.samples_ms, profile.median_ms_ci95, profile.p90_ms, profile.p99_ms) == ((), None, None, None)
    assert profile.engine == {"name": "benchmark_model", "version": binary.sha256[:12], "delegate": "cpu"}
    assert profile.artifact["bundle"] == double.id
    assert profile.machine["cores"] > 0
    assert profile.machine["memory_bytes"] > 1 << 28
    assert "load1" in profile.state_before
    assert not any(mark["kind"] == "not proven" for mark in profile.marks)
    assert [line.partition(": ")[2].partition(" (")[0] for line in said] == [
        *("sending benchmark_model", "sending model.tflite", "proving tiny", "measuring tiny")
    ]
    assert Profile.from_dict(json.loads(json.dumps(profile.to_dict()))).binary == profile.binary


def test_files_lie_by_their_hash_and_travel_once(
    over_adb: AdbDevice, build: Callable[..., Binary], double: Bundle, tmp_path: Path
) -> None:
    binary, said = build(), []
    measure(over_adb, double, binary, QUICK)
    root, artifact = tmp_path / "device", double.manifest.files["model.tflite"]
    files = {str(f.relative_to(root)) for f in root.rglob("*") if f.is_file()}
    assert files == {".edgeferry-device", f"{binary.sha256}/benchmark_model", f"{artifact}/model.tflite"}
    measure(over_adb, double, binary, QUICK, said.append)
    assert not any("sending" in line for line in said)
    (root / artifact / "model.tflite").write_bytes(b"spoiled")
    measure(over_adb, double, binary, QUICK, said.append)
    assert [line for line in said if "sending" in line] == ["phone: sending model.tflite (0.0 MB)"]
    assert sha256_file(root / artifact / "model.tflite") == artifact


def test_a_program_that_writes_no_outputs_is_not_proven(
    over_adb: AdbDevice, build: Callable[..., Binary], double: Bundle
) -> None:
    profile = measure(over_adb, double, build("PLAIN"), QUICK)
    assert profile.binary["proven"] is False
    assert "not proven: this binary writes no outputs" in profile.warnings
    assert "not proven" in profile.verdict


def test_a_program_that_computes_something_else_is_not_measured(
    over_adb: AdbDevice, build: Callable[..., Binary], double: Bundle
) -> None:
    said: list[str] = []
    with pytest.raises(VerificationError, match="computes something else there: y: max abs error 1 is above"):
        measure(over_adb, double, build("WRONG"), QUICK, said.append)
    assert not any("measuring" in line for line in said)


def test_a_program_that_is_too_old(over_adb: AdbDevice, build: Callable[..., Binary], double: Bundle) -> None:
    with pytest.raises(EngineError, match="does not tell p5, median, p95"):
        measure(over_adb, double, build("OLD"), QUICK)


def test_a_flag_that_it_does_not_know_is_no_measurement_of_the_cpu(
    over_adb: AdbDevice, build: Callable[..., Binary], double: Bundle
) -> None:
    with pytest.raises(EngineError, match=r"does not know --use_gpu=true, and went on without"):
        measure(over_adb, double, build(), replace(QUICK, delegate="gpu"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#!/bin/sh\necho 'no such operator' >&2; exit 1", "ends with status 1: no such operator"),
        ("#!/bin/sh\nkill -ILL $$", "SIGILL: this processor lacks instructions"),
        ("#!/bin/sh\nkill -SEGV $$", "SIGSEGV"),
        ("#!/bin/sh\necho hello", "printed no 'Inference timings'"),
        ("\x7fELF no program at all", "ends with status"),
        ("#!/bin/sh\n", "printed no 'Inference timings'"),
    ],
)
def test_programs_that_fail(over_adb: AdbDevice, double: Bundle, tmp_path: Path, text: str, words: str) -> None:
    program = tmp_path / "program"
    program.write_text(text)
    with pytest.raises(EngineError, match=words):
        measure(over_adb, double, check_binary(program, sha256_file(program)), QUICK)


def test_a_folder_that_is_not_ours_is_left_alone(
    over_adb: AdbDevice, build: Callable[..., Binary], double: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / "photo").touch()
    with pytest.raises(DeviceRequirementError, match="holds files that are not ours"):
        measure(over_adb, double, build(), QUICK)
    assert [f.name for f in (tmp_path / "device").iterdir()] == ["photo"]


def test_a_folder_that_cannot_be_made(phone: Any, build: Callable[..., Binary], double: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    device = AdbDevice(inventory.Entry("phone", f"adb:{phone.serial}", root=str(tmp_path / "file" / "x")))
    with pytest.raises(DeviceRequirementError, match="cannot be made"):
        measure(device, double, build(), QUICK)


def test_only_tflite(over_adb: AdbDevice, build: Callable[..., Binary], bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="is of the format onnx"):
        measure(over_adb, bundle, build(), QUICK)


def test_any_device_will_do(build: Callable[..., Binary], double: Bundle, tmp_path: Path) -> None:
    """What holds for adb holds for this machine too, by the same interface."""
    profile = measure(LocalDevice(tmp_path / "root"), double, build(), QUICK)
    assert profile.binary["proven"]
    assert profile.device == "local"


def test_a_board_over_ssh_will_do(pi: Any, root: Path, build: Callable[..., Binary], double: Bundle) -> None:
    binary = build()
    assert measure(pi, double, binary, QUICK).binary["proven"]
    assert (root / binary.sha256 / "benchmark_model").is_file()


def test_profiles_without_samples_are_not_compared(
    build: Callable[..., Binary], double: Bundle, tmp_path: Path
) -> None:
    profile = measure(LocalDevice(tmp_path / "root"), double, build(), QUICK)
    with pytest.raises(DataError, match="holds no single runs, because benchmark_model on local does not tell them"):
        compare_profiles([profile], [profile])


@pytest.fixture
def shelf(phone: Any, tmp_path: Path) -> str:
    """A phone of the inventory."""
    inventory.add(inventory.Entry("shelf", f"adb:{phone.serial}", root=str(tmp_path / "device")))
    return "shelf"


def test_the_command(
    shelf: str, build: Callable[..., Binary], double: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    binary = build()
    words = ["profile", str(double.path), "--on", shelf, "--benchmark-binary", str(binary.path)]
    few = ["--num-runs", "5", "--min-secs", "0"]
    assert ferry(*words, "--benchmark-sha256", binary.sha256, *few) == 0
    told = capsys.readouterr()
    assert f"benchmark_model {binary.sha256[:12]}" in told.out
    assert "unknown" in told.out
    assert len(history.read()) == 1
    assert ferry(*words, "--benchmark-sha256", binary.sha256, *few, "--rounds", "2", "--json") == 0
    answer = capsys.readouterr().out
    assert len(json.loads(answer)["profiles"]) == 2
    single = json.loads(answer)["profiles"][0]["profile"]
    (tmp_path / "profile.json").write_text(json.dumps(single))
    assert read_profile(tmp_path / "profile.json").binary["proven"]
    assert ferry("compare", *[str(tmp_path / "profile.json")] * 2) == 1
    assert "holds no single runs" in capsys.readouterr().err


def test_a_binary_of_another_hash_goes_nowhere(
    shelf: str, build: Callable[..., Binary], double: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["profile", str(double.path), "--on", shelf, "--benchmark-binary", str(build().path)]
    assert ferry(*words, "--benchmark-sha256", "0" * 64) == 1
    assert "do not run it before you know why" in capsys.readouterr().err
    assert ferry(*words) == 2
    assert "--benchmark-sha256 HEX" in capsys.readouterr().err
    assert ferry(*words[:4], "--benchmark-sha256", "0" * 64) == 2
    assert not (tmp_path / "device").exists()


def test_without_a_binary_a_phone_tells_the_way_out(
    shelf: str, double: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ferry("profile", str(double.path), "--on", shelf) == 4
    assert "--benchmark-binary" in capsys.readouterr().err
