"""The one grammar of a moment: ``2026-11-20``, ``2026-11-20T10:30``, or how long ago: ``7d``, ``12h``, ``2w``."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from edgeferry_runtime.errors import UsageError

FORMATS = {
    "%Y-%m-%d": timedelta(days=1),
    "%Y-%m-%dT%H:%M": timedelta(minutes=1),
    "%Y-%m-%dT%H:%M:%S": timedelta(seconds=1),
}
"""How moments are written, and how long each of them lasts."""
UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}

_AGO = re.compile(r"(\d{1,5})([hdw])", re.ASCII)


def parse_moment(text: str, option: str, now: datetime, *, end: bool = False) -> datetime:
    """Read a moment.

    Args:
        text: A date, or a date and a time, local where it has no zone (``Z``, ``+02:00``); or how long ago it was.
        option: What is being read, for the error.
        now: What it is counted back from.
        end: Whether the end of what is written is meant, such as that of the day, and not its begin.

    Returns:
        With a zone.

    Raises:
        UsageError: If it is of another form.
    """
    found = _AGO.fullmatch(text)
    try:
        return now - int(found[1]) * UNITS[found[2]] if found else _read(text, end)
    except (ValueError, OverflowError):
        fix = "give one such as 2026-11-20, 2026-11-20T10:30 or 7d"
        raise UsageError(option, f"{text!r} is no date", fix) from None


def _read(text: str, end: bool) -> datetime:
    """Try each format, without and with a zone.

    Raises:
        ValueError, OverflowError: If none fits.
    """
    for form, lasts in FORMATS.items():
        for zone in ("", "%z"):
            try:
                moment = datetime.strptime(text.replace(" ", "T", 1), form + zone)
            except ValueError:
                continue
            return (moment + lasts if end else moment).astimezone()
    raise ValueError(text)
