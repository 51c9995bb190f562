"""Bad luck on the command line: one clear line, the documented exit code, an empty stdout, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeferry_runtime.bundle import content_id

Ferry = Callable[..., subprocess.CompletedProcess[str]]
Fails = Callable[..., str]
ON_A_BUNDLE = ("run {}", "bench {}", "push {} local", "profile {} --on local", "run {} --device local")


def files(folder: Path) -> set[str]:
    """Everything that lies in a folder, but for caches of bytecode."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if "__pycache__" not in p.parts}


@pytest.fixture
def fails(folder: Path, ferry: Ferry) -> Fails:
    """Type a line that must fail as it should; return its one error line."""

    def run(line: str, code: int, **env: str) -> str:
        before = files(folder)
        done = ferry(f"ferry {line}", **env)
        errors = [text for text in done.stderr.splitlines() if text.startswith("ferry: error: ")]
        assert done.returncode == code, done.stderr
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert len(errors) == 1, done.stderr
        assert errors[0] == done.stderr.splitlines()[-1]
        assert errors[0].count(": ") >= 3
        assert "; " in errors[0]
        assert files(folder) == before
        return errors[0]

    return run


def spoil(folder: Path, name: str) -> None:
    """Put a file of bad luck into the folder."""
    samples = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    path = folder / name
    if name in ("cut.tflite", "cut.onnx"):
        data = (folder / f"dense{path.suffix}").read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif name == "cut.keras":
        path.write_bytes(b"PK\x03\x04" + bytes(500))
    elif name == "junk.bin":
        path.write_bytes(b"\x99 none of the formats " * 9)
    elif name == "weights.pkl":
        path.write_bytes(b"\x80\x04N.")
    elif name == "other.npz":
        np.savez(path, image=samples)
    elif name == "nan.npy":
        samples[1, 2] = np.nan
        np.save(path, samples)
    elif name == "pipe":
        os.mkfifo(path)
    elif name != "absent":
        np.save(
            path, {"shape.npy": samples[:, 1:], "text.npy": np.array(["a"]), "int.npy": np.ones((4, 16), int)}[name]
        )


@pytest.mark.parametrize("name", ["absent", "junk.bin", "cut.tflite", "cut.onnx", "custom.tflite", "pipe"])
@pytest.mark.parametrize("line", ["convert {} -o out", "run {} --input x.npy", "bench {}"])
def test_a_model_file_that_is_none(folder: Path, fails: Fails, name: str, line: str) -> None:
    if not (folder / name).exists():
        spoil(folder, name)
    onnx = " --to onnx" if name.endswith("onnx") and line.startswith("convert") else ""
    assert name in fails(line.format(name) + onnx, 1)


@pytest.mark.parametrize(("name", "said"), [("cut.keras", "truncated"), ("weights.pkl", "would execute code")])
def test_a_source_that_no_framework_needs_to_see(folder: Path, fails: Fails, name: str, said: str) -> None:
    spoil(folder, name)
    assert said in fails(f"convert {name} -o out", 1)


@pytest.mark.slow
def test_a_pickle_where_weights_were_expected(folder: Path, fails: Fails) -> None:
    spoil(folder, "weights.pkl")
    (folder / "net.py").write_text("import torch\ndef net(): return torch.nn.Linear(4, 2)\n")
    assert "weights.pkl" in fails("convert net.py:net --weights weights.pkl --shape input=1,4 -o out", 1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent", "no such data"),
        ("other.npz", "'image', which is no input; inputs are x"),
        ("shape.npy", "has shape [15]"),
        ("int.npy", "is int64, and the input is float32"),
        ("text.npy", "sample 0 of 'x'"),
        ("nan.npy", "sample 1 of 'x': holds NaN"),
        ("pipe", "is no file"),
    ],
)
@pytest.mark.parametrize("option", ["--quantize int8 --calibrate", "--probe"])
def test_data_that_do_not_fit(folder: Path, fails: Fails, name: str, said: str, option: str) -> None:
    spoil(folder, name)
    assert said in fails(f"convert dense.tflite -o out {option} {name}", 1)


