"""``ferry doctor``: what will not work on a device, and what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from edgeferry_devices.commands.asking import terminal
from edgeferry_devices.commands.outcomes import report
from edgeferry_devices.inventory import LOCAL
from edgeferry_devices.outcome import Outcome
from edgeferry_runtime.commands.output import json_option, say
from edgeferry_runtime.errors import GateError

if TYPE_CHECKING:
    from edgeferry_devices.doctor import Diagnosis


@click.command()
@click.argument("device", default=LOCAL, metavar="[DEVICE|@GROUP|all]")
@json_option
@click.pass_context
def doctor(ctx: click.Context, /, device: str, as_json: bool) -> None:
    """Say what will not work on DEVICE, and what to do about it, before anything is pushed.

    Nothing is installed or written there. The exit code is 3 where something will not work; warnings do not count.
    """
    from edgeferry_devices.commands.facts_text import diagnosis_text
    from edgeferry_devices.doctor import examine
    from edgeferry_devices.each import each
    from edgeferry_devices.facts import gather
    from edgeferry_devices.selecting import select

    found = each(select([device]), lambda there, _: examine(gather(there)), None, say, terminal())
    report(ctx, device, [_judged(outcome) for outcome in found], as_json, lambda d: d.to_dict(), diagnosis_text)


def _judged(outcome: Outcome[Diagnosis]) -> Outcome[Diagnosis]:
    if outcome.value is None or not outcome.value.failures:
        return outcome
    names = ", ".join(dict.fromkeys(finding.check for finding in outcome.value.failures))
    error = GateError(outcome.device, f"{names} will not do", "do what is written above, then ask again")
    return replace(outcome, error=error)
