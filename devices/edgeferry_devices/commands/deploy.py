"""``ferry deploy``: push a bundle to one or more devices, and have them serve it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeferry_devices.commands.asking import terminal
from edgeferry_devices.commands.outcomes import conclude, jobs_option, on_option, performing
from edgeferry_devices.commands.proof_text import proof_lines, proven
from edgeferry_devices.commands.server_options import read_server, server_option
from edgeferry_devices.commands.service_text import say_notes, status_text
from edgeferry_devices.journal import Journal
from edgeferry_devices.outcome import Outcome
from edgeferry_devices.pushing import PushResult
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.commands.delegate_option import delegate_options
from edgeferry_runtime.commands.output import emit, json_option, say, table
from edgeferry_runtime.errors import UsageError

HEAD = ("device", "release", "", "bytes sent", "seconds", "proven by")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("devices", nargs=-1, metavar="DEVICE|@GROUP|all...")
@on_option
@jobs_option
@click.option(
    "--canary",
    type=click.IntRange(min=0),
    is_flag=False,
    flag_value=1,
    default=0,
    metavar="[N]",
    help="Wait for the proof on the first N before the others are touched; 1 where it is given bare.",
)
@delegate_options
@click.option("--service", is_flag=True, help="Have each device serve what is on it from then on; see `ferry service`.")
@server_option
@json_option
@click.pass_context
def deploy(
    ctx: click.Context, /, bundle: Path, devices: tuple[str, ...], names: tuple[str, ...], as_json: bool, **more: Any
) -> None:
    """Push BUNDLE to each DEVICE, as `ferry push` does to one.

    Devices stand behind the bundle or behind --on, one by one, as @GROUP (or @TAG), or as `all` of the inventory. One
    that fails has a line of its own, keeps its old release, and does not stop the others; the exit code is that of the
    first that failed, in the order in which they were named. A run that was cut is picked up by `ferry fleet resume`.

    With --service a device counts only when its server is ready too.
    """
    from edgeferry_devices.deploying import Goal
    from edgeferry_devices.journal import begin
    from edgeferry_devices.pushing import terms
    from edgeferry_devices.runs import Task
    from edgeferry_devices.selecting import select

    chosen = select((*devices, *names))
    if not chosen:
        raise UsageError("ferry deploy", "no device was named", "give devices, @GROUP, or all")
    pace = {"jobs": more.pop("jobs"), "canary": more.pop("canary")}
    server, wanted = read_server(more["serve_with"]), terms(more["delegate"], more["require_full_delegation"])
    goal = Goal(wanted, more["service"] or server is not None, server)
    with begin(Task.of("deploy", [Bundle.open(bundle)], chosen, options=goal.to_dict(), **pace)) as journal:
        show(ctx, journal, as_json)


def show(ctx: click.Context, journal: Journal, as_json: bool) -> None:
    """Perform what is left of a deployment, and print what came of it."""
    from edgeferry_devices.deploying import Goal
    from edgeferry_devices.deploying import deploy as perform

    (bundle,), goal = journal.run.bundles(), journal.run.options(Goal.of)
    with performing(journal):
        done = perform(bundle, journal.run.left, journal.pace, say, terminal(), goal)
    if as_json:
        emit({"deployments": [_json(each) for each in done]})
    elif any(each.value for each in done):
        click.echo(table([HEAD, *(_row(each.device, each.value) for each in done if each.value)]))
    for each in done:
        for line in proof_lines(each.value.proof) if each.value else ():
            say(f"{each.device}: {line}")
        if each.value and each.value.service:
            say(status_text({"device": each.device, **each.value.service}))
            say_notes(each.device, each.value.service)
    conclude(ctx, done)


def _json(each: Outcome[PushResult]) -> dict[str, object]:
    return {"device": each.device, "push": each.value.to_dict() if each.value else None, "error": each.error_dict()}


def _row(device: str, result: PushResult) -> tuple[str, ...]:
    what = "up to date" if result.up_to_date else "proven again" if result.unmet else "pushed"
    figures = (f"{result.bytes_sent:,}", f"{result.seconds:.1f}", proven(result.proof))
    return (device, result.id[:12], what, *figures)
