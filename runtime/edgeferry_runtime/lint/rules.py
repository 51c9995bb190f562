"""What a rule says against a node."""

from __future__ import annotations

from typing import NamedTuple


class Objection(NamedTuple):
    """Why a delegate does not take a node.

    Attributes:
        reason: In words.
        sure: Whether it is so; otherwise it depends on what no documentation says.
    """

    reason: str
    sure: bool = True


def operators(text: str) -> frozenset[str]:
    """Read a table of operators."""
    return frozenset(text.split())
