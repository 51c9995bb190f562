"""``ferry push``: carry a bundle to a device and prove it there."""

from __future__ import annotations

from pathlib import Path

import click

from edgeferry_devices.commands.asking import terminal
from edgeferry_devices.commands.proof_text import proof_lines, proven
from edgeferry_devices.pushing import PushResult
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.commands.delegate_option import delegate_options
from edgeferry_runtime.commands.figures_text import figures_table
from edgeferry_runtime.commands.output import emit, json_option, say


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("device")
@delegate_options
@json_option
def push(bundle: Path, device: str, delegate: str | None, require_full_delegation: bool, as_json: bool) -> None:
    """Carry BUNDLE to DEVICE, and run its probe there before it counts.

    Files go by content: what the device has is not sent again. Until the probe has passed, the release that
    was there stays the current one. What is there, but was proven elsewhere or by another engine, is proven again;
    without --delegate where it was proven before.
    """
    from edgeferry_devices.device import open_device
    from edgeferry_devices.pushing import push as perform
    from edgeferry_devices.pushing import terms

    wanted = terms(delegate, require_full_delegation)
    opened = Bundle.open(bundle)
    with open_device(device, terminal()) as there:
        result = perform(opened, there, say, wanted)
    if as_json:
        emit(result.to_dict())
    else:
        click.echo(_text(result))


def _text(result: PushResult) -> str:
    by = f"; proven by {proven(result.proof)}" if result.proof else ""
    head = f"{result.bundle} {result.id[:12]} on {result.device}: {_done(result)}{by}"
    figures = [figures_table(result.figures)] if result.figures else []
    return "\n".join((head, *proof_lines(result.proof), *figures))


def _done(result: PushResult) -> str:
    if result.up_to_date:
        return "up to date"
    if result.unmet:
        return f"proven again, since {result.unmet}"
    return f"pushed, {result.bytes_sent:,} bytes in {result.seconds:.1f} s"
