"""What a device keeps: its releases, the way back to the one before, and what nobody needs any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeferry_devices.device import Device, Say, silent
from edgeferry_devices.pushing import PROOF_TIMEOUT_S


@dataclass(frozen=True)
class Release:
    """A release on a device.

    Attributes:
        name: The bundle's name.
        id: Its id.
        state: ``current``, ``previous``, ``failed`` (the last push; gone with the next one) or ``old``.
        bytes: Size of its files.
        report: Why it failed: type, subject, reason and fix of the error; empty where it did not.
        proof: What it was proven with; see `PushResult`. Empty where that is not known.
    """

    name: str
    id: str
    state: str
    bytes: int
    report: Mapping[str, str] = field(default_factory=dict)
    proof: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**vars(self), "report": dict(self.report), "proof": dict(self.proof)}


def releases(device: Device, name: str | None = None, say: Say = silent) -> list[Release]:
    """List what is on a device, of all bundles or of one.

    Raises:
        MissingFileError: If there is no bundle of this name.
        DeviceError: If the device cannot be reached or refuses.
    """
    with device.open_agent((), say) as agent:
        return [Release(**row) for row in agent.ask("releases", name=name)["releases"]]


def rollback(name: str, device: Device, say: Say = silent) -> dict[str, Any]:
    """Go back to the release before the current one, once it has passed its probe again where it passed before.

    Args:
        name: The bundle's name.
        device: The device.
        say: Takes the progress.

    Returns:
        ``id`` and ``from``, the releases that are current now and were before; and the proof:
        ``figures``, ``delegate``, ``engine``, ``execution``, ``at``.

    Raises:
        MissingFileError: If there is no such bundle, or no release before the current one.
        VerificationError: If the outputs differ from the source's; nothing is changed then.
        DeviceError: If the device cannot be reached or refuses.
    """
    with device.open_agent((), say) as agent:
        say(f"{device.name}: running the probe of {name} as it was before")
        return agent.take("rollback", timeout=PROOF_TIMEOUT_S, name=name)


def gc(device: Device, dry_run: bool = False, say: Say = silent) -> dict[str, Any]:
    """Remove what nobody needs from a device: never a current release, nor the one before it.

    Args:
        device: The device.
        dry_run: Whether only to say what would go.
        say: Takes the progress.

    Returns:
        ``removed``, a list of ``kind``, ``path`` and ``bytes``; ``freed_bytes``; ``dry_run``.

    Raises:
        DeviceError: If the device cannot be reached or refuses.
    """
    with device.open_agent((), say) as agent:
        return agent.take("gc", timeout=PROOF_TIMEOUT_S, dry_run=dry_run)
