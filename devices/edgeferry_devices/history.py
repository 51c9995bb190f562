"""What was measured on each device: one file for each profile, kept for ever.

They lie in ``$XDG_STATE_HOME/edgeferry/profiles/DEVICE/``. The name of a file tells when it was made, the bundle's id
and the bundle's name, so that a query opens no file but those that it asks for. Names are written in letters that every
file system takes, a long one cut off; what counts is what the file itself says.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import secrets
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote

from edgeferry_devices.device import Say, silent
from edgeferry_devices.places import state_dir
from edgeferry_runtime.profile import Profile
from edgeferry_runtime.whole import write_private

SCHEMA = 1
LONGEST = 96
"""Letters of a name that are kept in a file's name."""
ID_LETTERS = 16
"""Letters of a bundle's id that are kept in a file's name."""
TIME = "%Y%m%dT%H%M%S.%fZ"

_FILE = re.compile(r"(?P<time>\d{8}T\d{6}\.\d{6}Z)_(?P<id>[0-9a-f]{16})_(?P<name>.+)_[0-9a-f]{8}\.json\.gz")
_ID = re.compile(r"[0-9a-f]{8,64}")
_DAMAGE = (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Query:
    """What to look for; what is left empty is not asked for.

    Attributes:
        devices: Names of devices.
        bundles: Names of bundles, or the beginnings of their ids, of eight letters at least.
        since: The time at which it may have been measured at the earliest; local time where it has no zone.
        until: The time before which it must have been measured.
    """

    devices: tuple[str, ...] = ()
    bundles: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Measurement:
    """A profile, and where it belongs.

    Attributes:
        device: The device's name.
        bundle: The bundle's name.
        bundle_id: Its id.
        run: What was measured by one command has the same; several of one bundle, device and delegate in one run are
            processes of one side for `edgeferry_runtime.benchmark.compare_profiles`.
        at: When it was kept, by the clock of this machine: a board's own may be years off.
        profile: What was measured.
        path: Its file.
    """

    device: str
    bundle: str
    bundle_id: str
    run: str
    at: datetime
    profile: Profile
    path: Path


def folder() -> Path:
    """Return where profiles are kept."""
    return state_dir() / "profiles"


def new_run() -> str:
    """Return a name for a run that no other one has."""
    return secrets.token_hex(8)


def record(profile: Profile, run: str, at: datetime | None = None) -> Path:
    """Keep a profile; the file is there whole or not at all, and for this account alone.

    Args:
        profile: What was measured.
        run: See `Measurement`.
        at: When it was measured; now, where nothing is given.

    Returns:
        The file.

    Raises:
        OSError: If it cannot be written.
    """
    at = _utc(at) if at else datetime.now(timezone.utc)
    words = (at.strftime(TIME), _id(profile)[:ID_LETTERS], file_name(profile.artifact["name"]), secrets.token_hex(4))
    path = folder() / file_name(profile.device) / f"{'_'.join(words)}.json.gz"
    folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    text = json.dumps({"schema": SCHEMA, "run": run, "profile": profile.to_dict()})
    write_private(path, gzip.compress(text.encode(), mtime=0))
    return path


def read(query: Query = Query(), say: Say = silent) -> list[Measurement]:
    """Return what was measured, the oldest first.

    Args:
        query: What to look for.
        say: Takes a line for each file that is damaged; it is left out.
    """
    found = [_open(path, at, say) for path, at in sorted(_candidates(query), key=lambda candidate: candidate[1])]
    return [measurement for measurement in found if measurement and _answers(measurement, query)]


def file_name(name: str) -> str:
    """Return a name as it stands in a file's name: never empty, hidden, an option, or a way out of the folder."""
    text = quote(name, safe="@+=,", errors="surrogatepass").replace("_", "%5F")
    if not text or text[0] in ".-~":
        text = f"%{ord(text[0]):02X}{text[1:]}" if text else "%"
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}~{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return text


def _candidates(query: Query) -> Iterator[tuple[Path, datetime]]:
    """Return the files whose names answer a query, and when they were made."""
    wanted = {file_name(name) for name in query.devices}
    folders = [folder() / name for name in wanted] if wanted else list(_entries(folder()))
    for path in (path for place in folders for path in _entries(place)):
        named = _FILE.fullmatch(path.name)
        if (
            named
            and (at := _time(named["time"]))
            and _in_time(at, query)
            and _of_bundle(named["name"], named["id"], query)
        ):
            yield path, at


def _entries(place: Path) -> list[Path]:
    return list(place.iterdir()) if place.is_dir() else []


def _time(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, TIME).replace(tzinfo=timezone.utc)
    except ValueError:
        return None


def _utc(time: datetime) -> datetime:
    return time.astimezone(timezone.utc)


def _in_time(at: datetime, query: Query) -> bool:
    early = query.since is not None and at < _utc(query.since)
    late = query.until is not None and at >= _utc(query.until)
    return not early and not late


def _of_bundle(named: str, bundle_id: str, query: Query) -> bool:
    """Tell whether a file's name answers a query for bundles, as far as it tells."""
    ids = [name[:ID_LETTERS] for name in query.bundles if _ID.fullmatch(name)]
    return not query.bundles or named in map(file_name, query.bundles) or bundle_id.startswith(tuple(ids))


def _answers(found: Measurement, query: Query) -> bool:
    """Tell the same for certain: of names that were cut off, and of file systems to which a and A are one."""
    ids = tuple(name for name in query.bundles if _ID.fullmatch(name))
    of_bundle = not query.bundles or found.bundle in query.bundles or found.bundle_id.startswith(ids)
    return of_bundle and (not query.devices or found.device in query.devices)


def _open(path: Path, at: datetime, say: Say) -> Measurement | None:
    try:
        data = json.loads(gzip.decompress(path.read_bytes()))
        profile = Profile.from_dict(data["profile"])
        name, run = str(profile.artifact["name"]), str(data["run"])
        return Measurement(profile.device, name, _id(profile), run, at, profile, path)
    except _DAMAGE as error:
        say(f"{path}: cannot be read ({error}); it is left out")
        return None


def _id(profile: Profile) -> str:
    """Return the bundle's id, or of what was none the hash of its file."""
    return str(profile.artifact["bundle"] or profile.artifact["sha256"])
