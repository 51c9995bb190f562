"""What once got through: it crashed an engine, took gigabytes, started a program, or ended in a traceback."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

KEPT = Path(__file__).with_name("kept")
ENDLESS = KEPT / "endless.tflite"
MODELS = sorted(path for path in KEPT.iterdir() if path.suffix in (".tflite", ".onnx") and path != ENDLESS)
INPUTS = sorted(path for path in KEPT.iterdir() if path.suffix in (".npy", ".npz", ".png"))
PROFILES = sorted(KEPT.glob("*.json"))


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A sound model that takes one input ``x`` of float32 [1, 4]."""
    spec = importlib.util.spec_from_file_location("tiny_models", KEPT.parents[1] / "runtime" / "tiny_models.py")
    assert spec and spec.loader
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    (tmp_path / "sound.onnx").write_bytes(tiny.onnx_double())
    return tmp_path / "sound.onnx"


def test_there_are_some() -> None:
    assert len(MODELS) + len(INPUTS) + len(PROFILES) + 1 == len(list(KEPT.iterdir())) >= 20
    assert sum(path.stat().st_size for path in KEPT.iterdir()) < 100_000


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.name)
def test_a_model(path: Path, ferry: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((1, 4), np.float32))
    code, said = ferry("run", path, "--input", tmp_path / "x.npy")
    if path.name.startswith("labels_of"):
        assert (code, said) == (0, "y  float32[1x4]\n  2 2 2 2\n")
    else:
        assert code == 1
        assert said.startswith("ferry: error: ")
        assert said.count("\n") == 1
        assert "died" not in said


def test_a_loop_that_never_ends_is_ended(tmp_path: Path) -> None:
    from edgeferry_runtime.confined import Run, run_confined
    from edgeferry_runtime.errors import EngineError
    from edgeferry_runtime.guard import try_in_child

    np.save(tmp_path / "x.npy", np.ones((1, 4), np.float32))
    with pytest.raises(EngineError, match="did not load and run within 3 s"):
        run_confined(Run(str(ENDLESS), (str(tmp_path / "x.npy"),)), timeout_s=3)
    with pytest.raises(EngineError, match="did not load and run within 3 s"):
        try_in_child(ENDLESS, timeout_s=3)


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: path.name)
def test_an_input(path: Path, ferry: Callable[..., tuple[int, str]], sound: Path) -> None:
    code, said = ferry("run", sound, "--input", path)
    assert code == 1
    assert said.startswith(f"ferry: error: {path}: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.name)
def test_a_profile(path: Path, ferry: Callable[..., tuple[int, str]]) -> None:
    code, said = ferry("compare", path, path)
    assert code == 1
    assert said.startswith(f"ferry: error: {path}: ")


@pytest.mark.parametrize("path", [path for path in INPUTS if path.suffix == ".png"], ids=lambda path: path.name)
def test_a_picture_is_told_by_its_content(path: Path) -> None:
    pytest.importorskip("PIL")
    from edgeferry_runtime.errors import DataError
    from edgeferry_runtime.preprocess import Preprocess, read_image

    with pytest.raises(DataError, match="cannot be read as a picture \\(of no known kind"):
        read_image(path, Preprocess())
