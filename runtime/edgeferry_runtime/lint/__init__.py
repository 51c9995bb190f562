"""What a delegate would leave to the CPU, said from the file alone, before any device is touched.

The rules are documentation and observation, not the compilers themselves: what they leave open counts as doubtful.
"""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.engines.litert_library import EDGETPU_OPERATOR
from edgeferry_runtime.errors import ArtifactError, DelegationError, UnknownNameError
from edgeferry_runtime.flatbuffer import map_file
from edgeferry_runtime.guard import check_artifact
from edgeferry_runtime.lint.graph import Node, read_graph
from edgeferry_runtime.lint.rules import Objection

__all__ = ["Left", "Lint", "Objection", "lint"]

TARGETS: Mapping[str, str] = {
    "edgetpu": "Coral's table of supported operations",
    "gpu": "what LiteRT 2.3's GPU accelerator was seen to take",
    "npu": "Qualcomm's list of LiteRT operators; NPUs of other makers differ",
}
"""By target, where its rules come from."""
WHOLE = {
    "edgetpu": "the compiler stops at the first node that it does not take: all that depends on it stays on the CPU",
    "gpu": "LiteRT's accelerator is used alone, so one node left behind refuses the model",
    "npu": "LiteRT's accelerator is used alone, so one node left behind refuses the model",
}
COMPILED = "is compiled for the Edge TPU: what its compiler put into edgetpu-custom-op is not visible"


@dataclass(frozen=True)
class Left:
    """A node that is not surely taken.

    Attributes:
        index: Its number in the graph.
        operator: TFLite's name of it.
        name: That of its first output.
        reason: Why.
        sure: Whether it surely stays on the CPU.
    """

    index: int
    operator: str
    name: str
    reason: str
    sure: bool


@dataclass(frozen=True)
class Lint:
    """What the rules say of a file.

    Attributes:
        path: The artifact.
        target: ``edgetpu``, ``gpu`` or ``npu``.
        rules: Where the rules come from.
        nodes_total: Nodes of the graph.
        nodes_taken: Nodes that are surely taken.
        nodes_doubtful: Nodes of which the rules cannot say it.
        left: The nodes that are not surely taken, in order of execution.
        notes: What else is to be known.
    """

    path: Path
    target: str
    rules: str
    nodes_total: int
    nodes_taken: int
    nodes_doubtful: int
    left: tuple[Left, ...]
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> Left | None:
        """The first node that is not surely taken."""
        return next(iter(self.left), None)

    @property
    def percent(self) -> float:
        """How many nodes in a hundred are surely taken."""
        return 100 * self.nodes_taken / self.nodes_total if self.nodes_total else 100.0

    def groups(self) -> list[tuple[str, str, bool, int]]:
        """Return operator, reason, whether it is sure, and how many nodes, the most first."""
        counts = Counter((left.operator, left.reason, left.sure) for left in self.left)
        return [(*what, count) for what, count in counts.most_common()]

    def check(self) -> None:
        """Insist that every node is surely taken.

        Raises:
            DelegationError: If it is not so.
        """
        if self.left:
            behind = "; ".join(f"{n} {operator}: {reason}" for operator, reason, _, n in self.groups()[:5])
            reason = f"would not be fully delegated to {self.target}: {self.nodes_taken} of {self.nodes_total} nodes"
            raise DelegationError(self.path, f"{reason} ({behind})", "replace these operators, or use another delegate")

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        first = asdict(self.first) if self.first else None
        return {**asdict(self), "path": str(self.path), "percent": round(self.percent, 2), "first": first}


def lint(path: str | os.PathLike[str], target: str) -> Lint:
    """Say which nodes of an artifact a delegate would leave to the CPU, and why.

    Args:
        path: A bundle's folder, or a ``.tflite`` file.
        target: ``edgetpu``, ``gpu`` or ``npu``.

    Raises:
        UnknownNameError: For another target.
        ArtifactError: If the file is damaged, or is ONNX.
    """
    if target not in TARGETS:
        raise UnknownNameError("--for", target, TARGETS)
    artifact = Bundle.open(path).artifact if Path(path).is_dir() else Path(path)
    if check_artifact(artifact) != "tflite":
        reason = "is ONNX, whose providers publish no rules, and decide when they load a model"
        fix = "run it, which says what stays behind: ferry run --delegate gpu --require-full-delegation"
        raise ArtifactError(artifact, reason, fix)
    with map_file(artifact) as data:
        nodes = read_graph(data)
        left, note, rules = _left(nodes, target), WHOLE[target], TARGETS[target]
    if target == "edgetpu" and any(node.operator == EDGETPU_OPERATOR for node in nodes):
        left, note, rules = _not_compiled(nodes), COMPILED, "the compiled file"
    doubtful = sum(not each.sure for each in left)
    return Lint(artifact, target, rules, len(nodes), len(nodes) - len(left), doubtful, tuple(left), (note,))


def _left(nodes: Sequence[Node], target: str) -> list[Left]:
    objection = importlib.import_module(f"edgeferry_runtime.lint.{target}").objection
    left: list[Left] = []
    behind: dict[int, Left] = {}
    for node in nodes:
        found = objection(node) or (_after(node, behind) if target == "edgetpu" else None)
        if found is None:
            continue
        left.append(_left_node(node, found))
        if not _enters(node):
            behind.update((value.index, left[-1]) for value in node.outputs)
    return left


def _after(node: Node, behind: Mapping[int, Left]) -> Objection | None:
    """Say that a node depends on one that stays on the CPU."""
    before = [behind[value.index] for value in node.inputs if value and value.index in behind]
    if not before:
        return None
    cause = next((each for each in before if each.sure), before[0])
    root = cause.reason if cause.reason.startswith("comes after") else f"comes after {cause.operator} {cause.index}"
    return Objection(root, cause.sure)


def _enters(node: Node) -> bool:
    """Tell whether a node only quantizes what the model is given: the CPU does that, and the Edge TPU goes on."""
    source = node.input(0)
    return node.operator == "QUANTIZE" and source is not None and source.dtype == "float32"


def _not_compiled(nodes: Sequence[Node]) -> list[Left]:
    reason = Objection("the Edge TPU's compiler left it to the CPU")
    return [_left_node(node, reason) for node in nodes if node.operator != EDGETPU_OPERATOR]


def _left_node(node: Node, found: Objection) -> Left:
    name = node.outputs[0].name if node.outputs else ""
    return Left(node.index, node.operator, name, found.reason, found.sure)
