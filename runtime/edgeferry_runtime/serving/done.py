"""What comes of a request to a lane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Done(Generic[Result]):
    """What a lane did.

    Attributes:
        result: What came of it.
        queue_ms: How long it waited for a thread, and for others to run with.
        compute_ms: How long it took from there.
    """

    result: Result
    queue_ms: float
    compute_ms: float
