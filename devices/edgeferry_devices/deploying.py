"""Pushes a bundle to several devices at once, and has them serve it; one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from edgeferry_devices.asking import Secrets
from edgeferry_devices.device import Device, Say, silent
from edgeferry_devices.each import Pace, each
from edgeferry_devices.outcome import Outcome
from edgeferry_devices.pushing import PushResult, push
from edgeferry_devices.servicing import install_server, start_service
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.device_service.config import Server
from edgeferry_runtime.proofs import Terms
from edgeferry_runtime.undo import undo_on_error


@dataclass(frozen=True)
class Goal:
    """What a deployment is to come to.

    Attributes:
        terms: What the bundle has to be proven with on each device; see `terms`.
        serve: Whether each device is to serve what is on it from then on; see `start_service`.
        server: How; None for as before, or the default.
    """

    terms: Terms = field(default_factory=Terms)
    serve: bool = False
    server: Server | None = None

    @classmethod
    def of(cls, serve: bool = False, server: dict[str, Any] | None = None, **terms: Any) -> Goal:
        """Read it from its JSON form."""
        return cls(Terms(**terms), serve, Server.of(server) if server else None)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, which is that of the terms where nothing is to be served."""
        if not self.serve:
            return self.terms.to_dict()
        return {**self.terms.to_dict(), "serve": True, "server": asdict(self.server) if self.server else None}


def deploy(
    bundle: Bundle,
    devices: Sequence[str],
    pace: Pace | None = None,
    say: Say = silent,
    secrets: Secrets | None = None,
    goal: Goal | None = None,
) -> list[Outcome[PushResult]]:
    """Push a bundle to each device; see `push`.

    Args:
        bundle: The bundle.
        devices: Names of devices; see `select` for groups.
        pace: How many at once, and how many are to prove it before all others.
        say: Takes the progress.
        secrets: Where passphrases and passwords come from; without it nobody is asked.
        goal: What it has to be proven with on each, and whether each is to serve.

    Returns:
        One for each device, in order.

    Raises:
        BundleError: If the bundle was changed since it was made.
    """
    bundle.check()
    return each(devices, lambda device, tell: _one(bundle, device, tell, goal or Goal()), pace, say, secrets)


def _one(bundle: Bundle, device: Device, say: Say, goal: Goal) -> PushResult:
    """Push to one device and have it serve; a service that does not come up fails it, though the release stands."""
    if not goal.serve:
        return push(bundle, device, say, goal.terms)
    install_server(bundle, device, say)
    pushed = push(bundle, device, say, goal.terms)
    with undo_on_error(lambda: say(f"{bundle.manifest.name} {bundle.id[:12]} is the current release all the same")):
        told = start_service(device, goal.server, say, (bundle.manifest.name, bundle.id))
        return replace(pushed, service=told)