@pytest.mark.parametrize(("output", "said"), [("mine", "is not a bundle"), ("absent/out", "no such folder")])
def test_an_output_that_cannot_be(folder: Path, fails: Fails, output: str, said: str) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "diary.txt").write_text("dear diary")
    assert said in fails(f"convert dense.tflite -o {output}", 1)
    assert (folder / "mine" / "diary.txt").read_text() == "dear diary"


def test_an_output_in_a_folder_that_cannot_be_written(fails: Fails) -> None:
    assert "/proc" in fails("convert dense.tflite -o /proc/out", 1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent", "no such data"),
        ("other.npz", "has no labels (it has image)"),
        ("shape.npy", "names no labels"),
        ("nan.npy", "names no labels"),
        ("text.npy", "text.npy"),
        ("pipe", "is no file"),
        ("dense.tflite", "dense.tflite"),
    ],
)
def test_labelled_data_that_do_not_fit(folder: Path, fails: Fails, name: str, said: str) -> None:
    if not (folder / name).exists():
        spoil(folder, name)
    assert said in fails(f"convert dense.tflite -o out --evaluate {name}", 1)


def test_labels_that_do_not_fit(folder: Path, fails: Fails) -> None:
    samples = np.load(folder / "samples.npy")
    np.savez(folder / "few.npz", x=samples, label=np.zeros(3, np.int64))
    np.savez(folder / "other.npz", x=samples, label=np.full(len(samples), 99))
    assert "few.npz" in fails("convert dense.tflite -o out --evaluate few.npz", 1)
    assert "has labels that are not the 16 classes" in fails("convert dense.tflite -o out --evaluate other.npz", 1)


def test_a_budget_that_cannot_be_reported(folder: Path, bundle: Path, fails: Fails) -> None:
    (folder / "report.xml").mkdir()
    for line in ("bench dense", "profile dense --on local"):
        assert "is a folder" in fails(f"{line} --budget p50=1s --junit report.xml", 1)
        assert "no such folder" in fails(f"{line} --budget p50=1s --junit absent/report.xml", 1)


@pytest.mark.parametrize("name", ["pi:kws", "pi:kws@2026-01-01", "../../etc:passwd", "a:b:c@7d"])
def test_a_run_that_nobody_made(fails: Fails, name: str) -> None:
    assert "nothing was measured" in fails(f"compare {name} {name}", 1)
    assert "give two of one kind" in fails(f"compare dense.tflite {name}", 2)


def test_the_output_of_a_run_is_a_folder(folder: Path, bundle: Path, fails: Fails) -> None:
    (folder / "out.npz").mkdir()
    assert "is a folder" in fails("run dense --output out.npz", 1)
    assert "unknown name ''" in fails("run dense --device ''", 2)


@pytest.mark.parametrize("name", ["model.tflite", "probe.npz", "recipe.toml", "manifest.json"])
def test_a_bundle_that_was_damaged(bundle: Path, fails: Fails, name: str) -> None:
    path = bundle / name
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    for line in ON_A_BUNDLE:
        assert f"{name} " in fails(line.format("dense"), 1)
    path.unlink()
    assert name in fails("run dense", 1)


def rewrite(bundle: Path, **changes: object) -> None:
    """Change a manifest, and give it the id that it then should have."""
    path = bundle / "manifest.json"
    data = {**json.loads(path.read_text()), **changes}
    data = {**data, "id": content_id(data)}
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    "changes",
    [{"files": {}}, {"files": []}, {"name": 7}, {"tools": None}, {"inputs": []}, {"artifact": None}, {"schema": 99}],
    ids=str,
)
def test_a_manifest_that_says_nonsense(bundle: Path, fails: Fails, changes: dict[str, object]) -> None:
    rewrite(bundle, **changes)
    for line in ("run dense", "push dense local"):
        assert "dense: " in fails(line, 1)


def test_a_manifest_nested_without_end(bundle: Path, fails: Fails) -> None:
    (bundle / "manifest.json").write_text("[" * 100_000)
    assert "is damaged" in fails("run dense", 1)


def test_a_host_that_cannot_be_reached(bundle: Path, fails: Fails) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for line in (
            "push dense {}",
            "profile dense --on {}",
            "run dense --device {}",
            "device info {}",
            "device trust {}",
        ):
            assert f"port {port} refuses" in fails(line.format(f"pi@127.0.0.1:{port}"), 4)
    assert "no host is named" in fails("push dense pi@no-such-host.invalid", 4)


