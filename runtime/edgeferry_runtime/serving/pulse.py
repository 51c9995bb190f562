"""Whether the models still move: a lane whose threads all hang in an engine finishes nothing any more."""

from __future__ import annotations

import time

from edgeferry_runtime.serving.lane import Lane
from edgeferry_runtime.serving.release import Release, State
from edgeferry_runtime.serving.repository import Repository


class Pulse:
    """Watches the lanes of a repository.

    Args:
        repository: The models.
        patience_s: How long a lane may have requests and finish none. No shorter than their deadline: then nobody waits
            for them any more.
    """

    def __init__(self, repository: Repository, patience_s: float) -> None:
        self._repository, self._patience_s = repository, patience_s
        self._seen: dict[Lane, tuple[int, float]] = {}

    def beats(self) -> bool:
        """Tell whether every lane has finished something lately, or has nothing to do."""
        now = time.monotonic()
        lanes = [lane for release in answering(self._repository) for lane in release.lanes.values()]
        self._seen = {lane: self._moved(lane, now) for lane in lanes}
        return all(now - since <= self._patience_s for _, since in self._seen.values())

    def _moved(self, lane: Lane, now: float) -> tuple[int, float]:
        """Return how many requests a lane has finished, and when that last changed or there was nothing to do."""
        finished, since = self._seen.get(lane, (-1, now))
        return (finished, since) if lane.waiting and lane.finished == finished else (lane.finished, now)


def answering(repository: Repository) -> list[Release]:
    """Return the releases that answer."""
    ready = [listing for listing in repository.index() if listing.state is State.READY]
    return [repository.find(listing.name, listing.version) for listing in ready]
