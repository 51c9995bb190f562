"""Runs a bundle on a device, inputs going there and outputs coming back."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeferry_devices.device import Device, Say, open_device, silent
from edgeferry_devices.pushing import PROOF_TIMEOUT_S, push_with
from edgeferry_runtime.bundle import Bundle, Probe
from edgeferry_runtime.tensors import Array


def run_on_device(
    target: Path,
    device: str | Device,
    feeds: Mapping[str, Array],
    raw: bool = False,
    say: Say = silent,
    signature: str | None = None,
) -> dict[str, Array]:
    """Run a bundle once on a device; it is pushed first where it is not up to date.

    Args:
        target: The bundle's folder.
        device: The device's name, or an open one, which stays open.
        feeds: By input name, what the model is fed; real values, or stored ones with `raw`.
        raw: Whether inputs and outputs are the stored integers of a quantized model.
        say: Takes the progress.
        signature: Which of several signatures to run; None takes the primary one.

    Returns:
        The outputs by name.

    Raises:
        BundleError: If `target` is no bundle, or was changed.
        DataError: If the inputs do not fit the model.
        DeviceError: If the device cannot be reached or refuses.
    """
    bundle = Bundle.open(target)
    bundle.check()
    opened = open_device(device) if isinstance(device, str) else contextlib.nullcontext(device)
    with opened as there, there.open_agent([bundle.manifest.format], say) as agent:
        push_with(agent, bundle, there, say)
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "arrays.npz"
            Probe(feeds, {}).save(local)
            staged = agent.take("stage")["folder"]
            there.put(local, f"{staged}/feeds.npz")
            asked: dict[str, Any] = {"name": bundle.manifest.name, "id": bundle.id, "raw": raw, "signature": signature}
            done = agent.ask("run", timeout=PROOF_TIMEOUT_S, **asked)
            there.get(done["outputs"], local)
            return dict(Probe.load(local).outputs)