@pytest.mark.parametrize(
    ("module", "line", "extra"),
    [
        ("onnxruntime", "run dense.onnx --input x.npy", "onnx"),
        ("ai_edge_quantizer", "convert dense.tflite -o out --quantize fp16", "quantize"),
        ("paramiko", "device trust pi@127.0.0.1:1", "devices"),
        ("edgeferry_converter", "convert dense.tflite -o out", "all"),
    ],
)
def test_an_extra_that_is_missing(folder: Path, fails: Fails, module: str, line: str, extra: str) -> None:
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    assert f"pip install 'edgeferry[{extra}]'" in fails(line, 1, PYTHONPATH=str(folder / "site"))


def test_a_home_that_is_no_folder(folder: Path, bundle: Path, fails: Fails) -> None:
    home = str(folder / "x.npy")
    for line in ("push dense local", "profile dense --on local"):
        assert "sessions: refused (Not a directory)" in fails(line, 1, HOME=home)
    assert "x.npy" in fails("device add pi pi@host", 1, HOME=home)


def test_the_old_way_to_profile_names_the_new_one(bundle: Path, fails: Fails) -> None:
    assert "name it with --on: ferry profile dense --on local" in fails("profile dense local", 2)
    assert "given twice" in fails("profile dense dense --on local", 2)
    assert "no such bundle" in fails("profile dense absent --on local", 1)
    assert "give 0 or more" in fails("profile dense --on local --max-load -1", 2)


def test_names_that_are_too_long_or_not_utf8(folder: Path, fails: Fails) -> None:
    assert "File name too long" in fails(f"run {'x' * 300}", 1)
    name = os.fsdecode(b"\xff.tflite")
    (folder / name).write_bytes((folder / "dense.tflite").read_bytes())
    assert "is not named in UTF-8" in fails(f"bench {name}", 1)


@pytest.mark.parametrize("line", ["device list", "--help", "run dense"])
def test_a_pipe_that_nobody_reads_and_a_disk_that_is_full(folder: Path, bundle: Path, line: str) -> None:
    env = {**os.environ, "HOME": str(folder / "home")}
    command = [sys.executable, "-m", "edgeferry_runtime", *shlex.split(line)]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, env=env, cwd=folder, check=False)
    assert done.returncode == 1
    assert b"error" not in done.stderr.lower()
    if Path("/dev/full").exists():
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=env, cwd=folder, check=False)
        assert done.returncode == 1
        assert b"No space left on device" in done.stderr
        assert b"Traceback" not in done.stderr


def wait_for_numpy(process: subprocess.Popen[str]) -> None:
    """Wait until Python has started and the command is on its way."""
    maps = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and "numpy" not in maps.read_text():
        time.sleep(0.005)


@pytest.mark.parametrize(
    "line", ["convert dense.tflite -o out", "run dense", "bench dense", "push dense local", "profile dense --on local"]
)
@pytest.mark.parametrize("delay", [0.0, 0.15, 0.4])
def test_ctrl_c(folder: Path, bundle: Path, line: str, delay: float) -> None:
    before = files(folder)
    env = {**os.environ, "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "XDG_DATA_HOME": ""}
    command = [sys.executable, "-m", "edgeferry_runtime", *shlex.split(line)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=env, start_new_session=True, **pipes) as process:
        wait_for_numpy(process)
        time.sleep(delay)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    if process.returncode == 0:
        return  # it was faster than the finger
    assert "Traceback" not in err
    if process.returncode != -signal.SIGINT:  # Python was on its way out already, and shells call that 130 too
        assert process.returncode == 130, err
        assert err.splitlines()[-1] == "ferry: interrupted"
    assert not {name for name in files(folder) - before if not name.startswith("home/") or "/incoming/" in name}


@pytest.mark.usefixtures("bundle")
def test_odd_names_of_devices(fails: Fails) -> None:
    lines = ("deploy dense --on {}", "profile dense --on {}", "doctor {}", "releases {}", "gc {}")
    for name in ("@", "@@a", "@../up", "../up", "it's", '"', "new\nline", "@new\nline", "@all", "pi@", "-rf"):
        for line in lines if name in ("@", "-rf") else lines[:1]:
            fails(line.format(shlex.quote(name)), 2)
