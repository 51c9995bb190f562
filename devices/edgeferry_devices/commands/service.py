"""``ferry service``: what a device serves when nobody is connected to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from edgeferry_devices.commands.asking import terminal
from edgeferry_devices.commands.outcomes import report
from edgeferry_devices.commands.server_options import read_server, server_option
from edgeferry_devices.commands.service_text import say_notes, status_text
from edgeferry_devices.device import Device, Say
from edgeferry_runtime.commands.output import emit, json_option, say

Command = TypeVar("Command", bound=Callable[..., Any])
Told = Mapping[str, Any]


@click.group()
def service() -> None:
    """Have devices serve their bundles, by `ferry serve`, when nobody is connected to them.

    One service for a device: it serves every bundle that is on it, and what is pushed later, without a restart.
    """


def device_argument(command: Command) -> Command:
    """Add the devices that a command is about."""
    return click.argument("device", metavar="DEVICE|@GROUP|all")(command)


@service.command()
@device_argument
@json_option
@click.pass_context
def status(ctx: click.Context, /, device: str, as_json: bool) -> None:
    """Say whether DEVICE serves, where, and who keeps it running."""
    from edgeferry_devices.servicing import service_status as perform

    _report(ctx, device, perform, as_json)


@service.command()
@device_argument
@server_option
@json_option
@click.pass_context
def start(ctx: click.Context, /, device: str, serve_with: str | None, as_json: bool) -> None:
    """Have DEVICE serve from now on; what it lacks for that is installed first.

    Where the account has a systemd, a unit of it is written; else the server runs in the background. One that does not
    become ready is stopped, its last lines are shown, and what was before is there again.
    """
    from edgeferry_devices.servicing import start_service as perform

    server = read_server(serve_with)
    _report(ctx, device, lambda there, tell: perform(there, server, tell), as_json)


@service.command()
@device_argument
@json_option
@click.pass_context
def stop(ctx: click.Context, /, device: str, as_json: bool) -> None:
    """End the service of DEVICE once what is in flight is finished; it stays installed."""
    from edgeferry_devices.servicing import stop_service as perform

    _report(ctx, device, perform, as_json)


@service.command()
@device_argument
@json_option
@click.pass_context
def restart(ctx: click.Context, /, device: str, as_json: bool) -> None:
    """End the service of DEVICE and start it again."""
    from edgeferry_devices.servicing import restart_service as perform

    _report(ctx, device, perform, as_json)


@service.command()
@device_argument
@json_option
@click.pass_context
def remove(ctx: click.Context, /, device: str, as_json: bool) -> None:
    """End the service of DEVICE, and remove all that was made for it; its bundles stay."""
    from edgeferry_devices.servicing import remove_service as perform

    _report(ctx, device, perform, as_json)


@service.command()
@click.argument("device")
@click.option("--lines", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many.")
@json_option
def logs(device: str, lines: int, as_json: bool) -> None:
    """Show the last lines of what the service of DEVICE said."""
    from edgeferry_devices.device import open_device
    from edgeferry_devices.plain import plain
    from edgeferry_devices.servicing import service_log

    with open_device(device, terminal()) as there:
        found = service_log(there, lines, say)
    if as_json:
        emit({"device": device, "lines": found})
        return
    for line in found:
        click.echo(plain(line))
    if not found:
        say(f"{device}: nothing was said, or its account may not read the journal")


@service.command()
@click.argument("device")
def token(device: str) -> None:
    """Show what clients of DEVICE must send: Authorization: Bearer TOKEN."""
    from edgeferry_devices.device import open_device
    from edgeferry_devices.servicing import service_token

    with open_device(device, terminal()) as there:
        click.echo(service_token(there, say))


def _report(ctx: click.Context, name: str, work: Callable[[Device, Say], Told], as_json: bool) -> None:
    from edgeferry_devices.each import each
    from edgeferry_devices.selecting import select

    def perform(there: Device, tell: Say) -> Told:
        return {"device": there.name, **work(there, tell)}

    found = each(select([name]), perform, None, say, terminal())
    for outcome in found:
        say_notes(outcome.device, outcome.value or {})
    report(ctx, name, found, as_json, dict, status_text)
