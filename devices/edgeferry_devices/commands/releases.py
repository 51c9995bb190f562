"""``ferry releases``, ``ferry rollback`` and ``ferry gc``: what a device keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from edgeferry_devices.commands.asking import terminal
from edgeferry_devices.commands.outcomes import report
from edgeferry_devices.commands.proof_text import proof_lines, proven
from edgeferry_runtime.commands.figures_text import figures_table
from edgeferry_runtime.commands.output import emit, json_option, say, table

if TYPE_CHECKING:
    from edgeferry_devices.device import Device, Say
    from edgeferry_devices.keeping import Release

HEAD = ("bundle", "release", "state", "bytes", "proven by", "why it failed")


@click.command()
@click.argument("device", metavar="DEVICE|@GROUP|all")
@click.argument("name", required=False)
@json_option
@click.pass_context
def releases(ctx: click.Context, /, device: str, name: str | None, as_json: bool) -> None:
    """List the releases on DEVICE, of all bundles or of NAME alone, and what each was proven with.

    The current one answers; `ferry rollback` goes to the previous one; the one that failed last is kept with the reason
    until the next push.
    """
    from edgeferry_devices.each import each
    from edgeferry_devices.keeping import releases as look
    from edgeferry_devices.selecting import select

    found = each(select([device]), lambda there, tell: (there.name, look(there, name, tell)), None, say, terminal())
    report(ctx, device, found, as_json, _releases_dict, _releases_text)


def _releases_dict(told: tuple[str, list[Release]]) -> dict[str, object]:
    device, found = told
    return {"device": device, "releases": [release.to_dict() for release in found]}


def _releases_text(told: tuple[str, list[Release]]) -> str:
    device, found = told
    rows = [(r.name, r.id[:12], r.state, f"{r.bytes:,}", _proven(r), r.report.get("reason", "")) for r in found]
    return table([HEAD, *rows]) if rows else f"{device} has no releases"


def _proven(release: Release) -> str:
    return f"{proven(release.proof)}, {release.proof['at'][:10]}" if release.proof else ""


@click.command()
@click.argument("name")
@click.argument("device")
@json_option
def rollback(name: str, device: str, as_json: bool) -> None:
    """Make the release of NAME before the current one the current one of DEVICE again.

    Its probe has to pass on the device first, on the delegate that it passed on before; else nothing is changed. A
    second rollback goes back again.
    """
    from edgeferry_devices.device import open_device
    from edgeferry_devices.keeping import rollback as perform

    with open_device(device, terminal()) as there:
        done = perform(name, there, say)
    if as_json:
        emit({"device": device, "bundle": name, **done})
        return
    click.echo(f"{name} on {device}: from {done['from'][:12]} back to {done['id'][:12]}; proven by {proven(done)}")
    click.echo("\n".join((*proof_lines(done), figures_table(done["figures"]))))


@click.command()
@click.argument("device", metavar="DEVICE|@GROUP|all")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
@click.pass_context
def gc(ctx: click.Context, /, device: str, dry_run: bool, as_json: bool) -> None:
    """Remove what nobody needs from DEVICE: never a current release, nor the one before it.

    What goes: older releases, the one that failed last, uploads that were cut off, and contents that no release uses.
    """
    from edgeferry_devices.each import each
    from edgeferry_devices.keeping import gc as perform
    from edgeferry_devices.selecting import select

    def work(there: Device, tell: Say) -> dict[str, Any]:
        return {"device": there.name, **perform(there, dry_run, tell)}

    report(ctx, device, each(select([device]), work, None, say, terminal()), as_json, dict, _gc_text)


def _gc_text(done: Mapping[str, Any]) -> str:
    device = done["device"]
    rows = [(r["kind"], r["path"], f"{r['bytes']:,}") for r in done["removed"]]
    if not rows:
        return f"{device}: there is nothing to remove"
    freed = "nothing was removed" if done["dry_run"] else f"{done['freed_bytes']:,} more bytes are free"
    return f"{table([('kind', 'path', 'bytes'), *rows])}\n{device}: {freed}"
