"""Waiting until the machine is cool enough to begin."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeferry_runtime.durations import format_duration
from edgeferry_runtime.errors import UsageError
from edgeferry_runtime.measurement.marks import Mark

LOOK_S = 1.0
TELL_S = 10.0


@dataclass(frozen=True)
class Cooling:
    """How a wait went.

    Attributes:
        target_c: What was waited for.
        start_c: The temperature at its beginning.
        end_c: The temperature at its end.
        waited_s: How long it took.
    """

    target_c: float
    start_c: float
    end_c: float
    waited_s: float

    @property
    def mark(self) -> Mark | None:
        """What speaks against a run that begins now; None where it is cool enough."""
        if self.end_c <= self.target_c:
            return None
        waited = format_duration(self.waited_s)
        return Mark("warm", f"still {self.end_c:.1f} °C after {waited} of cooling, and not {self.target_c:g} °C")


@dataclass(frozen=True)
class Time:
    """What time it is, and how to let it pass."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def cool(
    read: Callable[[], Mapping[str, Any]], target_c: float, limit_s: float, say: Callable[[str], None], clock: Time
) -> Cooling:
    """Wait until the hottest sensor is at the target or below, or until the time is over.

    Args:
        read: Reads the machine's state; see `edgeferry_runtime.machine.state`.
        target_c: Degrees Celsius.
        limit_s: Seconds to wait at most.
        say: Takes the progress, every ten seconds.
        clock: Tells the time.

    Raises:
        UsageError: If the machine has no temperature sensor that can be read.
    """
    begin = told = clock.now()
    start = current = _temperature(read)
    while current > target_c and clock.now() - begin < limit_s:
        if current is start or clock.now() - told >= TELL_S:
            told = clock.now()
            say(f"cooling down: {current:.1f} °C, waiting for {target_c:g} °C")
        clock.sleep(min(LOOK_S, limit_s))
        current = _temperature(read)
    return Cooling(target_c, start, current, clock.now() - begin)


def _temperature(read: Callable[[], Mapping[str, Any]]) -> float:
    found = read().get("temperature_c")
    if found is None:
        reason = "needs a temperature sensor, and this machine has none that can be read"
        raise UsageError("--cool-to", reason, "leave it out")
    return float(found)
