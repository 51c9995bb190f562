"""Versions of packages, read without importing them."""

from __future__ import annotations

from importlib.metadata import version


def versions(*distributions: str) -> dict[str, str]:
    """Return the installed version of each distribution."""
    return {name: version(name) for name in distributions}
