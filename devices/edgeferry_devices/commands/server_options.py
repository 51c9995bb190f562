"""The options of ``ferry serve`` that a device is to keep: read by the very command that will take them."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from edgeferry_runtime.cli import ferry
from edgeferry_runtime.commands.serve import serve
from edgeferry_runtime.device_service.config import LONGEST_DRAIN_S, Server
from edgeferry_runtime.errors import UnknownNameError, UsageError

Command = TypeVar("Command", bound=Callable[..., Any])
OPTION = "--serve-with"


def server_option(command: Command) -> Command:
    """Add ``--serve-with`` (parameter ``serve_with``) to a command."""
    text = "Options of `ferry serve`, such as '--host 0.0.0.0 --port 9000'; they are kept, and \"\" forgets them."
    return click.option(OPTION, metavar="OPTIONS", help=text)(command)


def read_server(text: str | None) -> Server | None:
    """Read ``--serve-with``; None where it was not given.

    Raises:
        UsageError: If the server knows no such option, or it cannot be kept.
        UnknownNameError: If the server knows no such option.
    """
    if text is None:
        return None
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(OPTION, f"cannot be split into words ({error})", "close every quote") from error
    told = _parse(words)
    if told["bundles"] or told["repository"]:
        raise UsageError(OPTION, "names what to serve", "leave that out: a service serves all that is on the device")
    if not told["port"]:
        raise UsageError(f"{OPTION} --port 0", "is no port that clients can be told", "give one from 1 to 65535")
    if told["drain"] > LONGEST_DRAIN_S:
        raise UsageError(f"{OPTION} --drain", "is longer than anybody waits for its end", "give an hour at most")
    encrypted, token = told["tls_cert"] is not None, told["token_file"] or ""
    return Server(tuple(words), told["host"], told["port"], encrypted, token, told["drain"])


def _parse(words: Sequence[str]) -> dict[str, Any]:
    """Return what the options say; no file is looked at, since those that they name are a device's.

    Raises:
        UsageError: If a value cannot be taken, is empty, or help was asked for.
        UnknownNameError: If the server knows no such option.
    """
    for word in words:
        if not word.strip() or (word.startswith("-") and word.endswith("=")):
            raise UsageError(OPTION, f"gives an empty value in {shlex.join(words)!r}", "leave that option out")
        if word in ferry.context_settings["help_option_names"]:
            raise UsageError(f"{OPTION} {word}", "serves nothing", "see: ferry serve --help")
    command = click.Command("serve", params=[_blind(param) for param in serve.params])
    try:
        return command.make_context("ferry serve", list(words), help_option_names=[]).params
    except click.NoSuchOption as error:
        names = [name for param in serve.params for name in param.opts if name.startswith("-")]
        raise UnknownNameError(OPTION, error.option_name, names) from error
    except click.UsageError as error:
        raise UsageError(OPTION, error.format_message().rstrip("."), "see: ferry serve --help") from error


def _blind(param: click.Parameter) -> click.Parameter:
    """Return a parameter that takes a path as text."""
    found = copy.copy(param)
    if isinstance(found.type, click.Path):
        found.type = click.STRING
    return found
