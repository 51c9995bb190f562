"""What really executes an artifact, as far as it can be known."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from edgeferry_runtime.errors import DelegationError, PartialDelegationError


@contextlib.contextmanager
def gate(required: bool) -> Iterator[None]:
    """Turn a delegate's refusal to run in part into a failed gate, where full delegation is required.

    Raises:
        DelegationError: In place of PartialDelegationError.
    """
    try:
        yield
    except PartialDelegationError as error:
        if not required:
            raise
        raise DelegationError(error.subject, error.reason, error.fix) from error


@dataclass(frozen=True)
class LeftBehind:
    """Nodes that a delegate did not take.

    Attributes:
        operator: As the format calls it: ``SOFTMAX`` on TFLite, ``Softmax`` on ONNX.
        count: How many nodes of it.
        reason: Why; None where that cannot be known.
    """

    operator: str
    count: int
    reason: str | None = None

    def __str__(self) -> str:
        return f"{self.count} {self.operator}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True)
class Execution:
    """What really executes an artifact. None means that it cannot be known.

    Nodes are counted in the graph that runs: TFLite's without the bodies of loops and branches, ONNX's with them, after
    the optimizations that do not depend on where it executes.

    Attributes:
        asked: The order of preference that was asked for.
        delegate: The one of it that executes.
        processor: What executes, in words.
        nodes_total: Nodes of the graph.
        nodes_delegated: Nodes that the delegate took; on ``cpu`` those of the CPU's own delegate, XNNPACK.
        partitions: Into how many connected parts the delegate put them.
        left_behind: The other nodes, by operator.
        fallbacks: For each delegate that was asked for before and failed: which, and why.
    """

    asked: str
    delegate: str
    processor: str
    nodes_total: int | None = None
    nodes_delegated: int | None = None
    partitions: int | None = None
    left_behind: tuple[LeftBehind, ...] = ()
    fallbacks: tuple[str, ...] = ()

    @property
    def full(self) -> bool | None:
        """Whether what was asked for executes every node; a fallback to the CPU does not."""
        if self.on_cpu:
            return not self.fallbacks
        if self.nodes_total is None or self.nodes_delegated is None:
            return None
        return self.nodes_delegated == self.nodes_total

    @property
    def on_cpu(self) -> bool:
        """Whether the delegate that executes is the plain CPU."""
        kind, _, detail = self.delegate.partition(":")
        return kind == "cpu" and (not detail or detail.isdecimal())

    def check_full(self, path: Path) -> None:
        """Insist on full delegation.

        Args:
            path: The artifact, for the error.

        Raises:
            DelegationError: If it is not full, or cannot be known to be.
        """
        if not self.full:
            fix = "use another delegate, or leave out --require-full-delegation"
            raise DelegationError(path, f"is not fully delegated to {self.asked}: {self._shortfall()}", fix)

    def _shortfall(self) -> str:
        if self.on_cpu:
            return f"{self.delegate} executes it, because {'; '.join(self.fallbacks)}"
        if self.nodes_total is None or self.nodes_delegated is None:
            return f"{self.processor} does not tell which nodes it took"
        behind = ", ".join(map(str, self.left_behind))
        return f"{self.nodes_delegated} of {self.nodes_total} nodes{f', without {behind}' if behind else ''}"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Execution:
        """Read the JSON form of `to_dict`."""
        names = {field.name for field in fields(cls)}
        values = {key: value for key, value in data.items() if key in names}
        behind = tuple(LeftBehind(**entry) for entry in values.pop("left_behind", ()))
        return cls(**{**values, "left_behind": behind, "fallbacks": tuple(values.get("fallbacks", ()))})

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: the attributes, and ``full``."""
        return {**asdict(self), "full": self.full}
