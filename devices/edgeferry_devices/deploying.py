"""Pushes a bundle to several devices, one after the other; one that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeferry_devices.asking import Secrets
from edgeferry_devices.device import Say, open_device, silent
from edgeferry_devices.pushing import PushResult, push
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import EdgeferryError


@dataclass(frozen=True)
class Deployment:
    """What came of one device: what the push did, or the error that prevented it."""

    device: str
    result: PushResult | None = None
    error: EdgeferryError | None = None


def deploy(
    bundle: Bundle, devices: Sequence[str], say: Say = silent, secrets: Secrets | None = None
) -> list[Deployment]:
    """Push a bundle to each device; see `push`.

    Args:
        bundle: The bundle.
        devices: Names of devices.
        say: Takes the progress.
        secrets: Where passphrases and passwords come from; without it nobody is asked.

    Returns:
        One for each device, in order.

    Raises:
        BundleError: If the bundle was changed since it was made.
    """
    bundle.check()
    return [_deployment(bundle, name, say, secrets) for name in dict.fromkeys(devices)]


def _deployment(bundle: Bundle, name: str, say: Say, secrets: Secrets | None) -> Deployment:
    try:
        with open_device(name, secrets) as device:
            return Deployment(name, result=push(bundle, device, say))
    except EdgeferryError as error:
        return Deployment(name, error=error)
