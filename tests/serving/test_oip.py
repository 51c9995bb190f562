"""What both forms of the Open Inference Protocol say of a model, and classes in place of scores."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeferry_runtime.serving.oip import best_classes, describe
from edgeferry_runtime.serving.refusals import RefusedError
from edgeferry_runtime.tensors import Quantization, TensorSpec


def described(inputs: list[TensorSpec], outputs: list[TensorSpec]) -> Any:
    lane: Any = SimpleNamespace(inputs=tuple(inputs), outputs=tuple(outputs))
    return describe(lane)


def test_a_quantized_tensor_is_real_and_tells_how_it_is_stored() -> None:
    image = TensorSpec("image", (1, 8), "int8", Quantization((0.5,), (-128,)))
    channels = TensorSpec("channels", (1, 2), "uint8", Quantization((0.5, 2.0), (0, 7), 1))
    inputs, outputs = described([image], [channels])
    stored = {"stored_datatype": "INT8", "scale": 0.5, "zero_point": -128}
    assert inputs == [{"name": "image", "datatype": "FP32", "shape": [-1, 8], "parameters": stored}]
    assert outputs[0]["parameters"] == {
        "stored_datatype": "UINT8",
        "scale": [0.5, 2.0],
        "zero_point": [0, 7],
        "axis": 1,
    }


@pytest.mark.parametrize(
    ("inputs", "outputs", "shapes"),
    [
        ([(1, 8)], [(1, 2)], [[-1, 8], [-1, 2]]),
        ([(4, 8)], [(4, 2)], [[-1, 8], [-1, 2]]),
        ([(-1, 8)], [(-1, 2)], [[-1, 8], [-1, 2]]),
        ([(1, 8)], [(2,)], [[1, 8], [2]]),
        ([(1, 8), (2, 8)], [(1, 2)], [[1, 8], [2, 8], [1, 2]]),
        ([(1, 8)], [()], [[1, 8], []]),
    ],
)
def test_the_first_dimension_is_free_where_any_number_of_rows_is_taken(
    inputs: list[tuple[int, ...]], outputs: list[tuple[int, ...]], shapes: list[list[int]]
) -> None:
    sides = [[TensorSpec(f"t{shape}", shape, "float32") for shape in side] for side in (inputs, outputs)]
    assert [tensor["shape"] for side in described(*sides) for tensor in side] == shapes


def test_the_best_classes_come_first_and_of_equal_ones_the_lowest_index() -> None:
    values = np.array([[0.25, 0.5, 0.25], [0.1, 0.2, 0.7]], np.float32)
    found = best_classes("y", values, 2, ("cat", "dog", "eel"))
    assert found.tolist() == [["0.5:1:dog", "0.25:0:cat"], ["0.7:2:eel", "0.2:1:dog"]]


def test_classes_of_stored_values_without_names() -> None:
    found = best_classes("y", np.array([[0, 255, 7]], np.uint8), 9, ("too", "few"))
    assert found.tolist() == [["255:1", "7:2", "0:0"]]


@pytest.mark.parametrize(("shape", "expected"), [((3,), (2,)), ((), (1,)), ((2, 3, 1, 1), (2, 2)), ((0, 3), (0, 2))])
def test_classes_keep_the_axis_of_rows(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert best_classes("y", np.zeros(shape), 2, ()).shape == expected


def test_text_has_no_classes() -> None:
    with pytest.raises(RefusedError, match="holds text"):
        best_classes("y", np.array(["a"], object), 1, ())
