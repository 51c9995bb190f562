"""The one grammar of a length of time: ``30s``, ``5m``, ``1h``, ``1h30m``; a bare number is seconds."""

from __future__ import annotations

import re

from edgeferry_runtime.errors import UsageError

_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "": 1.0}
_PART = r"\d+(?:\.\d+)?"
_GRAMMAR = re.compile(rf"(?:({_PART})h)?(?:({_PART})m)?(?:({_PART})s)?")


def parse_duration(text: str, option: str = "duration") -> float:
    """Read a length of time.

    Args:
        text: Hours, minutes and seconds in this order, each a number and its letter; or a number of seconds.
        option: What is being read, for the error.

    Returns:
        Seconds.

    Raises:
        UsageError: If it is of another form.
    """
    found = _GRAMMAR.fullmatch(text)
    if re.fullmatch(_PART, text, re.ASCII):
        return float(text)
    if not text or found is None or not text.isascii():
        raise UsageError(option, f"{text!r} is no length of time", "give one such as 30s, 5m or 1h30m")
    return sum(float(part) * _SECONDS[unit] for part, unit in zip(found.groups(), "hms", strict=True) if part)


def format_duration(seconds: float) -> str:
    """Write seconds in the same grammar, to the tenth of a second below a minute and to the second above."""
    if seconds < 59.95:
        return f"{round(seconds, 1):g}s"
    whole = round(seconds)
    parts = ((whole // 3600, "h"), (whole // 60 % 60, "m"), (whole % 60, "s"))
    return "".join(f"{count}{unit}" for count, unit in parts if count)
