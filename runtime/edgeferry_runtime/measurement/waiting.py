"""Waiting until the machine is cool and idle enough to begin."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeferry_runtime.durations import format_duration
from edgeferry_runtime.errors import UsageError
from edgeferry_runtime.measurement.marks import Mark

LOOK_S = 1.0
TELL_S = 10.0

Read = Callable[[], Mapping[str, Any]]
"""Reads the machine's state; see `edgeferry_runtime.machine.state`."""


@dataclass(frozen=True)
class Reading:
    """What of a machine's state can be waited for.

    Attributes:
        key: Its key in the state.
        unit: The end of its keys in a profile.
        option: How it is asked for.
        sensor: What a machine needs to tell it.
        wording: How one value is written.
        mark: What a run is called that began above it.
    """

    key: str
    unit: str
    option: str
    sensor: str
    wording: str
    mark: str

    def of(self, state: Mapping[str, Any]) -> float:
        """Take it from a state.

        Raises:
            UsageError: If the machine does not tell it.
        """
        if self.key not in state:
            reason = f"needs {self.sensor}, and this machine has none that can be read"
            raise UsageError(self.option, reason, "leave it out")
        return float(state[self.key])


TEMPERATURE = Reading("temperature_c", "c", "--cool-to", "a temperature sensor", "{:.4g} °C", "warm")
LOAD = Reading("load1", "load", "--max-load", "the load of the last minute", "load {:.4g}", "busy")


@dataclass(frozen=True)
class Wait:
    """How a wait for one reading went.

    Attributes:
        reading: What was waited for.
        target: At or below which value it counts as reached.
        start: The value at its beginning.
        end: The value at its end.
        waited_s: How long it took.
    """

    reading: Reading
    target: float
    start: float
    end: float
    waited_s: float

    @property
    def mark(self) -> Mark | None:
        """What speaks against a run that begins now; None where the target was reached."""
        if self.end <= self.target:
            return None
        end, target = self.reading.wording.format(self.end), self.reading.wording.format(self.target)
        waited = format_duration(self.waited_s)
        return Mark(self.reading.mark, f"still {end} after {waited} of waiting, and not {target}")

    def to_dict(self) -> dict[str, float]:
        """Return the JSON form, such as ``target_c``, ``start_c``, ``end_c`` and ``waited_s``."""
        values = {"target": self.target, "start": self.start, "end": self.end}
        return {**{f"{key}_{self.reading.unit}": value for key, value in values.items()}, "waited_s": self.waited_s}


@dataclass(frozen=True)
class Time:
    """What time it is, and how to let it pass."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def wait(
    read: Read, targets: Mapping[Reading, float], limit_s: float, say: Callable[[str], None], clock: Time
) -> tuple[Wait, ...]:
    """Wait until every reading is at its target or below at the same time, or until the time is over.

    Args:
        read: Reads the machine's state.
        targets: What to wait for, and the values.
        limit_s: Seconds to wait at most.
        say: Takes the progress, every ten seconds.
        clock: Tells the time.

    Returns:
        One for each target.

    Raises:
        UsageError: If the machine does not tell one of them.
    """
    begin, told = clock.now(), -TELL_S
    start = current = _values(read, targets)
    while (above := [r for r in targets if current[r] > targets[r]]) and clock.now() - begin < limit_s:
        if clock.now() - begin - told >= TELL_S:
            told = clock.now() - begin
            say(_progress(above, current, targets))
        clock.sleep(min(LOOK_S, limit_s))
        current = _values(read, targets)
    waited = clock.now() - begin
    return tuple(Wait(r, targets[r], start[r], current[r], waited) for r in targets)


def _values(read: Read, targets: Mapping[Reading, float]) -> dict[Reading, float]:
    state = read() if targets else {}
    return {reading: reading.of(state) for reading in targets}


def _progress(above: Sequence[Reading], current: Mapping[Reading, float], targets: Mapping[Reading, float]) -> str:
    words = (f"{r.wording.format(current[r])}, waiting for {r.wording.format(targets[r])}" for r in above)
    return "; ".join(words)
