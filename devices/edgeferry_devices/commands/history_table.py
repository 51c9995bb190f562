"""What ``ferry compare`` shows of the history: a table, CSV or JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from edgeferry_devices.comparing import Row, Wanted, enforce, rows
from edgeferry_devices.plain import plain
from edgeferry_devices.selecting import select
from edgeferry_runtime.commands.output import emit, say, table
from edgeferry_runtime.quantities import duration, size

HEAD = ("device", "bundle", "delegate", "date", "release", "engine", "median", "95 % interval", "p95", "size")
MORE = ("accuracy", "°C", "change", "marks")
FORMULA = ("=", "+", "-", "@")
"""What a spreadsheet takes for the begin of a formula."""


def show(wanted: Mapping[str, Any], form: str, slowdown: float | None) -> None:
    """Print what was measured, and hold the changes against a limit.

    Args:
        wanted: The attributes of `Wanted`; among the devices may be ``@GROUP`` and ``all``.
        form: ``text``, ``csv`` or ``json``.
        slowdown: How much slower than the run before a run may be; None for any.

    Raises:
        EdgeferryError: What `rows`, `select` and `enforce` raise.
    """
    found = rows(Wanted(**{**wanted, "devices": measured_devices(wanted["devices"])}), say)
    SHOWN[form](found)
    if slowdown is not None:
        enforce(found, slowdown)


def measured_devices(on: Sequence[str]) -> list[str]:
    """Expand groups; a name may be of a device that is in the inventory no more, and ``all`` is whatever was measured.

    Raises:
        EdgeferryError: What `select` raises.
    """
    if "all" in on:
        return []
    named = [device for name in on for device in (select([name]) if name.startswith("@") else [name])]
    return list(dict.fromkeys(named))


def _text(found: Sequence[Row]) -> None:
    click.echo(table([(*HEAD, *MORE), *([plain(cell) for cell in _cells(row)] for row in found)]))
    differs = [plain(f"differs  {_name(row)}: {', '.join(row.differs)}") for row in found if row.differs]
    if differs:
        click.echo("\n".join(["", *differs]))


def _name(row: Row) -> str:
    key = row.side.key
    return f"{key.device}, {key.bundle}, {key.how}, {_date(row)}"


def _cells(row: Row) -> tuple[str, ...]:
    side, (median, (low, high)) = row.side, row.side.median
    engine = side.last.engine
    return (
        *(side.key.device, side.key.bundle, side.key.how, _date(row), side.bundle_id[:8]),
        f"{engine.get('name')} {engine.get('version')}",
        *(duration(median), f"{duration(low)} to {duration(high)}", duration(side.percentile(95))),
        "" if side.size_bytes is None else size(side.size_bytes),
        _accuracy(side.accuracy),
        "" if side.temperature_c is None else f"{side.temperature_c:.1f}",
        _change(row),
        ", ".join(reason.partition(":")[0] for reason in side.reasons),
    )


def _date(row: Row) -> str:
    return f"{row.side.at.astimezone():%Y-%m-%d %H:%M}"


def _accuracy(told: Mapping[str, Any]) -> str:
    value, metric = told.get("artifact"), told.get("metric")
    if not isinstance(value, (int, float)):
        return ""
    return f"{value:.4g} {metric}" if metric == "mse" else f"{value:.4g}% {metric}"


def _change(row: Row) -> str:
    if row.change is None:
        return "first"
    low, high = row.change.ratio_ci95
    verdict = row.change.verdict + (", differs" if row.differs else "")
    return f"{row.change.ratio:.3f}x ({low:.3f} to {high:.3f}) {verdict}"


def _csv(found: Sequence[Row]) -> None:
    dicts = [row.to_dict() for row in found]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dicts[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in dicts)
    click.echo(text.getvalue(), nl=False)


def _cell(value: Any) -> Any:
    """Return a value as a cell; text that a spreadsheet would compute gets an apostrophe in front."""
    if not isinstance(value, (str, list)):
        return value
    text = plain(value if isinstance(value, str) else "; ".join(map(str, value)))
    return f"'{text}" if text.startswith(FORMULA) else text


def _json(found: Sequence[Row]) -> None:
    emit({"measurements": [row.to_dict() for row in found]})


SHOWN: Mapping[str, Callable[[Sequence[Row]], None]] = {"text": _text, "csv": _csv, "json": _json}
