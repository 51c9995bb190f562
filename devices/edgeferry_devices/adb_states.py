"""What ``adb devices`` tells, and what to do about a phone that is not ready."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeferry_runtime.errors import AuthenticationError, DeviceError, DeviceRequirementError, UnreachableError

READY = "device"
WAITS = ("connecting", "authorizing", "detached")


@dataclass(frozen=True)
class Listed:
    """One device that the adb server sees.

    Attributes:
        serial: Its serial, or host and port.
        state: ``device`` where it is ready, else what hinders.
    """

    serial: str
    state: str


def parse_devices(text: str) -> list[Listed]:
    """Read lines of a serial, a tab and a state; what the server says of itself is left out."""
    lines = (line.partition("\t") for line in text.splitlines())
    return [Listed(serial.strip(), state.strip()) for serial, tab, state in lines if tab and state.strip()]


def check_ready(device: str, serial: str, listed: Sequence[Listed]) -> None:
    """Make sure that exactly one device of a serial is there, and ready.

    Args:
        device: The device's name, for the error.
        serial: The serial that is wanted.
        listed: What the adb server sees.

    Raises:
        AuthenticationError: If it does not trust this machine yet.
        UnreachableError: If it is not there, asleep, or there twice.
        DeviceRequirementError: If this account may not use it, or Android does not run there.
    """
    states = [one.state for one in listed if one.serial == serial]
    if not states:
        raise _absent(device, serial, listed)
    if len(states) > 1:
        reason = f"{len(states)} devices have the serial {serial}"
        raise UnreachableError(device, reason, "disconnect the others")
    if states[0] != READY:
        raise _hindered(device, serial, states[0])


def _absent(device: str, serial: str, listed: Sequence[Listed]) -> DeviceError:
    there = ", ".join(one.serial for one in listed) or "none"
    wireless = f"run: adb connect {serial}"
    cable = "connect it by cable, and switch USB debugging on in its developer options"
    reason = f"adb sees no device {serial}; there are: {there}"
    return UnreachableError(device, reason, wireless if ":" in serial else cable)


def _hindered(device: str, serial: str, state: str) -> DeviceError:
    if state == "unauthorized":
        fix = "unlock it, and accept the dialog 'Allow USB debugging?' on its screen"
        return AuthenticationError(device, "does not trust this machine yet", fix)
    if state.startswith("no permissions"):
        fix = "install udev rules (Debian: android-sdk-platform-tools-common), join its group, and connect it anew"
        return DeviceRequirementError(device, "this account may not open its USB device", fix)
    if state == "offline" or state in WAITS:
        again = "adb disconnect, then adb connect" if ":" in serial else "adb reconnect offline"
        return UnreachableError(device, f"does not answer adb (it is {state})", f"unlock it, or run: {again}")
    return DeviceRequirementError(
        device, f"is in the state {state!r}, not in Android", "start Android there: adb reboot"
    )
