"""What can be proven of a program by the files that it writes, and what cannot: by programs of a few lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeferry_devices.device import Completed
from edgeferry_devices.foreign.proof import Files, NotProvableError, prove
from edgeferry_devices.local import LocalDevice
from edgeferry_runtime.bundle import Bundle, Manifest, Probe, write_bundle
from edgeferry_runtime.errors import VerificationError
from edgeferry_runtime.numerics import Tolerance
from edgeferry_runtime.tensors import TensorSpec

REAL = Path(__file__).parents[1] / "runtime" / "tiny_models.py"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """``y = x + x``."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("tiny_models", REAL)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    x = np.arange(12, dtype=np.float32).reshape(3, 1, 4)
    sides = (TensorSpec("x", (1, 4), "float32"),), (TensorSpec("y", (1, 4), "float32"),)
    manifest = Manifest("double", "model.tflite", "tflite", "none", *sides, {}, Tolerance(max_abs=1e-6))

    def fill(folder: Path) -> None:
        (folder / "model.tflite").write_bytes(module.tflite_double())
        Probe({"x": x}, {"y": x * 2}).save(folder / "probe.npz")

    return write_bundle(tmp_path / "bundle", manifest, fill)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "there").mkdir()
    return Files(LocalDevice(tmp_path / "root"), str(tmp_path / "there"))


def program(compute: Callable[[np.ndarray], np.ndarray], said: bytes = b"") -> Callable[[Sequence[str]], Completed]:
    """Return what reads its input and writes its output as the flags say."""

    def run(flags: Sequence[str]) -> Completed:
        told = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
        assert (told["num_runs"], told["warmup_runs"], told["input_layer_shape"]) == ("1", "0", "1,4")
        name, path = told["input_layer_value_files"].split(":")
        assert name == told["input_layer"]
        answer = compute(np.fromfile(path, np.float32))
        if answer.size:
            answer.tofile(told["output_filepath"])
        return Completed((), said, b"", 0)

    return run


def test_a_program_that_is_right_leaves_no_files(bundle: Bundle, files: Files) -> None:
    figures = prove(bundle, None, files, program(lambda x: x + x))
    assert [(figure.name, figure.max_abs) for figure in figures] == [("y", 0.0)]
    assert list(Path(files.folder).iterdir()) == []


def test_every_sample_counts(bundle: Bundle, files: Files) -> None:
    with pytest.raises(VerificationError, match="max abs error 1 is above"):
        prove(bundle, None, files, program(lambda x: x + x + (x[0] > 7)))
    assert list(Path(files.folder).iterdir()) == []


def test_an_output_of_another_size(bundle: Bundle, files: Files) -> None:
    with pytest.raises(VerificationError, match="wrote 12 bytes of outputs, and 16 were expected"):
        prove(bundle, None, files, program(lambda x: x[:3]))


@pytest.mark.parametrize("said", [b"", b"WARN: Unconsumed cmdline flags: --output_filepath=/x"])
def test_a_program_that_writes_nothing(bundle: Bundle, files: Files, said: bytes) -> None:
    with pytest.raises(NotProvableError, match="this binary writes no outputs"):
        prove(bundle, None, files, program(lambda x: x[:0], said))


def test_outputs_of_the_run_before_do_not_count(bundle: Bundle, files: Files) -> None:
    Path(files.output).write_bytes(bytes(16))
    with pytest.raises(NotProvableError):
        prove(bundle, None, files, program(lambda x: x[:0]))


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ((TensorSpec("x", (1, 4), "object"),), "texts or single numbers"),
        ((TensorSpec("x", (), "float32"),), "texts or single numbers"),
        ((TensorSpec("z", (1, 4), "float32"),), "cannot be found in its graph"),
    ],
)
def test_what_it_cannot_be_fed(bundle: Bundle, files: Files, inputs: tuple[TensorSpec, ...], why: str) -> None:
    other = replace(bundle, manifest=replace(bundle.manifest, inputs=inputs))
    with pytest.raises(NotProvableError, match=why):
        prove(other, None, files, program(lambda x: x))
