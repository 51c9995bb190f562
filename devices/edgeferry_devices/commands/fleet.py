"""``ferry fleet``: what was begun on several devices, and how to go on with what was cut."""

from __future__ import annotations

import click

from edgeferry_runtime.commands.output import emit, json_option, say, table


@click.group()
def fleet() -> None:
    """List and pick up what was begun on several devices: `ferry deploy` and `ferry profile`."""


@fleet.command()
@json_option
def runs(as_json: bool) -> None:
    """List the runs of this account, the last one last; the newest 50 are kept."""
    from edgeferry_devices.runs import Run
    from edgeferry_devices.runs import runs as look

    def row(run: Run) -> tuple[str, ...]:
        bundles = ", ".join(f"{bundle.name} {bundle.id[:12]}" for bundle in run.task.bundles)
        done = f"{len(run.task.devices) - len(run.left)} of {len(run.task.devices)}"
        return run.task.command, run.id[:12], run.at, bundles, done, run.state

    found = look(say)
    if as_json:
        emit({"runs": [run.to_dict() for run in found]})
    elif found:
        click.echo(table([("command", "run", "begun", "bundles", "succeeded", "state"), *map(row, found)]))
    else:
        click.echo("there are no runs")


@fleet.command()
@click.argument("run", required=False)
@json_option
@click.pass_context
def resume(ctx: click.Context, /, run: str | None, as_json: bool) -> None:
    """Go on with RUN, or with the last run that is not complete: only where it has not succeeded yet.

    The bundle has to be the same one, and options are those of the first time. A canary that has not passed comes first
    again.
    """
    from edgeferry_devices.commands import deploy, profile
    from edgeferry_devices.journal import pick_up

    with pick_up(run) as journal:
        task, left = journal.run.task, journal.run.left
        say(f"run {journal.run.id[:12]}: ferry {task.command} on {len(left)} of {len(task.devices)} devices")
        (deploy.show if task.command == "deploy" else profile.show)(ctx, journal, as_json)
