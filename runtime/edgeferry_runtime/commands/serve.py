"""``ferry serve``: a server for bundles."""

from __future__ import annotations

import json
import os
from collections.abc import Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from edgeferry_runtime.commands.model_options import model_options, take_models
from edgeferry_runtime.commands.output import say
from edgeferry_runtime.commands.serve_options import listening_options, take_address, take_limits
from edgeferry_runtime.errors import MissingExtraError
from edgeferry_runtime.serving.settings import Settings

if TYPE_CHECKING:
    from edgeferry_runtime.serving.server import Serving


@click.command()
@model_options
@listening_options
@click.option("--no-access-log", is_flag=True, help="Tell nothing of each request on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Print where it listens as one line of JSON on stdout.")
def serve(no_access_log: bool, as_json: bool, **options: Any) -> None:
    """Serve bundles to standard clients.

    Over HTTP and gRPC: Open Inference Protocol, TensorFlow Serving, TorchServe, and a page for people. SIGTERM or
    Ctrl-C finishes what is in flight; a second one ends at once.

    BUNDLE is a bundle's folder, or a device's folder of a bundle's releases. A new release that appears there answers
    once it is proven. A name that is given twice has versions side by side.
    """
    address, limits = take_address(options), take_limits(options)
    run(Settings(**take_models(options), limits=limits, address=address, access_log=not no_access_log), as_json)


def run(settings: Settings, as_json: bool = False) -> None:
    """Serve until told to stop.

    Args:
        settings: What to serve, and where.
        as_json: Whether to print where it listens on stdout.

    Raises:
        MissingExtraError: If the parts of the extra are not installed.
        EdgeferryError: If a model cannot be served, or a port cannot be taken.
    """
    try:
        from edgeferry_runtime.serving.descriptors import make_room
        from edgeferry_runtime.serving.lines import Lines
        from edgeferry_runtime.serving.server import serve as serving
    except ModuleNotFoundError as error:
        raise MissingExtraError("ferry serve", "serve", error.name or "starlette") from error
    _fill_standard_streams()
    _warn(settings)
    limits = replace(settings.limits, connections=make_room(settings.limits.connections))
    settings = replace(settings, limits=limits)
    lines = Lines(2)

    def announce(found: Serving) -> None:
        told = _listening(settings, found)
        for line in _text(told):
            lines.say(line)
        if as_json:
            click.echo(json.dumps(told))

    try:
        _run(serving(settings, lines, announce))
    finally:
        lines.close()


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run in uvloop where it is installed, which its extra sees to."""
    try:
        import uvloop
    except ModuleNotFoundError:
        import asyncio

        asyncio.run(work)
    else:
        uvloop.run(work)


def _fill_standard_streams() -> None:
    """Open what the shell closed, lest a client's connection takes the place of stderr."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _warn(settings: Settings) -> None:
    address = settings.address
    if address.token is None and address.host not in ("localhost", "::1") and not address.host.startswith("127."):
        say(f"warning: everybody who reaches {address.host} may use the models; --token-file asks for a token")
    if address.certificate and address.key:
        from edgeferry_runtime.serving.tls import doubt, make_context

        reason = doubt(make_context(address.certificate, address.key), address.certificate)
        if reason:
            say(f"warning: the certificate {address.certificate} {reason}; clients will refuse it")


def _listening(settings: Settings, found: Serving) -> dict[str, Any]:
    address = settings.address
    return {
        "schema": 1,
        "pid": os.getpid(),
        "host": address.host,
        "port": found.http,
        "grpc_port": found.grpc,
        "management_port": found.management,
        "tls": address.certificate is not None,
        "token": address.token is not None,
    }


def _text(told: dict[str, Any]) -> list[str]:
    host = f"[{told['host']}]" if ":" in told["host"] else told["host"]
    lines = [f"HTTP on {'https' if told['tls'] else 'http'}://{host}:{told['port']}"]
    if told["grpc_port"] is not None:
        lines.append(f"gRPC on {host}:{told['grpc_port']}")
    if told["management_port"] is not None:
        lines.append(f"management on http://127.0.0.1:{told['management_port']}")
    return lines
