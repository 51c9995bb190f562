"""Asks a server on this very device, over loopback, whether it is ready."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeferry_runtime.device_service.config import Server
from edgeferry_runtime.errors import EdgeferryError

PATH = "/v2/health/ready"
"""Open Inference Protocol: 200 where the server and all its models are ready."""
STATUS = "/status"
"""Every version of every model, with its release."""
ASK_TIMEOUT_S = 5.0
POLL_S = 0.25
READY_TIMEOUT_S = 240.0


def is_ready(server: Server, token: Path | None) -> bool:
    """Ask once."""
    return _get(server, token, PATH) is not None


def check_free(server: Server) -> None:
    """Refuse a port on which somebody else listens, whose answers would be taken for ours.

    Raises:
        EdgeferryError: If somebody does.
    """
    with contextlib.suppress(OSError), socket.create_connection((server.near, server.port), ASK_TIMEOUT_S):
        reason = f"another program listens on port {server.port}"
        raise EdgeferryError("the service", reason, "end that one, or serve on another: --serve-with '--port N'")


def wait(server: Server, token: Path | None, failure: Callable[[], str], seconds: float = READY_TIMEOUT_S) -> None:
    """Wait until it is ready.

    Args:
        server: Where it is.
        token: The file with what it asks for; None where it asks for nothing.
        failure: Says how it failed; nothing as long as it may still come up.
        seconds: How long to wait.

    Raises:
        EdgeferryError: If it fails, or is not ready in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        ready = is_ready(server, token)
        if said := failure():
            raise EdgeferryError("the service", f"did not come up: {said}", "look at what it said")
        if ready:
            return
        if time.monotonic() > deadline:
            raise EdgeferryError("the service", f"is not ready after {seconds:g} s", "look at what it said")
        time.sleep(POLL_S)


def wait_for(server: Server, token: Path | None, name: str, release: str, seconds: float = READY_TIMEOUT_S) -> str:
    """Wait until a release is what answers for a model, and return the version under which it does.

    Args:
        server: Where it is.
        token: The file with what it asks for; None where it asks for nothing.
        name: The model.
        release: The bundle's id.
        seconds: How long to wait.

    Raises:
        EdgeferryError: If the server refuses the release, or does not answer with it in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        told = json.loads(_get(server, token, STATUS) or "{}").get("models", ())
        ours = [model for model in told if (model["name"], model["release"]) == (name, release)]
        found: dict[str, Any] = ours[-1] if ours else {}
        if found.get("default"):
            return str(found["version"])
        refused = found.get("state") == "UNAVAILABLE"
        if refused or time.monotonic() > deadline:
            reason = f"does not answer with release {release[:12]} of {name}"
            said = f" ({found['reason']})" if refused else f" after {seconds:g} s"
            raise EdgeferryError("the service", reason + said, "look: ferry service logs; the one before it answers")
        time.sleep(POLL_S)


def _get(server: Server, token: Path | None, path: str) -> bytes | None:
    """Return what is answered; None where that is not 200, or nothing."""
    try:
        with contextlib.closing(_connect(server)) as connection:
            connection.request("GET", path, headers=_headers(token))
            answer = connection.getresponse()
            body = answer.read()
    except (OSError, http.client.HTTPException):
        return None
    return body if answer.status == 200 else None


def _connect(server: Server) -> http.client.HTTPConnection:
    if not server.encrypted:
        return http.client.HTTPConnection(server.near, server.port, timeout=ASK_TIMEOUT_S)
    ours = ssl.create_default_context()
    ours.check_hostname = False  # its certificate is for its name, and we speak to our own machine
    ours.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(server.near, server.port, timeout=ASK_TIMEOUT_S, context=ours)


def _headers(token: Path | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token.read_text(encoding='utf-8').strip()}"}
