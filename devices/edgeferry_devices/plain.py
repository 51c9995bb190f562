"""Text of devices as a terminal may show it."""

from __future__ import annotations


def plain(text: object) -> str:
    """Return what a device tells without what a terminal would obey, such as a move of its cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))
