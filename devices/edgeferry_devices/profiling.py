"""Measures bundles on devices, in turn, each time in a fresh process there, and keeps every profile.

Devices are measured at once, bundles on one device one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from edgeferry_devices import history
from edgeferry_devices.asking import Secrets
from edgeferry_devices.client import AgentClient
from edgeferry_devices.device import Device, Say, silent
from edgeferry_devices.each import Pace, each
from edgeferry_devices.foreign.binary import Binary
from edgeferry_devices.foreign.measuring import measure as measure_by
from edgeferry_devices.pushing import push_with
from edgeferry_devices.selecting import select
from edgeferry_devices.series import Attempt, Plan, Series
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import (
    DeviceBusyError,
    DeviceRequirementError,
    DeviceTimeoutError,
    EdgeferryError,
    MissingExtraError,
    RemoteCommandError,
    UnreachableError,
)
from edgeferry_runtime.profile import Profile

if TYPE_CHECKING:
    from edgeferry_runtime.benchmark import BenchOptions

SPARE_S = 600.0
"""Seconds that loading may take beside what the options allow."""
LOST = (UnreachableError, DeviceTimeoutError, RemoteCommandError)
"""After these a device is not asked again."""
NO_ENGINE = (DeviceRequirementError, MissingExtraError)


def profile(
    bundles: Sequence[Bundle],
    devices: Sequence[str],
    options: BenchOptions | None = None,
    rounds: int | None = None,
    say: Say = silent,
    secrets: Secrets | None = None,
) -> Series:
    """Measure bundles on each device; they are pushed first where they are not up to date.

    Every profile is kept; see `edgeferry_devices.history`. Of two bundles of one name, the later one is the current
    release afterwards.

    Args:
        bundles: The bundles.
        devices: What `select` takes; a device that fails does not stop the others, nor does a bundle that fails on one.
        options: How to measure; without them as ``ferry profile`` does.
        rounds: How often, in turn; without it once, and twice where there are several bundles.
        say: Takes the progress.
        secrets: Where passphrases and passwords come from; without it nobody is asked.

    Raises:
        UsageError: If there is no bundle, one is given twice, or more of one name than a device keeps.
        UnknownNameError: If there is no such device or group.
        BundleError: If a bundle was changed since it was made.
    """
    from edgeferry_runtime.benchmark import BenchOptions

    plan = Plan(tuple(bundles), options or BenchOptions(), rounds or min(len(bundles), 2))
    return measure(plan, select(devices), None, say, secrets)


def measure(
    plan: Plan, devices: Sequence[str], pace: Pace | None = None, say: Say = silent, secrets: Secrets | None = None
) -> Series:
    """Measure what was planned on each device; see `profile`.

    Args:
        plan: What to measure.
        devices: Names of devices.
        pace: How many at once.
        say: Takes the progress.
        secrets: Where passphrases and passwords come from; without it nobody is asked.

    Raises:
        UsageError, BundleError: What `Plan.check` raises.
    """
    plan.check()
    attempts: dict[str, list[Attempt]] = {name: [] for name in devices}

    def work(device: Device, tell: Say) -> None:
        visit(plan, device, attempts[device.name], tell)
        for attempt in attempts[device.name]:
            if attempt.error:
                raise attempt.error

    outcomes = each(devices, work, pace, say, secrets)
    for outcome in outcomes:
        if outcome.error not in [attempt.error for attempt in attempts[outcome.device]]:
            attempts[outcome.device].append(Attempt(outcome.device, error=outcome.error))
    return Series(plan, tuple(attempt for found in attempts.values() for attempt in found), tuple(outcomes))


def visit(plan: Plan, device: Device, attempts: list[Attempt], say: Say = silent) -> None:
    """Measure on one device, over one connection; see `profile`.

    Args:
        plan: What to measure.
        device: The device.
        attempts: Takes what was measured, and what failed of one bundle alone, as it comes.
        say: Takes the progress.

    Raises:
        EdgeferryError: What ended the visit.
    """
    _Visit(plan, device, say, attempts).make()


@dataclass(frozen=True)
class _Visit:
    """One device while it is measured on.

    Attributes:
        plan: What to measure.
        device: The device.
        say: Takes the progress.
        attempts: What was done so far.
        failed: Ids of bundles that are not tried again.
    """

    plan: Plan
    device: Device
    say: Say
    attempts: list[Attempt]
    failed: set[str] = field(default_factory=set)

    def make(self) -> None:
        """Push every bundle, then measure them in turn, through one agent; without one, by the user's program."""
        if self.plan.binary:
            self._measure_by(self.plan.binary)
            return
        with self._open_agent() as agent:
            for bundle in self._left():
                self._try(bundle, 0, partial(push_with, agent, bundle, self.device, self.say))
            for turn, bundle in self.plan.turns():
                if bundle in self._left():
                    self._try(bundle, turn, partial(self._measure, agent, bundle, turn))

    def _measure_by(self, binary: Binary) -> None:
        for turn, bundle in self.plan.turns():
            if bundle in self._left():
                self._try(bundle, turn, partial(self._measure_foreign, binary, bundle, turn))

    def _measure_foreign(self, binary: Binary, bundle: Bundle, turn: int) -> None:
        measured = measure_by(self.device, bundle, binary, self.plan.options, self.say)
        self.attempts.append(_keep(Attempt(self.device.name, bundle, turn, measured), self.plan.run))

    def _left(self) -> list[Bundle]:
        return [bundle for bundle in self.plan.bundles if bundle.id not in self.failed]

    def _try(self, bundle: Bundle, turn: int, work: Callable[[], object]) -> None:
        """Do some work on a bundle; it is left out once that failed, but for a turn in which the device was busy."""
        try:
            work()
        except LOST:
            raise
        except EdgeferryError as error:
            self.attempts.append(Attempt(self.device.name, bundle, turn, error=error))
            if turn == 0 or not isinstance(error, DeviceBusyError):
                self.failed.add(bundle.id)

    def _open_agent(self) -> AgentClient:
        """Start an agent with the engines of all bundles, or of those for which there is one."""
        formats = sorted({bundle.manifest.format for bundle in self.plan.bundles})
        try:
            return self.device.open_agent(formats, self.say)
        except NO_ENGINE:
            if len(formats) == 1:
                raise
        for bundle in self.plan.bundles:
            self._try(bundle, 0, partial(self._check_engine, bundle))
        return self.device.open_agent(sorted({bundle.manifest.format for bundle in self._left()}), self.say)

    def _check_engine(self, bundle: Bundle) -> None:
        self.device.open_agent([bundle.manifest.format], self.say).close()

    def _measure(self, agent: AgentClient, bundle: Bundle, turn: int) -> None:
        options, name = self.plan.options, self.device.name
        where = f"round {turn} of {self.plan.rounds}: " if self.plan.rounds > 1 else ""
        self.say(f"{name}: {where}measuring {bundle.manifest.name}")
        measured = agent.take(
            "bench",
            timeout=options.longest_secs + SPARE_S,
            say=self.say,
            name=bundle.manifest.name,
            id=bundle.id,
            options=asdict(options),
            device=name,
        )
        self.attempts.append(_keep(Attempt(name, bundle, turn, Profile.from_dict(measured)), self.plan.run))


def _keep(attempt: Attempt, run: str) -> Attempt:
    """Note a profile in the history; where that refuses, what was measured is not lost."""
    assert attempt.profile
    try:
        return replace(attempt, path=history.record(attempt.profile, run))
    except OSError as error:
        reason = f"could not be kept ({error.strerror})"
        fix = f"make {error.filename or history.folder()} writable, and free some space"
        return replace(attempt, error=EdgeferryError(f"profile of {attempt.device}", reason, fix))
