"""What commands on several devices share: which devices, how many at once, and how it all ended."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import click

from edgeferry_devices.each import JOBS
from edgeferry_devices.inventory import ALL
from edgeferry_devices.journal import Journal
from edgeferry_devices.outcome import Outcome, exit_code, summary
from edgeferry_runtime.commands.output import emit, say
from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.undo import undo_on_error

Command = TypeVar("Command", bound=Callable[..., Any])
T = TypeVar("T")


def on_option(command: Command) -> Command:
    """Add ``--on`` (parameter ``names``, to be given to `selecting.select`) to a command."""
    text = "A device, every one of a group or tag, or all of the inventory; repeatable."
    return click.option("--on", "names", multiple=True, metavar="DEVICE|@GROUP|all", help=text)(command)


def jobs_option(command: Command) -> Command:
    """Add ``--jobs`` to a command."""
    kind, text = click.IntRange(min=1), "Devices at once."
    return click.option("--jobs", type=kind, default=JOBS, show_default=True, metavar="N", help=text)(command)


@contextlib.contextmanager
def performing(journal: Journal) -> Iterator[None]:
    """Say how to pick up a run that is cut, and take note of one that came to its end."""
    hint = f"pick it up with: ferry fleet resume {journal.run.id[:12]}"
    with undo_on_error(lambda: say(hint) if journal.kept else None):
        yield
    journal.finish()


def conclude(
    ctx: click.Context, outcomes: Sequence[Outcome[Any]], errors: Sequence[EdgeferryError] | None = None
) -> None:
    """Say on stderr what failed and, of several devices, how many did not; then exit with the first failure's code.

    A device's failure comes before any other.

    Args:
        ctx: The command.
        outcomes: What came of each device.
        errors: All that failed, where that is more than one error for each device: a gate, for one.
    """
    found = [o.error for o in outcomes if o.failed and o.error] if errors is None else errors
    for error in found:
        say(f"ferry: error: {' '.join(str(error).split())}")
    if len(outcomes) > 1:
        say(summary(outcomes))
    ctx.exit(exit_code(outcomes) or next((error.exit_code for error in found), 0))


def report(
    ctx: click.Context,
    name: str,
    outcomes: Sequence[Outcome[T]],
    as_json: bool,
    to_dict: Callable[[T], Mapping[str, Any]],
    text: Callable[[T], str],
) -> None:
    """Print what one device told, or each of several, and end as the command should.

    Args:
        ctx: The command.
        name: What the user named; a group's JSON is a list, however many devices it has.
        outcomes: What came of each device; one may have a value and still an error, that of a gate.
        as_json: Whether to print JSON.
        to_dict: The JSON form of a value.
        text: Its form for people.
    """
    if not name.startswith("@") and name != ALL:
        (outcome,) = outcomes
        value = outcome.value if outcome.value is not None else outcome.result()
        emit(to_dict(value)) if as_json else click.echo(text(value))
        if outcome.error:
            raise outcome.error
        return
    if as_json:
        told = [(o, {} if o.value is None else to_dict(o.value)) for o in outcomes]
        emit({"devices": [{"device": o.device, **data, "error": o.error_dict()} for o, data in told]})
    elif done := [f"{o.device}:\n{text(o.value)}" for o in outcomes if o.value is not None]:
        click.echo("\n\n".join(done))
    conclude(ctx, outcomes)
