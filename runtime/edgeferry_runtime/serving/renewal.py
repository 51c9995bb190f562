"""From a release that lies in a folder to one that answers: staged, proven, loaded, and only then switched to."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from edgeferry_runtime.errors import DeviceRequirementError, EdgeferryError, MissingFileError
from edgeferry_runtime.serving.entry import Entry, Source
from edgeferry_runtime.serving.folders import discard, look
from edgeferry_runtime.serving.loading import Loading
from edgeferry_runtime.serving.refusals import Kind, RefusedError, refuse
from edgeferry_runtime.serving.release import Release, State
from edgeferry_runtime.serving.settings import Execution, Settings
from edgeferry_runtime.undo import undo_on_error

AGAIN_S = 10.0
"""How long to wait before what found no room is tried again."""


class Renewal:
    """Loads what lies in the folders of models, one release of a model after the other.

    Args:
        settings: What the server was told.
        loading: What loads.
        say: Takes a line for the user: what came, and what was refused and why.

    Attributes:
        outcomes: How many releases of each model were ``loaded``, and how many that appeared were ``refused``.
    """

    def __init__(self, settings: Settings, loading: Loading, say: Callable[[str], object]) -> None:
        self._settings, self._loading, self._say = settings, loading, say
        self.outcomes: Counter[tuple[str, str]] = Counter()

    async def renew(self, entry: Entry, source: Source) -> Release:
        """Load what lies in a folder now, prove it, and switch to it; what answers already is left as it is.

        Raises:
            EdgeferryError: If it cannot be served: it is listed as unavailable, and what answered goes on.
        """
        release: Release = await asyncio.shield(self._loading.begin(self._exchange(entry, source)))
        return release

    async def _exchange(self, entry: Entry, source: Source) -> Release:
        async with entry.lock:
            try:
                return await self._take(entry, source)
            except EdgeferryError as error:
                self._refuse(entry, source, error)
                raise

    async def _take(self, entry: Entry, source: Source) -> Release:
        source.tried, source.again_at = await asyncio.to_thread(look, source.path), None
        if source.tried is None:
            raise MissingFileError(source.path, "no such bundle", "check the path, or make one with: ferry convert")
        async with self._loading.slots:
            bundle = await self._loading.stage(source.tried)
            newest = entry.newest(source)
            if newest is not None and newest.bundle.id == bundle.id:
                entry.forget_pending(source)
                await asyncio.to_thread(discard, bundle.path)
                return newest
            version = entry.number(source, bundle.id)
            if version != source.pending:
                entry.forget_pending(source)
            source.pending = version
            entry.list_as(version, State.LOADING, release=bundle.id)
            unexpected = partial(entry.list_as, version, State.UNAVAILABLE, "failed unexpectedly", bundle.id)
            with undo_on_error(unexpected):
                release = await self._loading.open(entry.name, version, bundle, self._execution(entry))
        entry.admit(source, release)
        self.outcomes[entry.name, "loaded"] += 1
        self._say(f"{entry.name}: version {version}, release {bundle.id[:12]}, answers")
        for lane in release.lanes.values():
            if lane.alone:
                self._say(f"{entry.name}: requests run alone: {lane.alone}")
        for old in source.versions[: -self._settings.keep_versions]:
            self._loading.begin(self._supersede(entry, entry.withdraw(old)))
        return release

    def _execution(self, entry: Entry) -> Execution:
        execution = self._settings.execution
        return replace(execution, workers=entry.workers or execution.workers)

    def _refuse(self, entry: Entry, source: Source, error: EdgeferryError) -> None:
        version = source.pending = source.pending or entry.number(source)
        listed = entry.listings.get(version)
        release = (source.tried and source.tried.release) or (listed.release if listed else "")
        entry.list_as(version, State.UNAVAILABLE, str(self.told(error, entry, source)), release)
        if isinstance(error, DeviceRequirementError):
            source.again_at = asyncio.get_running_loop().time() + AGAIN_S

    def told(self, error: EdgeferryError, entry: Entry, source: Source) -> RefusedError:
        """Turn what is wrong with a release into what a client may read: without the folders of this machine."""
        refused = refuse(error, f"model {entry.name!r}")
        folders = [str(source.path), *([str(source.tried.folder)] if source.tried else [])]
        known = "|".join([*map(re.escape, folders), re.escape(str(self._loading.place)) + r"/\w+"])
        reason, fix = (re.sub(f"(?:{known})/?", "", text) for text in (refused.reason, refused.fix))
        kind = Kind.FAILED if refused.kind is Kind.INVALID else refused.kind
        return RefusedError(kind, refused.subject, reason, fix, retry_after_s=refused.retry_after_s)

    async def _supersede(self, entry: Entry, release: Release) -> None:
        await self._loading.let_go(release)
        entry.listings.pop(release.version, None)

    async def attempt(self, entry: Entry, source: Source) -> None:
        """Load what lies in a folder now, and say why it cannot be; once, if the same is tried again by itself."""
        before = entry.listings.get(source.pending or 0) if source.again_at is not None else None
        try:
            await self.renew(entry, source)
        except EdgeferryError as error:
            if not self._loading.stopped and before != entry.listings.get(source.pending or 0):
                self.outcomes[entry.name, "refused"] += 1
                self._say(f"{entry.name}: refused what lies in {source.path}: {error}{goes_on(entry)}")


def goes_on(entry: Entry) -> str:
    """Say which versions answer all the same, as the end of a line."""
    there = ", ".join(map(str, sorted(entry.releases)))
    words = ("versions", "go on") if len(entry.releases) > 1 else ("version", "goes on")
    return f"; {words[0]} {there} {words[1]} answering" if there else ""
