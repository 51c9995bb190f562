"""Transcripts of the command line: what is typed, what is printed, which exit code."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"
TINY = Path(__file__).parents[1] / "runtime" / "tiny_models.py"

STABLE = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", "<time>"),
    (r"(?m)^(machine +|memory +|state +|verdict +|local +(?:dense +)?ai_edge_litert ).*$", r"\1#"),
    (r"(?m)^! local: (busy|preempted|unsteady|drifting|throttled|slowed|under-voltage).*\n", ""),
    (r"(?m)^ *warning +.*\n", ""),
    (r"(?m)^! warning: [AB]: .*\n", ""),
    (r"(?m)^(local +dense +cpu ).*$", r"\1#"),
    (r" \((not sure|do not trust it): [^)]*\)", ""),
    (r"\b\d{4}-\d\d-\d\d \d\d:\d\d\b", "<date>"),
    (r"(?m)^ +-?\d.*$", " <values>"),
    (r"(?m)^y +-?\d.*$", "y <figures>"),
    (r"127\.0\.0\.1(:| port )\d+", r"localhost\1<port>"),
    (r"(?<![\w.])\d[\d,]*(\.\d+)?(e[-+]\d+)? (us|ms|s)\b", "# s"),
    (r"(?<![\w.])\d[\d,]*(\.\d+)? (KiB|MiB|B|bytes)\b", r"# \2"),
    (r"\b[0-9a-f]{12,64}\b", "<hash>"),
    (r"\bpushed +[\d,]+", "pushed #"),
    (r"(?<![\w.])\d+\.\d+(\.\d+)*", "#"),
    (r"\d+%", "#%"),
    (r"[ \t]+", " "),
    (r"(?m) $", ""),
)
"""What differs from run to run or between machines, and what stands in the transcript instead; in this order."""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Tiny models and their data, by file name."""
    spec = importlib.util.spec_from_file_location("tiny_models", TINY)
    assert spec and spec.loader
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    folder = tmp_path_factory.mktemp("data")
    samples = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    np.save(folder / "samples.npy", samples)
    np.save(folder / "x.npy", samples[0])
    np.savez(folder / "labelled.npz", x=samples, label=np.zeros(len(samples), np.int64))
    data = {path.name: path.read_bytes() for path in folder.iterdir()}
    dense, onnx = tiny.tflite_dense(16, 2), tiny.onnx_dense(16, 2)
    return {**data, "dense.tflite": dense, "dense.onnx": onnx, "custom.tflite": tiny.tflite_custom("Warp")}


def _fill(folder: Path, models: dict[str, bytes]) -> Path:
    """Lay out a folder to type in: the models, a home, and one for temporary files."""
    for name, data in models.items():
        (folder / name).write_bytes(data)
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    return folder


def _type(folder: Path, line: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Type one ``ferry`` line in a folder, with its home and its folder for temporary files."""
    base = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "SSH_", "EDGEFERRY_"))}
    own = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "COLUMNS": "100", "TERM": "dumb"}
    return subprocess.run(
        [sys.executable, "-m", "edgeferry_runtime", *shlex.split(line)[1:]],
        cwd=folder,
        env={**base, **own, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path, models: dict[str, bytes]) -> Path:
    """A folder with the tiny models, where the commands are typed."""
    return _fill(tmp_path, models)


@pytest.fixture
def ferry(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Type one ``ferry`` line in the folder."""
    return partial(_type, folder)


@pytest.fixture(scope="session")
def converted(models: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one bundle was made, named ``dense``."""
    folder = _fill(tmp_path_factory.mktemp("converted"), models)
    done = _type(folder, "ferry convert dense.tflite -o dense --quantize dynamic")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def bundle(folder: Path, converted: Path) -> Path:
    """A bundle in the folder, named ``dense``, as if it had been made there."""
    shutil.copytree(converted / "home", folder / "home", dirs_exist_ok=True)
    return Path(shutil.copytree(converted / "dense", folder / "dense"))


@pytest.fixture
def transcript(
    folder: Path, ferry: Callable[..., subprocess.CompletedProcess[str]], request: pytest.FixtureRequest
) -> Callable[..., str]:
    """Type ``ferry`` lines one after the other and compare all that they print with a golden file.

    Values that differ from run to run stand in braces in the lines, and are given by keyword.
    """

    def run(name: str, *lines: str, **values: object) -> str:
        text = "\n".join(_told(line, ferry(line.format(**values)), folder) for line in lines)
        golden = GOLDEN / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            GOLDEN.mkdir(exist_ok=True)
            golden.write_text(text, encoding="utf-8")
        assert text == golden.read_text(encoding="utf-8"), (
            f"read the difference; to accept it: pytest {request.node.nodeid} --update-golden"
        )
        return text

    return run


def _told(line: str, done: subprocess.CompletedProcess[str], folder: Path) -> str:
    """Return what was typed, ``! `` before each line of stderr, stdout, and the exit code."""
    said = "".join(f"! {x}\n" for x in done.stderr.splitlines()) + "".join(f"{x}\n" for x in done.stdout.splitlines())
    said = said.replace(str(folder.resolve()), "<folder>").replace(str(folder), "<folder>")
    for pattern, stable in STABLE:
        said = re.sub(pattern, stable, said)
    return f"$ {line}\n{said}exit {done.returncode}\n"
