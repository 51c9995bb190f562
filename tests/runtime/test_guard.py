"""The gate before the engines: bad files are reported, and the process lives."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeferry_runtime import guard, machine
from edgeferry_runtime.errors import (
    ArtifactError,
    CorruptFileError,
    EdgeferryError,
    EngineCrashError,
    EngineError,
    MissingFileError,
    UnknownFormatError,
)
from edgeferry_runtime.guard import check_artifact, try_in_child

FLIPS = 150
NEWER_THAN_TFLITE_RUNTIME = ("group_norm", "l2_norm_composite", "w8_a16", "blockwise")

LOADER = """
import sys, json
from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.guard import _load_and_run
for line in sys.stdin:
    try:
        _load_and_run(json.loads(line))
        print("ok", flush=True)
    except EdgeferryError as error:
        print(type(error).__name__, flush=True)
    except BaseException as error:
        print("UNEXPECTED", repr(error), flush=True)
"""


class Loader:
    """A child that loads and runs one file after the other, and is started again when it dies."""

    def __init__(self) -> None:
        self.child = self._start()

    def _start(self) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, "-c", LOADER], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )

    def __call__(self, path: Path) -> str:
        assert self.child.stdin
        assert self.child.stdout
        self.child.stdin.write(json.dumps(str(path)) + "\n")
        self.child.stdin.flush()
        answer = self.child.stdout.readline().strip()
        if not answer:
            self.close()
            self.child = self._start()
        return answer or "died"

    def close(self) -> None:
        self.child.kill()
        self.child.communicate()


@pytest.fixture(scope="module")
def loader() -> Iterator[Loader]:
    child = Loader()
    yield child
    child.close()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def put(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return put


def test_format_is_told_by_content(artifacts, write) -> None:
    assert check_artifact(artifacts["pair.tflite"]) == "tflite"
    assert check_artifact(artifacts["pair.onnx"]) == "onnx"
    assert check_artifact(write("model.onnx", artifacts["pair.tflite"].read_bytes())) == "tflite"
    assert check_artifact(write("model.bin", artifacts["pair.onnx"].read_bytes())) == "onnx"


def test_what_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.tflite", tmp_path):
        with pytest.raises(MissingFileError):
            check_artifact(path)


@pytest.mark.parametrize(
    "data", [b"hello, world", b"PK\x03\x04....", b"\x80\x04\x95pickle", b"\x89HDF\r\n\x1a\n", b"x"]
)
def test_what_is_neither_format(write, data: bytes) -> None:
    with pytest.raises(UnknownFormatError, match=r"neither TFLite nor ONNX"):
        check_artifact(write("model.tflite", data))


def test_an_empty_file(write) -> None:
    with pytest.raises(CorruptFileError, match="is empty"):
        check_artifact(write("model.tflite", b""))


@pytest.mark.parametrize("kind", ["pair.tflite", "pair.onnx"])
def test_a_truncated_file_is_corrupt(artifacts, write, kind: str) -> None:
    data = artifacts[kind].read_bytes()
    for length in (8, 9, len(data) // 3, len(data) // 2, len(data) * 3 // 4):
        with pytest.raises(CorruptFileError, match="damaged"):
            check_artifact(write(kind, data[:length]))


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "", ".", "a/../../weights.bin", "x\0y"])
def test_weights_outside_the_folder_are_refused(tiny, write, tmp_path: Path, location: str) -> None:
    (tmp_path.parent / "weights.bin").write_bytes(bytes(16))
    with pytest.raises((CorruptFileError, MissingFileError)) as error:
        check_artifact(write("model.onnx", tiny.onnx_external(location)))
    assert location == "." or isinstance(error.value, CorruptFileError)


def test_a_link_out_of_the_folder_is_refused(tiny, write, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").symlink_to("/etc/hostname")
    with pytest.raises(CorruptFileError, match="outside its folder"):
        check_artifact(write("model.onnx", tiny.onnx_external("weights.bin")))


def test_weights_beside_the_model(tiny, write) -> None:
    path = write("model.onnx", tiny.onnx_external("weights.bin"))
    with pytest.raises(MissingFileError, match=r"weights\.bin"):
        check_artifact(path)
    write("weights.bin", bytes(15))
    with pytest.raises(CorruptFileError, match="shorter"):
        check_artifact(path)
    write("weights.bin", bytes(16))
    assert check_artifact(path) == "onnx"
    for bad in ("-4", "four"):
        with pytest.raises(CorruptFileError):
            check_artifact(write("bad.onnx", tiny.onnx_external("weights.bin", offset=bad)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pair.tflite", "int8.tflite", "dense.tflite", "pair.onnx", "int8.onnx"])
def test_a_flipped_bit_is_refused_loads_or_kills_a_child(artifacts, write, loader: Loader, kind: str) -> None:
    """Nothing but an expected error ever comes out, of the check or of the child; the child seldom dies."""
    data = artifacts[kind].read_bytes()
    generator = random.Random(kind)
    outcomes: dict[str, int] = {}
    for _ in range(FLIPS):
        flipped = bytearray(data)
        flipped[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path = write(kind, bytes(flipped))
        try:
            check_artifact(path)
            outcome = loader(path)
        except ArtifactError as error:
            outcome = type(error).__name__
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert not [outcome for outcome in outcomes if outcome.startswith("UNEXPECTED")], outcomes
    if "MissingExtraError" in outcomes:
        pytest.skip(f"the engine of {kind} is not installed here")
    assert outcomes.get("ok", 0) > 0
    assert outcomes.get("died", 0) <= FLIPS // 10, outcomes


@pytest.mark.slow
def test_a_sound_file_survives_the_child(artifacts, make_bundle) -> None:
    try_in_child(artifacts["pair.tflite"])
    try_in_child(artifacts["batch.onnx"])
    try_in_child(make_bundle("double.tflite").path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [("edgetpu-custom-op", "compiled for the Edge TPU, and cannot run on a CPU"), ("my-op", "custom operator my-op")],
)
def test_the_child_reports_what_the_engine_refuses(tiny, write, name: str, said: str) -> None:
    path = write("model.tflite", tiny.tflite_custom(name))
    with pytest.raises(EngineError, match=said) as error:
        try_in_child(path)
    assert type(error.value) is EngineError
    assert error.value.subject == str(path)


def test_the_child_reports_corrupt_files(artifacts, write) -> None:
    with pytest.raises(CorruptFileError):
        try_in_child(write("model.tflite", artifacts["pair.tflite"].read_bytes()[:100]))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "this CPU lacks instructions"),
        ("import sys; sys.exit(132)", "this CPU lacks instructions"),
        ("import sys; sys.stderr.write('Fatal: arena\\n'); sys.exit(3)", "exit status 3: Fatal: arena"),
        ("raise ZeroDivisionError('deep')", "ZeroDivisionError: deep"),
    ],
)
def test_a_death_is_named(code: str, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    with pytest.raises(EngineCrashError, match=said):
        guard.raise_for("model.tflite", done)


def test_a_child_that_does_not_answer_is_ended(artifacts) -> None:
    with pytest.raises(EngineError, match=r"within 0\.01 s"):
        try_in_child(artifacts["pair.tflite"], timeout_s=0.01)


def test_the_child_does_not_import_from_the_working_folder(artifacts, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    try_in_child(artifacts["pair.onnx"])


@pytest.mark.zoo
def test_the_zoo_is_survived(zoo: Path, loader: Loader) -> None:
    """Every file that the engine can load passes the check, and no file brings the process down."""
    refused = {}
    for path in sorted([*zoo.rglob("*.tflite"), *zoo.rglob("*.onnx")]):
        try:
            check_artifact(path)
        except EdgeferryError as error:
            refused[path] = error
            continue
        outcome = loader(path)
        if outcome == "MissingExtraError":
            continue
        assert outcome in ("ok", "EngineError", "died"), f"{path}: {outcome}"
        assert outcome == "ok" or _needs_more(path), f"{path}: {outcome}"
    assert refused == {}


def _needs_more(path: Path) -> bool:
    """Files that LiteRT itself refuses: operators of other chips or newer versions, and malformed test files."""
    parts = ("edgetpu", "decoder", "invalid_models", "qualcomm", "sm8750", "MTKEXT", "audio_preprocessor", "squeeze")
    newer = () if machine.installed_engines().get("ai_edge_litert") else NEWER_THAN_TFLITE_RUNTIME
    return any(part in str(path) for part in (*parts, *newer))


@pytest.mark.zoo
def test_a_large_file_is_checked_in_a_blink(zoo: Path) -> None:
    import time

    path = zoo / "coral" / "mobilenet_v2_1.0_224_quant.tflite"
    taken = []
    for _ in range(5):
        begin = time.thread_time()
        check_artifact(path)
        taken.append(time.thread_time() - begin)
    assert min(taken) < 0.05
