"""How long the latest requests took."""

from __future__ import annotations

from collections import deque
from math import ceil

MOST = 512
"""How many of the latest requests are remembered; enough for a 99th percentile that is not the slowest alone."""


class Recent:
    """The latest requests of one release.

    Attributes:
        requests: How many were answered since it was loaded.
    """

    def __init__(self) -> None:
        self.requests = 0
        self._ms: deque[float] = deque(maxlen=MOST)

    def add(self, ms: float) -> None:
        """Remember a request that was answered after so many milliseconds."""
        self.requests += 1
        self._ms.append(ms)

    def percentiles(self, *percents: float) -> list[float | None]:
        """Return percentiles of the latest requests, by nearest rank; None of each where there was no request.

        Args:
            percents: Which ones, above 0 and up to 100.
        """
        ordered = sorted(self._ms)
        return [ordered[ceil(percent / 100 * len(ordered)) - 1] if ordered else None for percent in percents]
