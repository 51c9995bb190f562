"""What every command shares in speaking: results on stdout, progress on stderr, ``--json`` with a schema version."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from edgeferry_runtime.errors import MissingFileError, OutputExistsError

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """Add ``--json`` (parameter ``as_json``) to a command that reports."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")(command)


def say(message: str) -> None:
    """Show progress on stderr."""
    click.echo(message, err=True)


def emit(data: Mapping[str, Any], schema: int = 1) -> None:
    """Print a result as JSON with its schema version first."""
    click.echo(json.dumps({"schema": schema, **data}, indent=2, ensure_ascii=False))


def check_file(path: Path, option: str) -> None:
    """Refuse a file that cannot be written, before there is anything to write.

    Raises:
        OutputExistsError: If it is a folder.
        MissingFileError: If its folder does not exist.
    """
    if path.is_dir():
        raise OutputExistsError(f"{option} {path}", "is a folder", "give a file")
    if not path.absolute().parent.is_dir():
        raise MissingFileError(path.parent, "no such folder", f"create it, or give another {option}")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align rows of text, the first being the heading; columns that hold numbers are flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = [all(_is_number(row[i]) for row in rows[1:]) for i in range(len(rows[0]))]
    lines = (
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:1] in "-+" or text in ("", "inf", "nan")
