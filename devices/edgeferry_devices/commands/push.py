"""``ferry push``: carry a bundle to a device and prove it there."""

from __future__ import annotations

from pathlib import Path

import click

from edgeferry_devices.commands.asking import terminal
from edgeferry_devices.pushing import PushResult
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.commands.figures_text import figures_table
from edgeferry_runtime.commands.output import emit, json_option, say


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("device")
@json_option
def push(bundle: Path, device: str, as_json: bool) -> None:
    """Carry BUNDLE to DEVICE, and run its probe there before it counts.

    Files go by content: what the device has is not sent again. Until the probe has passed, the release that
    was there stays the current one.
    """
    from edgeferry_devices.device import open_device
    from edgeferry_devices.pushing import push as perform

    opened = Bundle.open(bundle)
    with open_device(device, terminal()) as there:
        result = perform(opened, there, say)
    if as_json:
        emit(result.to_dict())
    else:
        click.echo(_text(result))


def _text(result: PushResult) -> str:
    if result.up_to_date:
        return f"{result.bundle} {result.id[:12]} on {result.device}: up to date"
    sent = f"{result.bytes_sent:,} bytes in {result.seconds:.1f} s"
    engine = f"{result.engine.get('name', '')} {result.engine.get('version', '')}"
    head = f"{result.bundle} {result.id[:12]} on {result.device}: pushed, {sent}; proven by {engine}"
    return f"{head}\n{figures_table(result.figures)}"
