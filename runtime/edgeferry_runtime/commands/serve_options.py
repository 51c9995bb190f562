"""What ``ferry serve`` is told about listening: where, to whom, and what is let in."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgeferry_runtime.commands.bench_options import read_duration
from edgeferry_runtime.durations import parse_duration
from edgeferry_runtime.errors import UsageError
from edgeferry_runtime.quantities import parse_size
from edgeferry_runtime.serving.settings import Address, Limits
from edgeferry_runtime.serving.token import find_token

Command = TypeVar("Command", bound=Callable[..., Any])

PORT = click.IntRange(0, 65535)
FILE = click.Path(path_type=Path)


def read_size(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """Read an option such as ``32MiB`` as bytes."""
    return parse_size(value, param.opts[0])


def read_time(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """Read an option such as ``30s`` as seconds, which must be more than none."""
    seconds = parse_duration(value, param.opts[0])
    if not seconds:
        raise UsageError(param.opts[0], "is no time at all", "give one such as 30s")
    return seconds


ADDRESS = (
    click.option(
        "--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 takes all interfaces."
    ),
    click.option("--port", type=PORT, default=8000, show_default=True, help="The port of HTTP; 0 takes a free one."),
    click.option(
        "--grpc-port", type=PORT, default=8001, show_default=True, help="The port of gRPC; 0 takes a free one."
    ),
    click.option("--no-grpc", is_flag=True, help="Serve no gRPC."),
    click.option(
        "--management-port",
        type=PORT,
        default=8081,
        show_default=True,
        help="The port of TorchServe's management calls, always on loopback; 0 takes a free one.",
    ),
    click.option("--no-management", is_flag=True, help="Serve no management calls."),
    click.option(
        "--token-file",
        type=FILE,
        metavar="FILE",
        help="A private file with the token that every client must show; EDGEFERRY_TOKEN serves as well.",
    ),
    click.option("--tls-cert", type=FILE, metavar="FILE", help="Speak TLS with this certificate chain (PEM)."),
    click.option("--tls-key", type=FILE, metavar="FILE", help="The certificate's private key (PEM)."),
)
LIMITS = (
    click.option(
        "--timeout",
        default="30s",
        callback=read_time,
        show_default=True,
        metavar="DURATION",
        help="A request's deadline where it names none, and the latest that it may name.",
    ),
    click.option(
        "--max-body",
        default="32MiB",
        callback=read_size,
        show_default=True,
        metavar="SIZE",
        help="The largest body of a request.",
    ),
    click.option(
        "--max-tensor",
        default="64MiB",
        callback=read_size,
        show_default=True,
        metavar="SIZE",
        help="The largest tensor, as the engine holds it.",
    ),
    click.option(
        "--idle-timeout",
        default="60s",
        callback=read_time,
        show_default=True,
        metavar="DURATION",
        help="How long a connection may rest between requests.",
    ),
    click.option(
        "--drain",
        default="30s",
        callback=read_duration,
        show_default=True,
        metavar="DURATION",
        help="How long requests in flight may take once the server is told to stop.",
    ),
)


def listening_options(command: Command) -> Command:
    """Add where it listens, and what is let in."""
    for option in reversed((*ADDRESS, *LIMITS)):
        command = option(command)
    return command


def take_address(options: dict[str, Any]) -> Address:
    """Take where it listens out of the options of `listening_options`.

    Raises:
        UsageError: If options do not fit together, or the token is none.
        MissingFileError: If there is no such file.
    """
    certificate, key = options["tls_cert"], options["tls_key"]
    if (certificate is None) != (key is None):
        given, other = ("--tls-cert", "--tls-key") if certificate else ("--tls-key", "--tls-cert")
        raise UsageError(given, f"says nothing without {other}", "give both, or none for plain text")
    return Address(
        options["host"],
        options["port"],
        None if options["no_grpc"] else options["grpc_port"],
        None if options["no_management"] else options["management_port"],
        certificate,
        key,
        find_token(options["token_file"], os.environ),
    )


def take_limits(options: dict[str, Any]) -> Limits:
    """Take what is let in out of the options of `listening_options`."""
    return Limits(
        body_bytes=options["max_body"],
        tensor_bytes=options["max_tensor"],
        timeout_s=options["timeout"],
        idle_s=options["idle_timeout"],
        drain_s=options["drain"],
    )
