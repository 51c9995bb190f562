"""Keeping a report: whole or not at all, and never in the place of something else."""

from __future__ import annotations

from pathlib import Path

from edgeferry_runtime.errors import OutputExistsError
from edgeferry_runtime.whole import write_private

MARKER = '<meta name="generator" content="edgeferry report">'
HEAD = 1024
"""Bytes in which the marker stands."""


def save(page: str, path: Path, *, force: bool = False) -> None:
    """Write a report, for this account alone, in the place of an earlier one.

    Args:
        page: What `render_report` returned.
        path: Where to; its folder is made.
        force: Replace a file even where it is no report.

    Raises:
        OutputExistsError: If what is there is no report.
        OSError: If it cannot be written.
    """
    if path.exists() and not (is_report(path) or (force and path.is_file())):
        reason = "is there, and is no report that ferry made"
        raise OutputExistsError(path, reason, "name another file, or replace this one with --force")
    write_private(path, page)


def is_report(path: Path) -> bool:
    """Tell whether a file is a report, by the marker in its head."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return MARKER.encode() in file.read(HEAD)
