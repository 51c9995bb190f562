"""Versions of packages, read without importing them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def versions(*distributions: str) -> dict[str, str]:
    """Return the version of each distribution; ``unknown`` where its module came under another name."""
    return {name: _version(name) for name in distributions}


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
