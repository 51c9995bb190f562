"""What was measured, side by side: across devices, bundles and dates, each run against the one before it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from edgeferry_devices import history
from edgeferry_devices.device import Say, silent
from edgeferry_devices.history import Measurement, Query
from edgeferry_devices.moments import parse_moment
from edgeferry_devices.sides import Side, sides, with_samples
from edgeferry_runtime.errors import GateError, MissingFileError, UsageError
from edgeferry_runtime.measurement.compare import Comparison, compare_profiles

MEASURE = "measure it: ferry profile BUNDLE --on DEVICE"
NAMED = 3
"""Rows that an error names at most."""

_RECALL = re.compile(r"(?P<device>.+?):(?P<bundle>[^:@]+)(?:@(?P<date>.+))?", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """One run, and what changed since the one before.

    Attributes:
        side: What was measured.
        before: What was measured before of the same device, bundle and delegate; None for the first.
        change: The one against the other, A being the older.
    """

    side: Side
    before: Side | None = None
    change: Comparison | None = None

    @property
    def differs(self) -> tuple[str, ...]:
        """What is not the same about the machine and the engine as in the run before."""
        return self.change.differs if self.change else ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; times are in milliseconds, sizes in bytes, and what is unknown is None."""
        side, (median, (low, high)) = self.side, self.side.median
        return {
            "device": side.key.device,
            "bundle": side.key.bundle,
            "bundle_id": side.bundle_id,
            "delegate": side.key.delegate,
            "signature": side.key.signature or None,
            "run": side.run,
            "measured_at": side.at.isoformat(timespec="seconds"),
            "engine": side.last.engine.get("name"),
            "engine_version": side.last.engine.get("version"),
            "processes": len(side.profiles),
            "runs": side.runs,
            "median_ms": median,
            "median_ms_low": low,
            "median_ms_high": high,
            "p95_ms": side.percentile(95),
            "size_bytes": side.size_bytes,
            "peak_bytes": side.peak_bytes,
            "metric": side.accuracy.get("metric"),
            "accuracy": side.accuracy.get("artifact"),
            "accuracy_drop": side.accuracy.get("drop"),
            "temperature_c": side.temperature_c,
            "marks": [reason.partition(":")[0] for reason in side.reasons],
            **self._change(),
        }

    def _change(self) -> dict[str, Any]:
        before, change = self.before, self.change
        low, high = change.ratio_ci95 if change else (None, None)
        return {
            "before_at": before.at.isoformat(timespec="seconds") if before else None,
            "before_bundle_id": before.bundle_id if before else None,
            "ratio": change.ratio if change else None,
            "ratio_low": low,
            "ratio_high": high,
            "change": change.verdict if change else None,
            "differs": list(self.differs),
        }


@dataclass(frozen=True)
class Wanted:
    """Which runs are to be shown.

    Attributes:
        devices: Names of devices; empty for all.
        bundles: Names of bundles, or beginnings of their ids; empty for all.
        since: A moment that none is older than; see `parse_moment`.
        until: A moment that none is newer than.
        every: Whether every run is shown, and not the newest of each device, bundle and delegate.
    """

    devices: Sequence[str] = ()
    bundles: Sequence[str] = ()
    since: str | None = None
    until: str | None = None
    every: bool = False


def rows(wanted: Wanted, say: Say = silent) -> list[Row]:
    """Return what was measured by device, bundle, delegate and date, each run compared with the one before it.

    The one before may be older than what is wanted.

    Args:
        wanted: Which runs.
        say: Takes a line for each profile that cannot be read, and for each name of which nothing was measured.

    Raises:
        UsageError: If a moment is none.
        MissingFileError: If nothing of the kind was measured.
    """
    now = datetime.now(timezone.utc)
    since = parse_moment(wanted.since, "--since", now) if wanted.since else None
    until = parse_moment(wanted.until, "--until", now, end=True) if wanted.until else None
    found = sides(
        with_samples(history.read(Query(tuple(wanted.devices), tuple(wanted.bundles), until=until), say), say)
    )
    shown = [row for runs in found.values() for row in _rows(runs, since, wanted.every)]
    if not shown:
        raise MissingFileError("history", f"has nothing measured{_words(wanted)}", MEASURE)
    for name in wanted.devices:
        if name not in {row.side.key.device for row in shown}:
            say(f"{name}: nothing was measured{_words(Wanted((), wanted.bundles, wanted.since, wanted.until))}")
    return shown


