"""Which models there are, in which versions, and which of them answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgeferry_runtime.errors import BundleError, DeviceRequirementError, EdgeferryError, UsageError
from edgeferry_runtime.serving.entry import UNLOADED, Entry, Source
from edgeferry_runtime.serving.folders import Found, listed, look
from edgeferry_runtime.serving.loading import Loading
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.release import Listing, Release, State
from edgeferry_runtime.serving.renewal import Renewal, goes_on
from edgeferry_runtime.serving.settings import Placed, Settings
from edgeferry_runtime.store import check_name

MOST_WORKERS = 64


class Repository:
    """The models of a server. All of it belongs to the event loop; only loading happens in threads.

    Args:
        settings: What the server was told.
        say: Takes a line for the user: what came, and what was refused and why.

    Attributes:
        outcomes: How many releases of each model were ``loaded``, and how many that appeared were ``refused``.
    """

    def __init__(self, settings: Settings, say: Callable[[str], object] = bool) -> None:
        self.settings = settings
        self._say = say
        self._entries: dict[str, Entry] = {}
        self._loading = Loading()
        self._renewal = Renewal(settings, self._loading, say)
        self.outcomes = self._renewal.outcomes
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load what the user named, and what of the repository's folder can be served; then watch for new releases.

        Raises:
            EdgeferryError: If one of those that the user named cannot be served.
        """
        await self._loading.start()
        await asyncio.gather(*map(self.place, self.settings.placed))
        await self._discover()
        found = [(entry, source) for entry, source in self._sources() if source.tried is None]
        await asyncio.gather(*(self._renewal.attempt(entry, source) for entry, source in found))
        self._watching = asyncio.create_task(self._watch())

    async def place(self, placed: Placed) -> Release:
        """Load one bundle under a name, beside what this name has already.

        Raises:
            UsageError: If the version is given already.
            EdgeferryError: If it cannot be served; what answered before goes on.
        """
        check_name(placed.name)
        entry = self._entries.setdefault(placed.name, Entry(placed.name))
        if placed.version in {*entry.listings, *(source.first for source in entry.sources)} - {None}:
            raise UsageError(f"{placed.name}@{placed.version}", "is there twice", "give each version once")
        entry.required = True
        source = Source(placed.path, placed.version)
        entry.sources.append(source)
        return await self._renewal.renew(entry, source)

    async def load(self, name: str, as_name: str | None = None, workers: int | None = None) -> Release:
        """Load a bundle of the repository's folder, or the newest release of a model that is known.

        A release that answers already is left as it is.

        Args:
            name: The bundle's folder in the repository, or the model.
            as_name: What clients are to call it; None for `name`.
            workers: Calls at the same time, 1 to 64; None leaves that as it is.

        Raises:
            RefusedError: INVALID for what is no name or number, NOT_FOUND if there is no such bundle, CONFLICT if
                `as_name` is another model already, FAILED if it cannot be served; what answered before goes on.
        """
        _check_workers(workers)
        entry = await self._entry_for(_check_name(name), _check_name(as_name or name))
        entry.wanted = True
        entry.workers = workers or entry.workers
        for source in entry.sources:
            try:
                await self._renewal.renew(entry, source)
            except EdgeferryError as error:
                raise self._renewal.told(error, entry, source) from error
        release = self.find(entry.name)
        return await self.scale(entry.name, release.version, workers) if workers else release

    async def _entry_for(self, name: str, target: str) -> Entry:
        """Return the model that a client wants loaded, known or new."""
        entry, origin = self._entries.get(target), self._entries.get(name)
        if entry is not None and name == target:
            return entry
        path = origin.sources[-1].path if origin is not None else await self._stored(name)
        entry = self._entries.setdefault(target, Entry(target, [Source(path)]))
        if path not in [source.path for source in entry.sources]:
            raise RefusedError(Kind.CONFLICT, f"model {target!r}", "is another one already", "give another name")
        return entry

    async def _stored(self, name: str) -> Path:
        folder = self.settings.repository
        there = await asyncio.to_thread(listed, folder) if folder is not None else {}
        if name not in there:
            known = ", ".join(sorted({*there, *self._entries})) or "none"
            raise RefusedError(Kind.NOT_FOUND, f"model {name[:80]!r}", "is not here", f"there are: {known}")
        return there[name]

    async def unload(self, name: str, version: str | int | None = None) -> None:
        """Let go of a model, or of one version of it, after the requests in flight; it stays in the index.

        Of a model that is unloaded, new releases are not loaded until `load`.

        Raises:
            RefusedError: NOT_FOUND where there is no such model or version.
        """
        entry = self._entry(name)
        if version not in (None, "") and _number(name, version) not in entry.listings:
            self.find(name, version)
        await asyncio.shield(self._loading.begin(self._unload(entry, version)))

    async def _unload(self, entry: Entry, version: str | int | None) -> None:
        async with entry.lock:
            meant = set(entry.releases) if version in (None, "") else {_number(entry.name, version)}
            withdrawn = [entry.withdraw(number) for number in sorted(meant & set(entry.releases))]
            entry.wanted = bool(entry.releases)
            for release in withdrawn:
                await self._loading.let_go(release)
                entry.list_as(release.version, State.UNAVAILABLE, UNLOADED, release.bundle.id)

    def set_default(self, name: str, version: str | int | None) -> Release:
        """Make a version that answers the one that is meant where a request names none.

        Raises:
            RefusedError: As `find`.
        """
        release = self.find(name, version)
        self._entry(name).default = release.version
        return release

    async def scale(self, name: str, version: str | int | None, workers: int) -> Release:
        """Let a version, and those that follow it, run so many calls at the same time.

        Raises:
            RefusedError: As `find`; INVALID if it is not 1 to 64, FAILED if it cannot be loaded once more.
        """
        _check_workers(workers)
        entry = self._entry(name)
        release: Release = await asyncio.shield(self._loading.begin(self._scale(entry, version, workers)))
        return release

    async def _scale(self, entry: Entry, version: str | int | None, workers: int) -> Release:
        async with entry.lock, self._loading.slots:
            old = self.find(entry.name, version)
            entry.workers = workers
            if old.execution.workers == workers:
                return old
            try:
                release = await self._loading.again(old, replace(old.execution, workers=workers))
            except EdgeferryError as error:
                raise self._renewal.told(error, entry, entry.sources[-1]) from error
            entry.releases[old.version] = release
            self._loading.begin(self._loading.let_go(old))
            return release

    def find(self, name: str, version: str | int | None = None) -> Release:
        """Return the release that answers for a name; without a version, the default one.

        Raises:
            RefusedError: NOT_FOUND where there is no such model or version, NOT_READY where it cannot answer now.
        """
        entry = self._entry(name)
        wanted = entry.default if version in (None, "") else _number(name, version)
        release = entry.releases.get(wanted) if wanted is not None else None
        if release is not None:
            return release
        listing = entry.listings.get(max(entry.listings, default=0) if wanted is None else wanted)
        if wanted is None or listing is not None:
            state = (listing.state if listing else State.LOADING).value.lower()
            raise RefusedError(Kind.NOT_READY, f"model {name!r}", f"is {state}", "try again later", retry_after_s=1)
        known = ", ".join(map(str, entry.releases)) or "none"
        raise RefusedError(Kind.NOT_FOUND, f"version {wanted} of model {name!r}", "is not here", f"there are: {known}")

    def _entry(self, name: str) -> Entry:
        entry = self._entries.get(name)
        if entry is None:
            known = ", ".join(self._entries) or "none"
            raise RefusedError(Kind.NOT_FOUND, f"model {name[:80]!r}", "is not here", f"there are: {known}")
        return entry

    def index(self) -> list[Listing]:
        """Return all that is known, by name and version."""
        return [entry.listings[v] for _, entry in sorted(self._entries.items()) for v in sorted(entry.listings)]

    def versions(self, name: str) -> list[int]:
        """Return the versions that answer for a name, the oldest first."""
        entry = self._entries.get(name)
        return sorted(entry.releases) if entry else []

    def ready(self) -> bool:
        """Tell whether every model answers that the user named and no client unloaded."""
        return all(entry.releases for entry in self._entries.values() if entry.required and entry.wanted)

    def stop(self) -> None:
        """Load nothing any more, and break off what is being loaded; what answers goes on."""
        if self._watching is not None:
            self._watching.cancel()
        self._loading.stop()

    async def close(self) -> None:
        """Break off what is being loaded, and let go of every release, each after its last request."""
        self.stop()
        await self._loading.settle()
        releases = [release for entry in self._entries.values() for release in entry.releases.values()]
        await asyncio.gather(*map(self._loading.let_go, releases))
        await self._loading.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.settings.poll_s)
            with contextlib.suppress(DeviceRequirementError):  # too many files open: nothing was seen
                await self._look_around()

    async def _look_around(self) -> None:
        await self._discover()
        sources = self._sources()
        paths = [source.path for _, source in sources]
        seen = await asyncio.to_thread(lambda paths: list(map(look, paths)), paths)
        now = asyncio.get_running_loop().time()
        for (entry, source), found in zip(sources, seen, strict=True):
            if source.due(found, now) and entry.wanted and not entry.lock.locked():
                self._act(entry, source, found)

    def _act(self, entry: Entry, source: Source, found: Found | None) -> None:
        if found is None:
            source.tried = None
            self._say(f"{entry.name}: {source.path} is gone{goes_on(entry)}")
        else:
            self._loading.begin(self._renewal.attempt(entry, source))

    async def _discover(self) -> None:
        """Take note of the bundles that the repository's folder has."""
        folder = self.settings.repository
        if folder is not None:
            for name, path in (await asyncio.to_thread(listed, folder)).items():
                self._entries.setdefault(name, Entry(name, [Source(path)]))

    def _sources(self) -> list[tuple[Entry, Source]]:
        return [(entry, source) for entry in self._entries.values() for source in entry.sources]


def _check_name(name: str) -> str:
    try:
        return check_name(name)
    except BundleError as error:
        reason = "cannot be a model's name"
        raise RefusedError(Kind.INVALID, f"model {name[:80]!r}", reason, "give a name, and no path") from error


def _check_workers(workers: int | None) -> None:
    if workers is not None and not 1 <= workers <= MOST_WORKERS:
        raise RefusedError(Kind.INVALID, f"{workers} workers", "is not allowed", f"give 1 to {MOST_WORKERS}")


def _number(name: str, version: str | int | None) -> int:
    text = str(version).removesuffix(".0")
    if not text.isascii() or not text.isdigit() or not 0 < len(text) < 19:
        raise RefusedError(
            Kind.NOT_FOUND, f"version {str(version)[:40]!r} of model {name!r}", "is no number", "give one, such as 1"
        )
    return int(text)
