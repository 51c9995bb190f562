"""How a time and a size are written for people, three or four digits in the unit that fits, and how a size is read."""

from __future__ import annotations

import re

from edgeferry_runtime.errors import UsageError

BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
"""Bytes of each unit of a size."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(\w*)", re.ASCII)


def duration(milliseconds: float) -> str:
    """Write milliseconds with three digits, in the unit that fits."""
    for limit, factor, unit in ((0.9995, 1e3, "us"), (999.5, 1.0, "ms")):
        if milliseconds < limit:
            return f"{milliseconds * factor:.3g} {unit}"
    return f"{milliseconds / 1e3:.4g} s"


def size(count: float | None) -> str:
    """Write bytes in the unit that fits, or that they are unknown."""
    if count is None:
        return "unknown"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def parse_size(text: str, option: str = "size") -> int:
    """Read bytes: a number and its unit, such as ``32MiB``; a bare number is bytes.

    Args:
        text: The number, with one of the units of `BYTES`.
        option: What is being read, for the error.

    Raises:
        UsageError: If it is of another form, or no whole byte.
    """
    found = _SIZE.fullmatch(text)
    factor = BYTES.get(found[2] or "B", 0.0) if found else 0.0
    count = float(found[1]) * factor if found else 0.0
    if not 1 <= count < 2**63:
        fix = f"give a number and one of {', '.join(BYTES)}, such as 32MiB"
        raise UsageError(option, f"{text!r} is no size", fix)
    return int(count)
