"""Inputs and outputs in the order of a file's graph."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeferry_devices.foreign.ports import in_order
from edgeferry_runtime.errors import UnknownNameError
from edgeferry_runtime.tensors import TensorSpec

TINY = Path(__file__).parents[1] / "runtime" / "tiny_models.py"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write a tiny model of that name."""
    spec = importlib.util.spec_from_file_location("tiny_models", TINY)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def make(name: str) -> Path:
        path = tmp_path / "model.tflite"
        path.write_bytes(getattr(module, f"tflite_{name}")())
        return path

    return make


def side(*names: str) -> list[TensorSpec]:
    return [TensorSpec(name, (1, 4), "float32") for name in names]


@pytest.mark.parametrize(
    ("model", "signature", "given", "inputs", "outputs"),
    [
        ("pair", None, (("a", "b"), ("gap", "total")), ["b", "a"], ["total", "gap"]),
        ("pair", "serving_default", (("b", "a"), ("total", "gap")), ["b", "a"], ["total", "gap"]),
        ("double", None, (("x",), ("y",)), ["x"], ["y"]),
        ("second_subgraph", None, (("question",), ("answer",)), ["question"], ["answer"]),
        ("two_signatures", None, (("x",), ("y",)), ["x"], ["y"]),
        ("two_signatures", "zero", (("question",), ("answer",)), ["question"], ["answer"]),
        ("if", None, (("x", "flag"), ("y",)), ["flag", "x"], ["y"]),
    ],
)
def test_the_order_of_the_graph(
    write: Callable[[str], Path],
    model: str,
    signature: str | None,
    given: tuple[tuple[str, ...], tuple[str, ...]],
    inputs: list[str],
    outputs: list[str],
) -> None:
    found = in_order(write(model), signature, (side(*given[0]), side(*given[1])))
    assert tuple([spec.name for spec in specs] for specs in found) == (inputs, outputs)


def test_no_such_signature(write: Callable[[str], Path]) -> None:
    with pytest.raises(UnknownNameError, match="zero"):
        in_order(write("two_signatures"), "third", (side("x"), side("y")))


@pytest.mark.parametrize("names", [("z",), (), ("x", "z")])
def test_names_that_are_not_the_graphs(write: Callable[[str], Path], names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="are not x"):
        in_order(write("double"), None, (side(*names), side("y")))
