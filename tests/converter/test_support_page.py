"""docs/support.md says what is so: all of its options, and a sample of its conversions."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """What makes the page."""
    spec = importlib.util.spec_from_file_location("support_page", ROOT / "benchmarks/support.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs/support.md").read_text(encoding="utf-8")


def row(page: str, to: str, name: str) -> list[str]:
    """Return the cells of a model, without its name and what it was fed."""
    table = page.split(f"### To {to}\n")[1].split("###", maxsplit=1)[0]
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][2:]


def test_the_page_holds_the_options_that_are_in_force(script: ModuleType, page: str) -> None:
    assert page.startswith(script.page(None))


def test_every_model_has_a_row_of_its_own_for_each_format(script: ModuleType, page: str) -> None:
    for to in script.FORMATS:
        for model in script.ZOO:
            assert len(row(page, to, model.name)) == len(script.PRECISIONS)


def test_a_reason_stands_behind_every_refusal_and_none_is_left_over(page: str) -> None:
    notes = re.findall(r"^(\d+)\. \S", page.split("### Why not\n")[1], re.MULTILINE)
    assert set(re.findall(r"no \((\d+)\)", page)) == set(notes)


SAMPLE = [
    ("ResNet-20, PyTorch", "onnx", "int16x8"),
    ("mnist-8, `.onnx`", "onnx", "int8"),
    ("mnist-8, `.onnx`", "tflite", "none"),
    ("sine, `.tflite`", "tflite", "int8"),
    ("ResNet-8, `.tflite`", "tflite", "dynamic-int4"),
    ("ESPCN, `.onnx`", "onnx", "fp16"),
    ("silero VAD, TorchScript", "tflite", "fp16"),
    ("BlazeFace weights alone, `.pth`", "onnx", "none"),
]


@pytest.mark.zoo
@pytest.mark.slow
@pytest.mark.parametrize(("name", "to", "quantize"), SAMPLE)
def test_a_sample_of_the_page(
    name: str, to: str, quantize: str, script: ModuleType, page: str, zoo: Path, tmp_path: Path
) -> None:
    model = next(model for model in script.ZOO if model.name == name)
    cell = script.Trial(zoo, model, tmp_path).cell(to, quantize)
    said = row(page, to, name)[script.PRECISIONS.index(quantize)]
    if said.startswith("no"):
        assert f"{said[4:-1]}. {cell.reason}\n" in page
    else:
        assert not cell.reason
        assert script.show(cell, []) == said or abs(cell.snr_db - float(said)) <= 2
