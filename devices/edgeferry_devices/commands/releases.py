"""``ferry releases``, ``ferry rollback`` and ``ferry gc``: what a device keeps."""

from __future__ import annotations

import click

from edgeferry_devices.commands.asking import terminal
from edgeferry_runtime.commands.figures_text import figures_table
from edgeferry_runtime.commands.output import emit, json_option, say, table


@click.command()
@click.argument("device")
@click.argument("name", required=False)
@json_option
def releases(device: str, name: str | None, as_json: bool) -> None:
    """List the releases on DEVICE, of all bundles or of NAME alone.

    The current one answers; `ferry rollback` goes to the previous one; the one that failed last is kept with the reason
    until the next push.
    """
    from edgeferry_devices.device import open_device
    from edgeferry_devices.keeping import releases as look

    with open_device(device, terminal()) as there:
        found = look(there, name, say)
    if as_json:
        emit({"device": device, "releases": [release.to_dict() for release in found]})
    elif found:
        rows = [(r.name, r.id[:12], r.state, f"{r.bytes:,}", r.report.get("reason", "")) for r in found]
        click.echo(table([("bundle", "release", "state", "bytes", "why it failed"), *rows]))
    else:
        click.echo(f"{device} has no releases")


@click.command()
@click.argument("name")
@click.argument("device")
@json_option
def rollback(name: str, device: str, as_json: bool) -> None:
    """Make the release of NAME before the current one the current one of DEVICE again.

    Its probe has to pass on the device first; else nothing is changed. A second rollback goes back again.
    """
    from edgeferry_devices.device import open_device
    from edgeferry_devices.keeping import rollback as perform

    with open_device(device, terminal()) as there:
        done = perform(name, there, say)
    if as_json:
        emit({"device": device, "bundle": name, **done})
        return
    engine = f"{done['engine'].get('name', '')} {done['engine'].get('version', '')}"
    click.echo(f"{name} on {device}: from {done['from'][:12]} back to {done['id'][:12]}; proven by {engine}")
    click.echo(figures_table(done["figures"]))


@click.command()
@click.argument("device")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
def gc(device: str, dry_run: bool, as_json: bool) -> None:
    """Remove what nobody needs from DEVICE: never a current release, nor the one before it.

    What goes: older releases, the one that failed last, uploads that were cut off, and contents that no release uses.
    """
    from edgeferry_devices.device import open_device
    from edgeferry_devices.keeping import gc as perform

    with open_device(device, terminal()) as there:
        done = perform(there, dry_run, say)
    if as_json:
        emit({"device": device, **done})
        return
    rows = [(r["kind"], r["path"], f"{r['bytes']:,}") for r in done["removed"]]
    if not rows:
        click.echo(f"{device}: there is nothing to remove")
        return
    click.echo(table([("kind", "path", "bytes"), *rows]))
    click.echo(f"{device}: " + ("nothing was removed" if dry_run else f"{done['freed_bytes']:,} more bytes are free"))