def _measured(query: Query, say: Say) -> list[Measurement]:
    return with_samples(history.read(query, say), say)


def _rows(runs: Sequence[Side], since: datetime | None, every: bool) -> list[Row]:
    """Return the runs of one key that are wanted, the oldest first."""
    kept = [i for i, side in enumerate(runs) if since is None or side.at >= since]
    return [_row(runs[i], runs[i - 1] if i else None) for i in (kept if every else kept[-1:])]


def _row(side: Side, before: Side | None) -> Row:
    return Row(side, before, compare_profiles(before.profiles, side.profiles) if before else None)


def _words(wanted: Wanted) -> str:
    of = f" of {', '.join(wanted.bundles)}" if wanted.bundles else ""
    on = f" on {', '.join(wanted.devices)}" if wanted.devices else ""
    since = f" since {wanted.since}" if wanted.since else ""
    return f"{of}{on}{since}{f' until {wanted.until}' if wanted.until else ''}"


def recall(text: str, say: Say = silent) -> Side:
    """Return the newest run of a bundle on a device, or the newest that is not after a date.

    Args:
        text: ``DEVICE:BUNDLE[@DATE]``; see `parse_moment` for the date.
        say: Takes a line for each profile that cannot be read, and one that says what was taken.

    Raises:
        UsageError: If it is of another form.
        MissingFileError: If nothing of the kind was measured.
    """
    parts = _RECALL.fullmatch(text)
    if not parts:
        raise UsageError(text, "is neither a path nor DEVICE:BUNDLE[@DATE]", "give one such as pi4:kws@2026-11-20")
    device, bundle, date = parts.group("device", "bundle", "date")
    until = parse_moment(date, text, datetime.now(timezone.utc), end=True) if date else None
    measured = sides(_measured(Query((device,), (bundle,), until=until), say))
    found = [side for runs in measured.values() for side in runs]
    if not found:
        reason = f"nothing was measured{_words(Wanted((device,), (bundle,), until=date))}"
        raise MissingFileError(text, reason, MEASURE)
    side = max(found, key=lambda side: side.at)
    say(f"{text} is {describe(side)}")
    return side


def describe(side: Side) -> str:
    """Say which run a side is."""
    count = len(side.profiles)
    processes = "one process" if count == 1 else f"{count} processes"
    at = f"{side.at.astimezone():%Y-%m-%d %H:%M}"
    return f"{side.key.bundle} {side.bundle_id[:12]} on {side.key.device}, {side.key.how}, {at}, {processes}"


def enforce(found: Sequence[Row], slowdown: float) -> None:
    """Refuse runs that are surely slower than the ones before them.

    Args:
        found: What was compared.
        slowdown: By how much they may be; 0.05 is 5 %.

    Raises:
        GateError: Naming the first of them.
    """
    slow = [row for row in found if row.change and row.change.exceeds(slowdown)]
    if slow:
        said = [f"{row.side.key.bundle} on {row.side.key.device} takes {_ratio(row)} times as long" for row in slow]
        more = f"; and {len(slow) - NAMED} more" if len(slow) > NAMED else ""
        reason = f"{'; '.join(said[:NAMED])}{more} as in the run before, and {1 + slowdown:.3g} is the limit"
        raise GateError("--max-slowdown", reason, "make it faster, or raise --max-slowdown")


def _ratio(row: Row) -> str:
    return f"{row.change.ratio:.3f}" if row.change else ""
