"""Carries a bundle to a device, and counts it as pushed only when its probe has passed there."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeferry_devices.client import AgentClient
from edgeferry_devices.device import Device, Say, owner, silent
from edgeferry_runtime.bundle import MANIFEST, Bundle

BEGIN_TIMEOUT_S = 60.0
PROOF_TIMEOUT_S = 900.0
READ_BYTES_PER_S = 10e6
"""How fast the slowest storage is read: a device hashes what it has before it says what it lacks."""


@dataclass(frozen=True)
class PushResult:
    """What a push did.

    Attributes:
        device: The device's name.
        bundle: The bundle's name.
        id: Its id.
        up_to_date: True where the device had it already; then nothing was sent and nothing was run.
        bytes_sent: Bytes of the files that were sent.
        seconds: Wall time of the push, installation not included.
        figures: For each output the distance between the device's answer and the source's.
        engine: Name and version of the engine there.
    """

    device: str
    bundle: str
    id: str
    up_to_date: bool
    bytes_sent: int
    seconds: float
    figures: tuple[Mapping[str, Any], ...] = ()
    engine: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**vars(self), "figures": list(self.figures), "engine": dict(self.engine)}


def push(bundle: Bundle, device: Device, say: Say = silent) -> PushResult:
    """Carry a bundle to a device, prove it there, and make it the current release of its name.

    Args:
        bundle: The bundle.
        device: The device.
        say: Takes the progress.

    Raises:
        BundleError: If the bundle was changed since it was made.
        VerificationError: If the outputs on the device differ from the source's; the old release stays current.
        DeviceError: If the device cannot be reached or refuses.
    """
    bundle.check()
    with device.open_agent([bundle.manifest.format], say) as agent:
        return push_with(agent, bundle, device, say)


def push_with(agent: AgentClient, bundle: Bundle, device: Device, say: Say) -> PushResult:
    """Push through an agent that runs already; see `push`."""
    started = time.monotonic()
    name = bundle.manifest.name
    sizes = _sizes(bundle)
    reading = sum(sizes.values()) / READ_BYTES_PER_S
    plan = agent.ask("begin", timeout=BEGIN_TIMEOUT_S + reading, manifest=_manifest(bundle), sizes=sizes, owner=owner())
    if plan["up_to_date"]:
        say(f"{device.name}: {name} is up to date")
        return PushResult(device.name, name, bundle.id, True, 0, time.monotonic() - started)
    say(f"{device.name}: sending {len(plan['missing'])} files of {name}")
    sent = _send(bundle, device, plan)
    say(f"{device.name}: running the probe of {name}")
    proof = agent.ask("commit", timeout=PROOF_TIMEOUT_S + reading)
    seconds = time.monotonic() - started
    return PushResult(device.name, name, bundle.id, False, sent, seconds, tuple(proof["figures"]), proof["engine"])


def _manifest(bundle: Bundle) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((bundle.path / MANIFEST).read_text(encoding="utf-8"))
    return data


def _sizes(bundle: Bundle) -> dict[str, int]:
    files = bundle.manifest.files.items()
    return {digest: (bundle.path / name).stat().st_size for name, digest in files}


def _send(bundle: Bundle, device: Device, plan: Mapping[str, Any]) -> int:
    paths = {digest: bundle.path / name for name, digest in bundle.manifest.files.items()}
    return sum(device.put(paths[digest], f"{plan['incoming']}/{digest}.part") for digest in plan["missing"])
