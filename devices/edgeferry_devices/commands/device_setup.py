"""``ferry device setup`` and ``remove``: make a device ready, and leave it as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgeferry_devices import inventory
from edgeferry_devices.commands.asking import terminal
from edgeferry_devices.inventory import LOCAL
from edgeferry_runtime.commands.output import emit, json_option, say, table
from edgeferry_runtime.errors import DeviceError, DeviceRequirementError

if TYPE_CHECKING:
    from edgeferry_devices.purging import Purged
    from edgeferry_devices.setting_up import Setup


@click.command()
@click.argument("name")
@click.option("--format", "formats", multiple=True, metavar="FORMAT", help="tflite or onnx; repeatable. Default: all.")
@click.option("--serve", is_flag=True, help="Install the server too, for `ferry deploy --service`.")
@click.option("--offline", is_flag=True, help="Use no network here either: only wheels that are in the cache.")
@json_option
def setup(name: str, formats: tuple[str, ...], serve: bool, offline: bool, as_json: bool) -> None:
    """Make a device ready: look at it, install what it lacks, and try each engine there.

    Wheels are downloaded here and checked; the device needs no network, and its own Python is not touched. What is
    there already is only tried again. `ferry device remove --purge` undoes it.
    """
    from edgeferry_devices.device import open_device
    from edgeferry_devices.setting_up import set_up

    with open_device(name, terminal()) as there:
        done = set_up(there, formats, offline, say, serve)
    if as_json:
        emit(done.to_dict())
    else:
        click.echo(_text(done))
    _say_fixes(done)
    if done.failed:
        broken = done.failed[0]
        raise DeviceRequirementError(
            name, f"the engine for {broken.format} does not work ({broken.reason})", broken.fix
        )


def _text(done: Setup) -> str:
    where = f" inside {done.inside}" if done.inside else ""
    rows = [(found.format, found.verdict, found.engine or found.reason) for found in done.formats]
    sent = f"installed, {done.bytes_sent / 1e6:.1f} MB in {done.seconds:.1f} s"
    return "\n".join(
        [
            f"{done.device}: Python {done.python} on {done.machine}{where}, in {done.root}",
            table([("format", "", "engine"), *rows]),
            *(["the server is installed"] if done.serves else []),
            "up to date" if done.up_to_date else sent,
        ]
    )


def _say_fixes(done: Setup) -> None:
    for found in done.formats:
        if found.verdict == "unavailable":
            say(f"{done.device}: {found.reason}; {found.fix}")


@click.command()
@click.argument("name")
@click.option("--purge", is_flag=True, help="Remove our folder there too, with everything that was pushed.")
def remove(name: str, purge: bool) -> None:
    """Forget a device. Nothing on the device itself changes, unless you say --purge."""
    if purge:
        click.echo(_purged_text(_purge(name)))
        if name == LOCAL or name not in inventory.read():
            return
    entry = inventory.remove(name)
    left = "" if purge else f"; its folder {entry.folder} is still there"
    click.echo(f"removed {name} ({entry.address}){left}")


def _purge(name: str) -> Purged:
    from edgeferry_devices.device import open_device
    from edgeferry_devices.purging import purge

    try:
        with open_device(name, terminal()) as there:
            return purge(there)
    except DeviceError:
        say(f"{name}: its folder was not removed, and the device stays in the inventory")
        raise


def _purged_text(done: Purged) -> str:
    if not done.removed:
        return f"{done.device}: {done.root} was not there"
    return f"{done.device}: removed {done.root}, {done.files} files, {done.bytes / 1e6:.1f} MB"
