"""What is measured together, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeferry_devices.foreign.binary import Binary
from edgeferry_devices.history import new_run
from edgeferry_devices.outcome import Outcome
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import EdgeferryError, UsageError
from edgeferry_runtime.profile import Profile

if TYPE_CHECKING:
    from edgeferry_runtime.benchmark import BenchOptions

KEPT = 2
"""Releases of one name that a device has: the current one and the one before it."""


@dataclass(frozen=True)
class Plan:
    """What is measured on every device.

    Attributes:
        bundles: In this order; in every second round backwards, so that what drifts evenly weighs on all alike.
        options: How each is measured.
        rounds: How often.
        run: What the history calls all of it together.
        binary: The program that measures in place of our runtime, where the user gives one.
    """

    bundles: tuple[Bundle, ...]
    options: BenchOptions
    rounds: int
    run: str = field(default_factory=new_run)
    binary: Binary | None = None

    def turns(self) -> Iterator[tuple[int, Bundle]]:
        """Go through the bundles of each round, numbered from 1."""
        for turn in range(self.rounds):
            for bundle in self.bundles if turn % 2 == 0 else self.bundles[::-1]:
                yield turn + 1, bundle

    def check(self) -> None:
        """Refuse what cannot be measured anywhere.

        Raises:
            UsageError: If there is no bundle, one is given twice, or more of one name than a device keeps.
            BundleError: If one was changed since it was made.
        """
        if not self.bundles:
            raise UsageError("profile", "has no bundle to measure", "give one")
        for bundle in self.bundles:
            same = [other for other in self.bundles if other.manifest.name == bundle.manifest.name]
            if sum(other.id == bundle.id for other in same) > 1:
                raise UsageError(f"bundle {bundle.manifest.name}", "is given twice", "leave one of them out")
            if len(same) > KEPT:
                reason = f"is given {len(same)} times, and a device keeps {KEPT} of one name"
                raise UsageError(f"bundle {bundle.manifest.name}", reason, "convert with another --name")
            bundle.check()


@dataclass(frozen=True)
class Attempt:
    """One measurement, or what prevented it.

    Attributes:
        device: The device's name.
        bundle: The bundle; None where the error is the device's own.
        round: Which round, from 1; 0 where it did not come to one.
        profile: What was measured.
        path: Where that is kept.
        error: What prevented it, or prevented keeping it.
    """

    device: str
    bundle: Bundle | None = None
    round: int = 0
    profile: Profile | None = None
    path: Path | None = None
    error: EdgeferryError | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; ``bundle`` and ``round`` are null where they are not known."""
        error = self.error
        return {
            "device": self.device,
            "bundle": self.bundle.manifest.name if self.bundle else None,
            "round": self.round or None,
            "profile": self.profile.to_dict() if self.profile else None,
            "path": str(self.path) if self.path else None,
            "error": {"reason": error.reason, "fix": error.fix, "exit_code": error.exit_code} if error else None,
        }


@dataclass(frozen=True)
class Series:
    """What was measured together.

    Attributes:
        plan: What was to be measured.
        attempts: What came of it, device by device, in the order in which it was done.
        outcomes: What came of each device: nothing, or what failed there first.
    """

    plan: Plan
    attempts: tuple[Attempt, ...]
    outcomes: tuple[Outcome[None], ...] = ()

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """All that was measured."""
        return tuple(attempt.profile for attempt in self.attempts if attempt.profile)

    @property
    def errors(self) -> tuple[EdgeferryError, ...]:
        """All that failed."""
        return tuple(attempt.error for attempt in self.attempts if attempt.error)

    def check(self) -> Series:
        """Return itself if nothing failed.

        Raises:
            EdgeferryError: What failed first.
        """
        for error in self.errors:
            raise error
        return self

    def sides(self) -> list[tuple[Profile, ...]]:
        """Return the profiles of each device, bundle and delegate: processes of one side, as comparisons call them."""
        found: dict[tuple[str, str, str], list[Profile]] = {}
        for p in self.profiles:
            found.setdefault((p.device, p.artifact["bundle"], str(p.engine["delegate"])), []).append(p)
        order = {bundle.id: index for index, bundle in enumerate(self.plan.bundles)}
        devices = list(dict.fromkeys(p.device for p in self.profiles))
        keys = sorted(found, key=lambda key: (devices.index(key[0]), order[key[1]]))
        return [tuple(found[key]) for key in keys]

    def reference(self, side: tuple[Profile, ...]) -> tuple[Profile, ...] | None:
        """Return the first bundle's side on the same device; None for that itself, and where there is none."""
        first = self.plan.bundles[0].id
        found = [s for s in self.sides() if s[0].device == side[0].device and s[0].artifact["bundle"] == first]
        return None if not found or found[0] == side else found[0]
