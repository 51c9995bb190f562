"""One model of a repository: where its releases come from, which of them answer, and what is known of each."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from edgeferry_runtime.serving.folders import Found
from edgeferry_runtime.serving.release import Listing, Release, State

UNLOADED = "unloaded"


@dataclass(eq=False)
class Source:
    """A folder in which releases of a model appear.

    Attributes:
        path: A bundle's folder, or a device's folder of a bundle's releases.
        first: The version of the first release, where the user gave one, until it has come.
        versions: Which versions it brought that answer, the oldest first.
        seen: What the last look found.
        tried: What was loaded or refused last; only something else is tried again.
        pending: The version under which what is being loaded, or was refused, is listed.
        again_at: When to try the same once more, by the event loop's clock: what failed was not the release.
    """

    path: Path
    first: int | None = None
    versions: list[int] = field(default_factory=list)
    seen: Found | None = None
    tried: Found | None = None
    pending: int | None = None
    again_at: float | None = None

    def due(self, found: Found | None, now: float) -> bool:
        """Take note of what a look found, and tell whether to act on it.

        That is when it is new and has not changed since the look before: nobody is writing there any more.
        """
        settled, self.seen = found == self.seen, found
        return settled and (found != self.tried or (self.again_at is not None and now >= self.again_at))


@dataclass(eq=False)
class Entry:
    """One model.

    Attributes:
        name: What clients call it.
        sources: Where its releases appear.
        workers: Calls at the same time, where a client chose; None takes the server's.
        wanted: Whether new releases are loaded: not after it was unloaded.
        required: Whether the user named it on the command line.
        releases: By version, those that answer.
        listings: By version, what is known of each.
        default: The version that is meant where a request names none.
        last: The highest version that ever answered.
        lock: Held while something is loaded or let go of.
    """

    name: str
    sources: list[Source] = field(default_factory=list)
    workers: int | None = None
    wanted: bool = True
    required: bool = False
    releases: dict[int, Release] = field(default_factory=dict)
    listings: dict[int, Listing] = field(default_factory=dict)
    default: int | None = None
    last: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def number(self, source: Source, release: str = "") -> int:
        """Return the version for a release: the one that it had before it was unloaded, or the next.

        Args:
            source: Where it comes from.
            release: The bundle's id, where it is known.
        """
        for version, listing in self.listings.items():
            if release and listing.release == release and listing.reason == UNLOADED:
                return version
        if source.pending is not None and source.pending > self.last:
            return source.pending
        if source.first is not None:
            return source.first
        return max(self.last, *self.listings, *(other.first or 0 for other in self.sources)) + 1

    def list_as(self, version: int, state: State, reason: str = "", release: str = "") -> None:
        """Write down what a version is doing."""
        self.listings[version] = Listing(self.name, version, state, reason, release)

    def forget_pending(self, source: Source) -> None:
        """Strike out what was refused before."""
        if source.pending is not None:
            self.listings.pop(source.pending, None)
            source.pending = None

    def admit(self, source: Source, release: Release) -> None:
        """Let a release answer; it is the default one if it takes the place of the default, or is the first."""
        version = release.version
        first = not source.versions and version > (self.default or 0)
        if self.default not in self.releases or self.default in source.versions or first:
            self.default = version
        self.releases[version] = release
        self.last = max(self.last, version)
        source.versions.append(version)
        source.first = source.pending = None
        self.list_as(version, State.READY, release=release.bundle.id)

    def withdraw(self, version: int) -> Release:
        """Give a release to nobody any more; where it was the default, the newest one that is left becomes it."""
        release = self.releases.pop(version)
        for source in self.sources:
            if version in source.versions:
                source.versions.remove(version)
        if self.default == version:
            self.default = max(self.releases, default=None)
        self.list_as(version, State.UNLOADING, release=release.bundle.id)
        return release

    def newest(self, source: Source) -> Release | None:
        """Return the release that a folder brought last, where it answers."""
        return self.releases[source.versions[-1]] if source.versions else None
