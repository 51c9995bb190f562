"""Which of two is faster, and how sure that is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np

from edgeferry_runtime.errors import DataError
from edgeferry_runtime.measurement.fresh import bench_fresh
from edgeferry_runtime.measurement.local import Say, silent
from edgeferry_runtime.measurement.options import DEFAULTS, BenchOptions
from edgeferry_runtime.measurement.statistics import ratio_interval, side_interval
from edgeferry_runtime.profile import Profile
from edgeferry_runtime.tensors import Array

ORDER = "ABBA"
"""The order inside a block: what drifts evenly weighs on both sides alike."""
ONE_EACH = "each side is one process: how processes differ among themselves is not in the interval"
MACHINE = ("board", "arch", "userland_bits", "cores", "memory_bytes", "os", "kernel", "python")
ENGINE = ("name", "version", "delegate")

Path: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes:
        name: The artifact's.
        device: Where it was measured.
        median_ms: The median of its processes' medians.
        median_ms_ci95: 95 % confidence interval.
        processes: In how many fresh processes it was measured.
        runs: How many runs they made.
    """

    name: str
    device: str
    median_ms: float
    median_ms_ci95: tuple[float, float]
    processes: int
    runs: int


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        a: What is compared with.
        b: What is compared.
        ratio: B's median over A's.
        ratio_ci95: Its 95 % confidence interval, by bootstrap.
        differs: What is not the same about the two machines and engines.
        warnings: What speaks against the figures.
    """

    a: Side
    b: Side
    ratio: float
    ratio_ci95: tuple[float, float]
    differs: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """``faster``, ``slower`` (B than A), or ``no difference`` where the interval holds 1."""
        low, high = self.ratio_ci95
        return "slower" if low > 1 else "faster" if high < 1 else "no difference"

    def exceeds(self, slowdown: float) -> bool:
        """Tell whether B is slower than A for sure, and by more than so much, 0.05 being 5 %."""
        return self.verdict == "slower" and self.ratio > 1 + slowdown

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form: the attributes and ``verdict``."""
        return {"verdict": self.verdict, **asdict(self)}


def compare(a: Path, b: Path, options: BenchOptions = DEFAULTS, *, blocks: int = 3, say: Say = silent) -> Comparison:
    """Measure two bundles or artifacts in turn, each time in a fresh process, in blocks of A, B, B, A.

    Args:
        a: What to compare with.
        b: What to compare.
        options: How to measure in each process.
        blocks: How many blocks, each being two processes a side.
        say: Takes the progress.

    Raises:
        EdgeferryError: What `bench_fresh` raises.
    """
    sides: dict[str, list[Profile]] = {"A": [], "B": []}
    for block in range(blocks):
        for side in ORDER:
            profile = bench_fresh(a if side == "A" else b, options, say=say)
            sides[side].append(profile)
            say(f"block {block + 1} of {blocks}: {side} {profile.median_ms:.4g} ms")
    return compare_profiles(sides["A"], sides["B"], options.seed)


def compare_profiles(a: Sequence[Profile], b: Sequence[Profile], seed: int = 0) -> Comparison:
    """Compare what was measured.

    Args:
        a: One profile for each process, all of one artifact.
        b: The same of what is compared.
        seed: Of the bootstrap.

    Raises:
        DataError: If one of them holds no samples.
    """
    ratio, interval = ratio_interval(_samples(a), _samples(b), seed)
    alone = (ONE_EACH,) if min(len(a), len(b)) == 1 else ()
    return Comparison(
        pool(a, seed),
        pool(b, seed),
        ratio,
        interval,
        tuple(_differences(a[0], b[0])),
        (*pool_warnings("A", a), *pool_warnings("B", b), *alone),
    )


def has_samples(profiles: Sequence[Profile]) -> bool:
    """Tell whether all of them hold their single runs, without which there is no interval and no comparison."""
    return all(profile.samples_ms for profile in profiles)


def _samples(profiles: Sequence[Profile]) -> list[Array]:
    for profile in profiles:
        if not profile.samples_ms:
            reason = f"holds no single runs, because {profile.engine['name']} on {profile.device} does not tell them"
            raise DataError(f"profile of {profile.artifact['name']}", reason, "compare what our runtime measured")
    return [np.array(profile.samples_ms, np.float64) for profile in profiles]


def pool(profiles: Sequence[Profile], seed: int = 0) -> Side:
    """Return what several processes of one artifact say together.

    Args:
        profiles: One for each process.
        seed: Of the bootstrap.
    """
    median, interval = side_interval(_samples(profiles), seed)
    first, runs = profiles[0], sum(profile.num_runs for profile in profiles)
    return Side(str(first.artifact["name"]), first.device, median, interval, len(profiles), runs)


def _differences(a: Profile, b: Profile) -> list[str]:
    first, second = _circumstances(a), _circumstances(b)
    return [f"{key}: {first[key]} and {second[key]}" for key in first if first[key] != second[key]]


def _circumstances(profile: Profile) -> dict[str, Any]:
    return {
        **{key: profile.machine.get(key) for key in MACHINE},
        **{f"engine {key}": profile.engine.get(key) for key in ENGINE},
        "governor": profile.state_before.get("governor"),
    }


def pool_warnings(label: str, profiles: Sequence[Profile]) -> list[str]:
    """Name each kind of warning once, with the first reason and in how many of the processes it was seen."""
    by_kind: dict[str, list[str]] = {}
    for profile in profiles:
        for kind in dict.fromkeys(warning.partition(":")[0] for warning in profile.warnings):
            by_kind.setdefault(kind, []).append(next(w for w in profile.warnings if w.startswith(f"{kind}:")))
    of = f" in {{}} of {len(profiles)} processes" if len(profiles) > 1 else ""
    return [f"{label}{of.format(len(found))}: {found[0]}" for found in by_kind.values()]
