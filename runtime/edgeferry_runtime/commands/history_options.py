"""The options of ``ferry compare`` that are of the history, which the devices' part keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from edgeferry_runtime.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])

HISTORY = (
    click.option("--on", "devices", multiple=True, metavar="DEVICE|@GROUP|all", help="Of the history: these devices."),
    click.option("--bundle", "bundles", multiple=True, metavar="NAME", help="Of the history: these bundles."),
    click.option("--since", metavar="DATE", help="Of the history: since 2026-11-20, 2026-11-20T10:30 or 7d."),
    click.option("--until", metavar="DATE", help="Of the history: until then."),
    click.option("--all", "every", is_flag=True, help="Of the history: every run, and not the newest alone."),
    click.option("--csv", "as_csv", is_flag=True, help="Print the history as CSV on stdout."),
)
WANTED = ("devices", "bundles", "since", "until", "every")
SHARED = ("a", "b", "max_slowdown", "as_json")


def history_options(command: Command) -> Command:
    """Add what chooses from the history, and ``--csv``."""
    for option in reversed(HISTORY):
        command = option(command)
    return command


def take_history(ctx: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    """Take what chooses from the history out of a command's options.

    Raises:
        UsageError: If an option was given that would count for nothing.
    """
    history = ctx.params["a"] is None
    for param in ctx.command.params:
        name = param.name or ""
        if name in SHARED or ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        if history and name not in (*WANTED, "as_csv"):
            raise UsageError(param.opts[0], "is for comparing A and B, and neither is given", "give both")
        if not history and name in (*WANTED, "as_csv"):
            raise UsageError(param.opts[0], "is of the history, and not of A and B", "leave out one or the other")
    if options["as_csv"] and options["as_json"]:
        raise UsageError("--csv", "does not go together with --json", "leave out one of them")
    return {name: options.pop(name) for name in WANTED}
