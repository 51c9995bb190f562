"""Measures a bundle on devices, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from edgeferry_devices.asking import Secrets
from edgeferry_devices.device import Say, open_device, silent
from edgeferry_devices.pushing import push_with
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.profile import Profile

if TYPE_CHECKING:
    from edgeferry_runtime.benchmark import BenchOptions

SPARE_S = 600.0
"""Seconds that loading may take beside what the options allow."""


@dataclass(frozen=True)
class Outcome:
    """What came of one device: a profile, or the error that prevented it."""

    device: str
    profile: Profile | None = None
    error: EdgeferryError | None = None

    def result(self) -> Profile:
        """Return the profile.

        Raises:
            EdgeferryError: What prevented it.
        """
        if self.profile is None:
            assert self.error is not None
            raise self.error
        return self.profile


def profile(
    bundle: Bundle,
    devices: Sequence[str],
    options: BenchOptions | None = None,
    say: Say = silent,
    secrets: Secrets | None = None,
) -> list[Outcome]:
    """Measure a bundle on each device; it is pushed first where it is not up to date.

    Args:
        bundle: The bundle.
        devices: Names of devices; one that fails does not stop the others.
        options: How to measure; without them as ``ferry profile`` does.
        say: Takes the progress.
        secrets: Where passphrases and passwords come from; without it nobody is asked.

    Returns:
        One outcome for each device, in order.

    Raises:
        BundleError: If the bundle was changed since it was made.
    """
    from edgeferry_runtime.benchmark import BenchOptions

    bundle.check()
    options = options or BenchOptions()
    return [_outcome(bundle, name, options, say, secrets) for name in dict.fromkeys(devices)]


def _outcome(bundle: Bundle, name: str, options: BenchOptions, say: Say, secrets: Secrets | None) -> Outcome:
    try:
        return Outcome(name, profile=profile_on(bundle, name, options, say, secrets))
    except EdgeferryError as error:
        return Outcome(name, error=error)


def profile_on(
    bundle: Bundle, name: str, options: BenchOptions, say: Say = silent, secrets: Secrets | None = None
) -> Profile:
    """Measure a bundle on one device; see `profile`.

    Raises:
        EdgeferryError: Whatever prevents it.
    """
    with open_device(name, secrets) as device, device.open_agent([bundle.manifest.format], say) as agent:
        push_with(agent, bundle, device, say)
        say(f"{name}: measuring {bundle.manifest.name}")
        measured = agent.take(
            "bench",
            timeout=options.longest_secs + SPARE_S,
            name=bundle.manifest.name,
            id=bundle.id,
            options=asdict(options),
            device=name,
        )
    return Profile.from_dict(measured)
