"""``ferry doctor``: what will not work on a device, and what to do."""

from __future__ import annotations

import click

from edgeferry_devices.commands.asking import terminal
from edgeferry_devices.inventory import LOCAL
from edgeferry_runtime.commands.output import emit, json_option
from edgeferry_runtime.errors import GateError


@click.command()
@click.argument("device", default=LOCAL)
@json_option
def doctor(device: str, as_json: bool) -> None:
    """Say what will not work on DEVICE, and what to do about it, before anything is pushed.

    Nothing is installed or written there. The exit code is 3 where something will not work; warnings do not count.
    """
    from edgeferry_devices.commands.facts_text import diagnosis_text
    from edgeferry_devices.device import open_device
    from edgeferry_devices.doctor import examine
    from edgeferry_devices.facts import gather

    with open_device(device, terminal()) as there:
        diagnosis = examine(gather(there))
    if as_json:
        emit(diagnosis.to_dict())
    else:
        click.echo(diagnosis_text(diagnosis))
    if diagnosis.failures:
        names = ", ".join(dict.fromkeys(finding.check for finding in diagnosis.failures))
        raise GateError(device, f"{names} will not do", "do what is written above, then ask again")
