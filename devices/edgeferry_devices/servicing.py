"""The service of a device, from the host: a server of what is on it, which stays when the host has gone."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from edgeferry_devices.device import Device, Say, silent
from edgeferry_devices.knowing.wheels_known import SERVE
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.device_service.config import LONGEST_DRAIN_S, Server
from edgeferry_runtime.device_service.readiness import READY_TIMEOUT_S

STOP_TIMEOUT_S = LONGEST_DRAIN_S + 60.0
"""However long requests in flight may take, as ``--drain`` says, and what ending takes beyond them."""
START_TIMEOUT_S = 2 * (STOP_TIMEOUT_S + READY_TIMEOUT_S)
"""The one before it ends, and it comes up and its release answers; or it ends, and the one before comes up again."""


def start_service(
    device: Device, server: Server | None = None, say: Say = silent, release: tuple[str, str] | None = None
) -> dict[str, Any]:
    """Have a device serve every bundle that is on it, from now on; what it lacks for that is installed first.

    A service that runs as it should goes on undisturbed. Where one does not come up, what was before is there again,
    and what it said is told.

    Args:
        device: The device.
        server: How to serve; None for as before, or the default: HTTP on port 8000 of loopback.
        say: Takes the progress.
        release: A bundle's name and id, where that release has to answer before this returns.

    Returns:
        What `service_status` returns; ``changed``: whether it had to be started; and, where a release was named,
        ``version``: under which it answers.

    Raises:
        EdgeferryError: If it does not come up, or the release does not answer.
        DeviceRequirementError: If the device cannot serve.
        MissingExtraError: If the server is not installed on this machine, for ``local``.
    """
    with device.open_agent([SERVE], say) as agent:
        say(f"{device.name}: starting the service" if release is None else f"{device.name}: serving {release[0]}")
        asked = {"action": "start", "server": asdict(server) if server else None, "release": release}
        return agent.take("service", timeout=START_TIMEOUT_S, say=say, **asked)


def restart_service(device: Device, say: Say = silent) -> dict[str, Any]:
    """Stop the service of a device and start it again, with the runtime that is there; see `start_service`.

    Raises:
        MissingFileError: If there is none.
    """
    with device.open_agent([SERVE], say) as agent:
        return agent.take("service", timeout=START_TIMEOUT_S, say=say, action="restart")


def stop_service(device: Device, say: Say = silent) -> dict[str, Any]:
    """Stop the service of a device, once what is in flight is finished; it stays installed.

    Returns:
        What `service_status` returns.

    Raises:
        MissingFileError: If there is none.
    """
    with device.open_agent((), say) as agent:
        return agent.take("service", timeout=STOP_TIMEOUT_S, action="stop")


def remove_service(device: Device, say: Say = silent) -> dict[str, Any]:
    """Stop the service of a device, and remove all that was made for it; the bundles stay.

    Returns:
        What `service_status` returns, and ``removed``: whether there was one.
    """
    with device.open_agent((), say) as agent:
        return agent.take("service", timeout=STOP_TIMEOUT_S, action="remove")


def service_status(device: Device, say: Say = silent) -> dict[str, Any]:
    """Say how the service of a device fares.

    Returns:
        ``installed``, ``way`` (``systemd``, ``background`` or empty), ``running`` and ``ready``; and of one that is
        installed ``pid``, ``url``, ``host``, ``port``, ``options``, ``token`` (whether it asks for one), ``notes``.
    """
    with device.open_agent((), say) as agent:
        return agent.ask("service", action="status")


def service_log(device: Device, lines: int = 100, say: Say = silent) -> list[str]:
    """Return the last lines of what the service of a device said.

    Raises:
        MissingFileError: If there is none.
    """
    with device.open_agent((), say) as agent:
        found: list[str] = agent.ask("service", action="logs", lines=lines)["lines"]
        return found


def service_token(device: Device, say: Say = silent) -> str:
    """Return what clients of a device's service must show.

    Raises:
        MissingFileError: If there is no service, or it asks for nothing.
    """
    with device.open_agent((), say) as agent:
        return str(agent.ask("service", action="token")["token"])


def install_server(bundle: Bundle, device: Device, say: Say) -> None:
    """Bring at once what a bundle and the server need, so that a push installs nothing.

    Raises:
        DeviceRequirementError: If the device cannot serve.
    """
    with device.open_agent([bundle.manifest.format, SERVE], say) as agent:
        agent.ask("hello")
