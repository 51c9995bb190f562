"""The command ``ferry``: one lazy table of commands, and the one place where errors become exit codes."""

from __future__ import annotations

import atexit
import errno
import importlib
import os
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import click

from edgeferry_runtime import __version__

if TYPE_CHECKING:
    from edgeferry_runtime.errors import EdgeferryError


@dataclass(frozen=True)
class Entry:
    """Where a command lives, and the line that ``ferry --help`` shows for it."""

    module: str
    attribute: str
    help: str


COMMANDS = {
    "convert": Entry("edgeferry_converter.commands.convert", "convert", "Make a verified bundle from a trained model."),
    "inspect": Entry("edgeferry_converter.commands.inspect", "inspect", "Show what a model file tells about itself."),
    "compress": Entry(
        "edgeferry_converter.commands.compress", "compress", "Prune, distill and quantize a model by training."
    ),
    "verify": Entry("edgeferry_converter.commands.verify", "verify", "Compare any two of source, artifact and bundle."),
    "explain": Entry("edgeferry_converter.commands.explain", "explain", "Tell which layers lost what, and why."),
    "run": Entry("edgeferry_runtime.commands.run", "run", "Run a bundle or artifact on an input."),
    "bench": Entry("edgeferry_runtime.commands.bench", "bench", "Measure a bundle or artifact on this machine."),
    "compare": Entry("edgeferry_runtime.commands.compare", "compare", "Say which of two is faster, and how surely."),
    "lint": Entry("edgeferry_runtime.commands.lint", "lint", "Say what a delegate would leave to the CPU."),
    "engines": Entry("edgeferry_runtime.commands.engines", "engines", "List what this machine can execute with."),
    "serve": Entry("edgeferry_runtime.commands.serve", "serve", "Serve bundles to standard clients."),
    "device": Entry("edgeferry_devices.commands.device", "device", "Add, list, trust, inspect and remove devices."),
    "doctor": Entry("edgeferry_devices.commands.doctor", "doctor", "Say what will not work on a device, and why."),
    "push": Entry("edgeferry_devices.commands.push", "push", "Carry a bundle to a device and prove it there."),
    "deploy": Entry("edgeferry_devices.commands.deploy", "deploy", "Push a bundle to one or more devices."),
    "service": Entry("edgeferry_devices.commands.service", "service", "Have devices serve what is on them."),
    "releases": Entry("edgeferry_devices.commands.releases", "releases", "List what a device keeps."),
    "rollback": Entry("edgeferry_devices.commands.releases", "rollback", "Go back to the release before."),
    "gc": Entry("edgeferry_devices.commands.releases", "gc", "Remove from a device what nobody needs."),
    "fleet": Entry("edgeferry_devices.commands.fleet", "fleet", "List runs on several devices, and resume one."),
    "profile": Entry("edgeferry_devices.commands.profile", "profile", "Measure bundles on one or more devices."),
    "report": Entry("edgeferry_devices.commands.report", "report", "Make a page of what was measured."),
}
"""Every command. Written once; a command's module is imported only when the command is used."""


def resolve(module: str, attribute: str) -> Any:
    """Import a neighbour's function when it is used, so that the runtime never needs its neighbours.

    Raises:
        MissingExtraError: If the module belongs to a part that is not installed.
    """
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        from edgeferry_runtime.errors import MissingExtraError

        extras = {"edgeferry_converter": "all", "edgeferry_devices": "devices", "paramiko": "devices"}
        missing = (error.name or "").split(".")[0]
        if missing not in extras:
            raise
        raise MissingExtraError(f"ferry ({module})", extras[missing], missing) from None


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names in the order of the way through the house."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        entry = COMMANDS.get(cmd_name)
        return cast(click.Command, resolve(entry.module, entry.attribute)) if entry else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which were meant."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from edgeferry_runtime.errors import UnknownNameError

            raise UnknownNameError("ferry", args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ferry")
def ferry() -> None:
    """Carry trained models to small machines, and prove at every step that they compute the same thing.

    Exit codes: 0 ok, 1 expected error, 2 usage, 3 a gate failed, 4 device unreachable or refused.
    """


REFUSALS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM),
    *(errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE),
)
"""What a file system says for reasons of its own: not defects of ours."""


def _refusal(error: Exception) -> EdgeferryError | None:
    """Say what the machine refused; None where the error is a defect."""
    from edgeferry_runtime.errors import EdgeferryError

    if not isinstance(error, OSError) or error.errno not in REFUSALS:
        return None
    fix = "check the path, its permissions and the free space"
    return EdgeferryError(error.filename or "this machine", f"refused ({error.strerror})", fix)


def _usage(error: click.UsageError, args: list[str]) -> int:
    """Print the help where nothing was asked for, else one line, and return the exit code."""
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        error.show()
        return error.exit_code
    return _fail(_misuse(error, args))


def _misuse(error: click.UsageError, args: list[str]) -> EdgeferryError:
    """Say in one line what is wrong with a command line."""
    from edgeferry_runtime.errors import UnknownNameError, UsageError

    command = error.ctx.command_path if error.ctx else " ".join(["ferry", *(a for a in args[:1] if a in COMMANDS)])
    if error.ctx and isinstance(error, click.NoSuchOption):
        names = [name for param in error.ctx.command.get_params(error.ctx) for name in param.opts if name[:1] == "-"]
        return UnknownNameError(command, error.option_name, names)
    if error.ctx and isinstance(error.ctx.command, click.Group) and hasattr(error, "command_name"):
        return UnknownNameError(command, error.command_name, error.ctx.command.list_commands(error.ctx))
    message = error.format_message().rstrip(".")
    return UsageError(command, message[:1].lower() + message[1:], f"see: {command} --help")


def _fail(error: EdgeferryError) -> int:
    """Print the one line of an expected error, and return its exit code."""
    click.echo(f"ferry: error: {' '.join(str(error).split())}", err=True)
    return error.exit_code


def _defect() -> int:
    """Print the traceback of an unexpected error, and return its exit code."""
    traceback.print_exc()
    click.echo(
        "ferry: unexpected error: this is a defect in Edgeferry; please report it with the lines above", err=True
    )
    return 70


def _hush() -> None:
    """Keep what an interrupted framework says of its own end from standing below our last line."""
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def main(args: list[str] | None = None) -> None:
    """Run ``ferry`` and exit with its code: the boundary between errors and the shell."""
    from edgeferry_runtime.errors import EdgeferryError

    try:
        code = ferry.main(args=args, prog_name="ferry", standalone_mode=False)
    except EdgeferryError as error:
        code = _fail(error)
    except click.UsageError as error:
        code = _usage(error, sys.argv[1:] if args is None else args)
    except (click.Abort, KeyboardInterrupt):
        click.echo("ferry: interrupted", err=True)
        atexit.register(_hush)
        code = 130
    except BrokenPipeError:
        sys.stderr.close()
        code = 1
    except Exception as error:  # noqa: BLE001 - the one boundary of the command line
        refusal = _refusal(error)
        code = _fail(refusal) if refusal else _defect()
    sys.exit(code if isinstance(code, int) else 0)
