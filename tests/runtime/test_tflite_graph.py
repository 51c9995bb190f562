"""Graphs that cannot be: they would end an interpreter's process."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgeferry_runtime.flatbuffer import FlatbufferError
from edgeferry_runtime.tflite_file import verify_tflite

INPUTS, OUTPUTS = 1, 2
SHAPE, BUFFER, IS_VARIABLE = 0, 2, 5
OPERATORS = 3
"""Slots of an operator, of a tensor, and of a subgraph."""


@pytest.fixture
def chain(tiny: ModuleType) -> Callable[..., bytes]:
    """Build ``y = (x + c) + x``, with a change to it."""

    def build(change: Callable[[Any, list[int]], None] = lambda graph, tensors: None) -> bytes:
        graph = tiny.Graph()
        x, middle, y = (graph.tensor(name, (1, 4)) for name in "xmy")
        c = graph.tensor("c", (1, 4), data=np.ones((1, 4), np.float32))
        graph.operator("ADD", (x, c), (middle,))
        graph.operator("ADD", (middle, x), (y,))
        change(graph, [x, middle, y, c])
        return graph.file((x,), (y,))

    return build


def _swap(graph: Any, tensors: list[int]) -> None:
    graph.operators.reverse()


def _read_nothing(graph: Any, tensors: list[int]) -> None:
    graph.operators[0][INPUTS][0] = tensors[2]


def _write_constant(graph: Any, tensors: list[int]) -> None:
    graph.operators[0][OUTPUTS][0] = tensors[3]


def _feed_constant(graph: Any, tensors: list[int]) -> None:
    graph.tensors[tensors[0]][BUFFER] = graph.tensors[tensors[3]][BUFFER]


def _empty(graph: Any, tensors: list[int]) -> None:
    del graph.operators[1]


def _shape(*dims: int) -> Callable[[Any, list[int]], None]:
    def change(graph: Any, tensors: list[int]) -> None:
        graph.tensors[tensors[1]][SHAPE] = np.int32(dims)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_swap, "tensor 1 is read before anything is written to it"),
        (_read_nothing, "tensor 2 is read before"),
        (_write_constant, "tensor 3 is a constant, and is written to"),
        (_feed_constant, "tensor 0 is a constant, and is written to"),
        (_empty, "tensor 2 is an output, and nothing is written to it"),
        (_shape(1, -2), "tensor 1 has a dimension of -2"),
        (_shape(1 << 30, 1 << 30), "tensor 1 has more than 1099511627776 elements"),
    ],
)
def test_what_cannot_be(chain: Callable[..., bytes], change: Callable[..., None], said: str) -> None:
    verify_tflite(chain())
    with pytest.raises(FlatbufferError, match=said):
        verify_tflite(chain(change))


def test_what_may_be(chain: Callable[..., bytes]) -> None:
    """A variable keeps what the last run wrote, and of no elements there is nothing to write."""

    def state(graph: Any, tensors: list[int]) -> None:
        _read_nothing(graph, tensors)
        graph.tensors[tensors[2]][IS_VARIABLE] = np.bool_(True)

    verify_tflite(chain(state))
    verify_tflite(chain(lambda graph, tensors: _empty(graph, tensors) or _shape_of(graph, tensors[2])))


def _shape_of(graph: Any, tensor: int) -> None:
    graph.tensors[tensor][SHAPE] = np.int32([0, 4])


@pytest.mark.parametrize(("condition", "body", "sound"), [(1, 2, True), (0, 1, False), (1, 0, False), (1, 9, False)])
def test_subgraphs_do_not_run_themselves(tiny: ModuleType, condition: int, body: int, sound: bool) -> None:
    graph = tiny.Graph()
    x, y = graph.tensor("x", (1, 4)), graph.tensor("y", (1, 4))
    graph.operator("WHILE", (x,), (y,), {0: np.int32(condition), 1: np.int32(body)})
    graph.next_subgraph((x,), (y,))
    z = graph.tensor("z", (1, 4))
    graph.next_subgraph((z,), (z,))
    z = graph.tensor("z", (1, 4))
    with pytest.raises(FlatbufferError, match="tensor -1 is named"):
        graph.earlier[0][OPERATORS][0][INPUTS] = np.int32([x, -1])
        verify_tflite(graph.file((z,), (z,)))
    graph.earlier[0][OPERATORS][0][INPUTS] = np.int32([x])
    data = graph.file((z,), (z,))
    if sound:
        verify_tflite(data)
    else:
        with pytest.raises(FlatbufferError, match=r"run each other without end|subgraph 9 is named, and there are 3"):
            verify_tflite(data)


def test_a_bias_may_be_left_out_and_a_filter_not(tiny: ModuleType) -> None:
    graph = tiny.Graph()
    x, y = graph.tensor("x", (1, 4)), graph.tensor("y", (1, 4))
    w = graph.tensor("w", (4, 4), data=np.ones((4, 4), np.float32))
    graph.operator("FULLY_CONNECTED", (x, w, -1), (y,))
    verify_tflite(graph.file((x,), (y,)))
    graph.operators[0][INPUTS] = np.int32([x, -1, w])
    with pytest.raises(FlatbufferError, match="tensor -1 is named"):
        verify_tflite(graph.file((x,), (y,)))
