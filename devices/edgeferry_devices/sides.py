"""What was measured together: the processes of one run, of one bundle on one device with one delegate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np

from edgeferry_devices.device import Say
from edgeferry_devices.history import Measurement
from edgeferry_runtime.measurement.statistics import side_interval
from edgeferry_runtime.profile import Profile
from edgeferry_runtime.tensors import Array


@dataclass(frozen=True, order=True)
class Key:
    """What stays the same from one run to the next.

    Attributes:
        device: Where it was measured.
        bundle: Its name; a new release of it is measured against the one before.
        delegate: What executed it.
        signature: Which of several signatures; empty for the only one.
    """

    device: str
    bundle: str
    delegate: str
    signature: str

    @property
    def how(self) -> str:
        """The delegate, and the signature where there are several."""
        return f"{self.delegate}, {self.signature}" if self.signature else self.delegate


@dataclass(frozen=True)
class Side:
    """One run of one key.

    Attributes:
        key: What was measured.
        run: The call that measured it.
        bundle_id: Which release of the bundle.
        at: When the last of its processes was measured, UTC.
        profiles: One for each process, in order.
    """

    key: Key
    run: str
    bundle_id: str
    at: datetime
    profiles: tuple[Profile, ...]

    @property
    def last(self) -> Profile:
        """The newest of its profiles."""
        return self.profiles[-1]

    @cached_property
    def samples(self) -> Array:
        """Milliseconds of all runs of all processes, float64 of [runs]."""
        return np.concatenate([np.asarray(profile.samples_ms, np.float64) for profile in self.profiles])

    @property
    def runs(self) -> int:
        """How many runs were measured; a sustained run keeps only some of them."""
        return sum(profile.num_runs for profile in self.profiles)

    @cached_property
    def median(self) -> tuple[float, tuple[float, float]]:
        """The median in milliseconds, and its 95 % confidence interval."""
        if len(self.profiles) == 1 and self.last.median_ms_ci95:
            low, high = self.last.median_ms_ci95
            return self.last.median_ms, (low, high)
        return side_interval([np.asarray(profile.samples_ms, np.float64) for profile in self.profiles])

    @property
    def median_ms(self) -> float:
        """The median alone."""
        return self.median[0]

    def percentile(self, rank: float) -> float:
        """Return a percentile of all runs in milliseconds."""
        return float(np.percentile(self.samples, rank))

    def middle(self, name: str) -> float:
        """Return the median over the processes of one of a profile's figures."""
        return float(np.median([getattr(profile, name) for profile in self.profiles]))

    @property
    def peak_bytes(self) -> int | None:
        """The highest memory of a process, where it is known."""
        return max((p.peak_rss_bytes for p in self.profiles if p.peak_rss_bytes is not None), default=None)

    @property
    def size_bytes(self) -> int | None:
        """The artifact's size."""
        size = self.last.artifact.get("size_bytes")
        return int(size) if isinstance(size, (int, float)) else None

    @property
    def accuracy(self) -> Mapping[str, Any]:
        """What is known of the artifact's accuracy; empty where nothing is."""
        told = self.last.artifact.get("accuracy")
        return told if isinstance(told, Mapping) else {}

    @property
    def temperature_c(self) -> float | None:
        """The highest temperature that was read in any of its processes."""
        states = (s for p in self.profiles for s in (p.state_before, *p.states_during, p.state_after))
        return max((state["temperature_c"] for state in states if "temperature_c" in state), default=None)

    @property
    def reasons(self) -> list[str]:
        """Why its figures should not be trusted: each kind once, with the first reason that was seen."""
        by_kind: dict[str, list[str]] = {}
        for profile in self.profiles:
            for warning in dict.fromkeys(profile.warnings):
                by_kind.setdefault(warning.partition(":")[0], []).append(warning)
        return [reasons[0] for reasons in by_kind.values()]

    @property
    def trusted(self) -> bool:
        """Whether nothing speaks against its figures."""
        return not self.reasons


def with_samples(measurements: Iterable[Measurement], say: Say) -> list[Measurement]:
    """Leave out, with a word, what holds no single runs: of a program that is not ours only figures are known.

    Args:
        measurements: In any order.
        say: Takes a line for each device of which some are left out.
    """
    found = list(measurements)
    left_out = [m.device for m in found if not m.profile.samples_ms]
    for device in dict.fromkeys(left_out):
        say(f"{device}: {left_out.count(device)} left out that hold no single runs, as a benchmark_model tells none")
    return [m for m in found if m.profile.samples_ms]


def sides(measurements: Iterable[Measurement]) -> dict[Key, list[Side]]:
    """Return the runs of each key, the oldest first.

    Two releases that were measured in one run are two sides.

    Args:
        measurements: In any order; all hold their single runs.
    """
    runs: dict[tuple[Key, str, str], list[Measurement]] = {}
    for measurement in sorted(measurements, key=lambda m: (m.at, m.run, m.path)):
        runs.setdefault((_key(measurement), measurement.run, measurement.bundle_id), []).append(measurement)
    by_key: dict[Key, list[Side]] = {}
    for (key, run, bundle_id), found in runs.items():
        profiles = tuple(m.profile for m in found)
        by_key.setdefault(key, []).append(Side(key, run, bundle_id, found[-1].at, profiles))
    return {key: sorted(found, key=lambda side: side.at) for key, found in sorted(by_key.items())}


def _key(measurement: Measurement) -> Key:
    profile = measurement.profile
    signature = str(profile.artifact.get("signature") or "")
    return Key(measurement.device, measurement.bundle, str(profile.engine.get("delegate", "")), signature)
