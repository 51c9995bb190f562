"""``ferry report``: a page of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeferry_runtime.commands.output import emit, json_option, say
from edgeferry_runtime.quantities import size

if TYPE_CHECKING:
    from edgeferry_devices.comparing import Row


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FILE", help="Where to write.")
@click.option("--on", multiple=True, metavar="DEVICE|@group|all", help="Only what was measured there; repeatable.")
@click.option("--bundle", multiple=True, metavar="NAME", help="Only this bundle, by name or id; repeatable.")
@click.option("--since", metavar="DATE", help="Only what is not older: 2026-11-20, 2026-11-20T10:30 or 7d.")
@click.option("--until", metavar="DATE", help="Only what is not newer.")
@click.option("--title", default="Latency report", show_default=True, help="Of the page.")
@click.option("--force", is_flag=True, help="Replace FILE even where it is no report.")
@json_option
def report(output: Path, title: str, force: bool, as_json: bool, **asked: Any) -> None:
    """Make one page of HTML from what ferry profile has measured: figures, distributions and what changed.

    The page asks the network for nothing and runs no script. It replaces an earlier report, and nothing else.
    """
    from edgeferry_devices.commands.history_table import measured_devices
    from edgeferry_devices.comparing import Wanted, rows
    from edgeferry_devices.report import render_report, save

    found = rows(Wanted(measured_devices(asked["on"]), asked["bundle"], asked["since"], asked["until"]), say)
    page = render_report(found, title)
    save(page, output, force=force)
    told = _told(output, found, page)
    if as_json:
        emit(told)
    else:
        click.echo(_sentence(told))


def _told(output: Path, rows: Sequence[Row], page: str) -> dict[str, Any]:
    return {
        "report": str(output),
        "bytes": len(page.encode()),
        "measurements": len(rows),
        "devices": sorted({row.side.key.device for row in rows}),
        "bundles": sorted({row.side.key.bundle for row in rows}),
    }


def _sentence(told: Mapping[str, Any]) -> str:
    counts = {"measurement": told["measurements"], "bundle": len(told["bundles"]), "device": len(told["devices"])}
    words = [f"{count} {noun}{'' if count == 1 else 's'}" for noun, count in counts.items()]
    return f"{told['report']}: {words[0]} of {words[1]} on {words[2]}, {size(told['bytes'])}"
