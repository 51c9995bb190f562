"""What is said of an execution, and what full delegation means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeferry_runtime.commands.delegate_option import execution_lines
from edgeferry_runtime.engines import Execution, LeftBehind
from edgeferry_runtime.errors import DelegationError, GateError

BEHIND = (LeftBehind("SOFTMAX", 2), LeftBehind("CAST", 1, "an operator that it does not have"))
PART = Execution("./d.so", "./d.so", "libd", 10, 7, 2, BEHIND)
ALL = Execution("./d.so", "./d.so", "libd", 10, 10, 1)
CPU = Execution("cpu", "cpu", "CPU, XNNPACK, 1 thread", 10, 7, 2, BEHIND)
OPENVINO = Execution("cpu:openvino", "cpu:openvino", "CPU, OpenVINO", 10, 7, 2, BEHIND)
FALLEN = Execution("gpu,cpu", "cpu", "CPU, 1 thread", fallbacks=("gpu: no adapter",))
UNKNOWN = Execution("gpu", "gpu", "llvmpipe")


@pytest.mark.parametrize(
    ("execution", "full"),
    [(PART, False), (ALL, True), (CPU, True), (OPENVINO, False), (FALLEN, False), (UNKNOWN, None)],
)
def test_full_delegation_is_of_what_was_asked_for(execution: Execution, full: bool | None) -> None:
    assert execution.full is full


@pytest.mark.parametrize(
    ("execution", "said"),
    [
        (PART, r"7 of 10 nodes, without 2 SOFTMAX, 1 CAST \(an operator that it does not have\)"),
        (FALLEN, "cpu executes it, because gpu: no adapter"),
        (UNKNOWN, "llvmpipe does not tell which nodes it took"),
    ],
)
def test_what_falls_short_of_full_delegation_is_a_failed_gate(execution: Execution, said: str) -> None:
    with pytest.raises(DelegationError, match=said) as error:
        execution.check_full(Path("model.tflite"))
    assert isinstance(error.value, GateError)
    assert error.value.exit_code == 3


def test_full_delegation_passes() -> None:
    ALL.check_full(Path("model.tflite"))
    CPU.check_full(Path("model.tflite"))


@pytest.mark.parametrize("execution", [PART, ALL, CPU, FALLEN, UNKNOWN])
def test_json_and_back(execution: Execution) -> None:
    data = json.loads(json.dumps(execution.to_dict()))
    assert data["full"] == execution.full
    assert Execution.from_dict(data) == execution


@pytest.mark.parametrize(
    ("execution", "lines"),
    [
        (
            PART,
            [
                "./d.so: libd; 7 of 10 nodes in 2 partitions",
                "left to the CPU: 2 SOFTMAX, 1 CAST (an operator that it does not have)",
            ],
        ),
        (CPU, ["cpu: CPU, XNNPACK, 1 thread; 7 of 10 nodes by XNNPACK in 2 partitions"]),
        (FALLEN, ["cpu: CPU, 1 thread", "fell back from gpu: no adapter"]),
        (UNKNOWN, ["gpu: llvmpipe; which nodes it took is not known"]),
    ],
)
def test_the_lines_that_people_read(execution: Execution, lines: list[str]) -> None:
    assert execution_lines(execution) == lines
