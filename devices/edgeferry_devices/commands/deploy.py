"""``ferry deploy``: push a bundle to one or more devices."""

from __future__ import annotations

from pathlib import Path

import click

from edgeferry_devices.commands.asking import terminal
from edgeferry_devices.deploying import Deployment
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.commands.output import emit, json_option, say, table

HEAD = ("device", "release", "", "bytes sent", "seconds", "proven by")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("devices", nargs=-1, required=True, metavar="DEVICE...")
@json_option
@click.pass_context
def deploy(ctx: click.Context, /, bundle: Path, devices: tuple[str, ...], as_json: bool) -> None:
    """Push BUNDLE to each DEVICE, as `ferry push` does to one.

    A device that fails has a line of its own, keeps its old release, and does not stop the others; the exit code is the
    first failure's.
    """
    from edgeferry_devices.deploying import deploy as perform

    done = perform(Bundle.open(bundle), devices, say, terminal())
    if as_json:
        emit({"deployments": [_json(each) for each in done]})
    elif any(each.result for each in done):
        click.echo(table([HEAD, *(_row(each) for each in done if each.result)]))
    for each in done:
        if each.error:
            say(f"ferry: error: {' '.join(str(each.error).split())}")
    ctx.exit(next((each.error.exit_code for each in done if each.error), 0))


def _json(each: Deployment) -> dict[str, object]:
    error = each.error
    told = {"reason": error.reason, "fix": error.fix, "exit_code": error.exit_code} if error else None
    return {"device": each.device, "push": each.result.to_dict() if each.result else None, "error": told}


def _row(each: Deployment) -> tuple[str, ...]:
    result = each.result
    assert result is not None
    what = "up to date" if result.up_to_date else "pushed"
    engine = f"{result.engine.get('name', '')} {result.engine.get('version', '')}".strip()
    return (each.device, result.id[:12], what, f"{result.bytes_sent:,}", f"{result.seconds:.1f}", engine)
