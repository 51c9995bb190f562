"""Carries a bundle to a device, and counts it as pushed only when its probe has passed there."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeferry_devices.client import AgentClient
from edgeferry_devices.device import Device, Say, silent
from edgeferry_runtime.bundle import MANIFEST, Bundle
from edgeferry_runtime.errors import (
    DeviceError,
    DeviceRequirementError,
    DeviceTimeoutError,
    EdgeferryError,
    UnreachableError,
)
from edgeferry_runtime.proofs import KEPT, Terms

BEGIN_TIMEOUT_S = 60.0
PROOF_TIMEOUT_S = 900.0
ATTEMPTS = 3
"""How often a push is begun whose line is lost; a device that does not answer in time is not asked again."""
AGAIN_AFTER_S = 0.5
AGAIN_TIMEOUT_S = 15.0
READ_BYTES_PER_S = 10e6
"""How fast the slowest storage is read: a device hashes what it has before it says what it lacks."""


@dataclass(frozen=True)
class PushResult:
    """What a push did.

    Attributes:
        device: The device's name.
        bundle: The bundle's name.
        id: Its id.
        up_to_date: True where the device had it already, proven as it was to be; then nothing was sent and nothing run.
        bytes_sent: Bytes of the files that were sent.
        seconds: Wall time of the push, installation not included.
        figures: For each output the distance between the device's answer and the source's.
        engine: Name and version of the engine there.
        proof: What it is proven with: ``delegate``, ``engine``, ``execution``, and ``at`` by the device's clock; empty
            where that is not known.
        unmet: Why a release that was the current one already had to be proven again; empty where it was not.
        service: How the service fares that the device was to have; see `service_status`. None for none.
    """

    device: str
    bundle: str
    id: str
    up_to_date: bool
    bytes_sent: int
    seconds: float
    figures: tuple[Mapping[str, Any], ...] = ()
    engine: Mapping[str, str] = field(default_factory=dict)
    proof: Mapping[str, Any] = field(default_factory=dict)
    unmet: str = ""
    service: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        told = {"figures": list(self.figures), "engine": dict(self.engine), "proof": dict(self.proof)}
        return {**vars(self), **told}


ANY_PROOF = Terms(any_proof=True)
"""For those who only need the release to be there."""


def terms(delegate: str | None = None, full: bool = False) -> Terms:
    """Return what a release has to be proven with.

    Args:
        delegate: Where it has to execute, or an order of preference; None for what it was proven with before, or else
            ``cpu``.
        full: Whether the delegate has to take every node.

    Raises:
        UsageError, UnknownNameError: If it is no delegate.
    """
    from edgeferry_runtime.engines.delegate import parse_delegates

    return Terms(delegate and ",".join(map(str, parse_delegates(delegate))), full)


def push(bundle: Bundle, device: Device, say: Say = silent, wanted: Terms | None = None) -> PushResult:
    """Carry a bundle to a device, prove it there, and make it the current release of its name.

    Args:
        bundle: The bundle.
        device: The device.
        say: Takes the progress.
        wanted: What it has to be proven with; see `terms`. One that is there and was proven otherwise is proven again.

    Raises:
        BundleError: If the bundle was changed since it was made.
        VerificationError: If the outputs on the device differ from the source's; the old release stays current.
        DelegationError: If the delegate did not take every node, where that is wanted; the same holds.
        DeviceError: If the device cannot be reached or refuses.
    """
    bundle.check()
    for attempt in itertools.count(1):
        try:
            with device.open_agent([bundle.manifest.format], say) as agent:
                return push_with(agent, bundle, device, say, wanted or Terms())
        except UnreachableError as error:
            if attempt == ATTEMPTS or not _comes_back(device):
                raise
            say(f"{device.name}: {error.reason}; taking up where it was cut")
    raise AssertionError("unreachable")


def _comes_back(device: Device) -> bool:
    """Tell whether a device whose line was lost can be reached again; what arrived there is not sent twice."""
    device.close()
    time.sleep(AGAIN_AFTER_S)
    try:
        return device.exec(["true"], timeout=AGAIN_TIMEOUT_S).exit_status == 0
    except DeviceError:
        return False


def push_with(agent: AgentClient, bundle: Bundle, device: Device, say: Say, wanted: Terms = ANY_PROOF) -> PushResult:
    """Push through an agent that runs already; see `push`. What is current stands, however it was proven."""
    started = time.monotonic()
    name = bundle.manifest.name
    sizes = _sizes(bundle)
    reading = sum(sizes.values()) / READ_BYTES_PER_S
    asked: dict[str, Any] = {"manifest": _manifest(bundle), "sizes": sizes, "terms": wanted.to_dict()}
    plan = agent.take("begin", timeout=BEGIN_TIMEOUT_S + reading, **asked)
    if plan["up_to_date"]:
        say(f"{device.name}: {name} is up to date")
        return _result(device.name, bundle, started, up_to_date=True, proof=plan["proof"])
    unmet = plan.get("unmet", "")
    what = f"{name} is there, but {unmet}" if unmet else f"sending {len(plan['missing'])} files of {name}"
    say(f"{device.name}: {what}")
    sent = _send(agent, bundle, device, plan)
    say(f"{device.name}: running the probe of {name}")
    proof = _commit(agent, name, PROOF_TIMEOUT_S + reading)
    figures = tuple(proof["figures"])
    kept = {key: proof[key] for key in KEPT}
    return _result(device.name, bundle, started, bytes_sent=sent, figures=figures, proof=kept, unmet=unmet)


def _result(device: str, bundle: Bundle, started: float, **told: Any) -> PushResult:
    seconds = time.monotonic() - started
    engine = told["proof"].get("engine", {})
    known = {"up_to_date": False, "bytes_sent": 0, **told}
    return PushResult(device, bundle.manifest.name, bundle.id, seconds=seconds, engine=engine, **known)


def _commit(agent: AgentClient, name: str, timeout: float) -> dict[str, Any]:
    try:
        return agent.ask("commit", timeout=timeout)
    except DeviceTimeoutError as error:
        reason = f"{error.reason}: whether {name} was proven and switched there is not known"
        raise DeviceTimeoutError(error.subject, reason, "push again, or look with: ferry releases") from error


def _manifest(bundle: Bundle) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((bundle.path / MANIFEST).read_text(encoding="utf-8"))
    return data


def _sizes(bundle: Bundle) -> dict[str, int]:
    files = bundle.manifest.files.items()
    return {digest: (bundle.path / name).stat().st_size for name, digest in files}


def _send(agent: AgentClient, bundle: Bundle, device: Device, plan: Mapping[str, Any]) -> int:
    paths = {digest: bundle.path / name for name, digest in bundle.manifest.files.items()}
    sent = 0
    for digest in plan["missing"]:
        offset = _common(paths[digest], *plan["there"].get(digest, (0, "")))
        try:
            sent += device.put(paths[digest], f"{plan['incoming']}/{digest}.part", offset)
        except DeviceRequirementError as error:
            raise _with_space(agent, error) from error
    return sent


def _common(path: Path, size: int, digest: str) -> int:
    """Return how many bytes of a file are there already: all that the device has, where they are those of the file."""
    seen = hashlib.sha256()
    left = size
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(left, 1 << 20))):
            seen.update(chunk)
            left -= len(chunk)
    return size if left == 0 and seen.hexdigest() == digest else 0


def _with_space(agent: AgentClient, error: DeviceRequirementError) -> DeviceRequirementError:
    """Say what is known where a file was refused: SFTP has no words of its own for a full or a read-only disk."""
    try:
        space = agent.ask("space", timeout=10.0)
    except EdgeferryError:
        return error
    free = f"{space['free_bytes'] / 1e6:.1f} MB are free in {space['root']}"
    if space["refuses"]:
        free += f", which {space['refuses']}"
    return DeviceRequirementError(error.subject, f"{error.reason} ({free})", error.fix)
