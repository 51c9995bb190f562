"""How a machine is doing: clock, load, speed, temperature, power. A sensor that is not there tells nothing."""

from __future__ import annotations

import re
from typing import Any

from edgeferry_devices.knowing.fact import Fact, number, pairs
from edgeferry_runtime.machine import parse_kilobytes, parse_load, parse_throttled, parse_throttling_bits

SANE_C = range(-40, 151)
"""Zones that are asleep tell of -273 or -40 degrees, broken ones of thousands."""
SEVERITIES = ("", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Android's thermal statuses, by their number; none for 0."""


def parse_clock(text: str) -> dict[str, Any]:
    """Read the clock, in seconds since 1970."""
    return {"clock": number(text.strip())}


def clock_skew(clock: int, before: float, after: float) -> float:
    """Return by how many seconds a clock is ahead, when it was read between two times of ours; 0 where it may be right.

    Args:
        clock: What the device told, in whole seconds.
        before: Our clock when we began to ask.
        after: Our clock when we had the answer.
    """
    if clock + 1 < before:
        return round(clock + 1 - before, 1)
    return round(max(0.0, clock - after), 1)


def parse_available(text: str) -> dict[str, Any]:
    """Read the memory that could be used now from ``/proc/meminfo``."""
    return {"memory_available_bytes": parse_kilobytes(text, "MemAvailable")}


def parse_loadavg(text: str) -> dict[str, Any]:
    """Read ``/proc/loadavg``."""
    return {"load1": parse_load(text)}


def parse_uptime(text: str) -> dict[str, Any]:
    """Read ``/proc/uptime``, in seconds."""
    return {"uptime_s": number(text.partition(".")[0])}


def parse_governors(text: str) -> dict[str, Any]:
    """Read the governors of the cores; several where they differ."""
    return {"governor": ", ".join(dict.fromkeys(text.split()))}


def parse_frequencies(text: str) -> dict[str, Any]:
    """Read the frequencies of the cores, in kHz: the fastest one now, and the fastest that any may have."""
    lines = (line.partition(" ") for line in text.splitlines())
    told = [(key, kilohertz) for key, _, value in lines if (kilohertz := number(value)) is not None]
    fastest = {key: max(value for name, value in told if name == key) / 1000 for key, _ in told}
    return {"frequency_mhz": fastest.get("now"), "frequency_max_mhz": fastest.get("max")}


def parse_zones(text: str) -> dict[str, Any]:
    """Read thermal zones, lines of a name and millidegrees: the hottest, of those of the processor where it has any."""
    zones = re.findall(r"^(\S+) (-?\d+)$", text, re.MULTILINE)
    known = {name: int(value) / 1000 for name, value in zones if int(value) // 1000 in SANE_C}
    own = {name: value for name, value in known.items() if "cpu" in name.lower()}
    return {"temperature_c": max((own or known).values(), default=None)}


def parse_firmware(text: str) -> dict[str, Any]:
    """Read what a Raspberry Pi's ``vcgencmd`` and firmware driver tell: ``throttled=0x50005``, ``temp=48.3'C``."""
    told = pairs(text, "=")
    degrees = re.match(r"-?\d+(\.\d+)?", told.get("temp", ""))
    bits = parse_throttling_bits(told["driver"]) if "driver" in told else None
    words = parse_throttled(f"throttled={told['throttled']}") if bits is None and "throttled" in told else bits
    return {"throttled": words, "temperature_c": float(degrees[0]) if degrees else None}


def parse_alarm(text: str) -> dict[str, Any]:
    """Read the alarm of a Raspberry Pi's voltage sensor, ``rpi_volt``, where nothing else tells."""
    told = number(text.strip())
    return {"throttled": None if told is None else ["under-voltage"] * bool(told)}


def parse_battery(text: str) -> dict[str, Any]:
    """Read Android's ``dumpsys battery``: its charge in percent, its temperature, and whether it is being charged."""
    told = pairs(text, ":")
    level, scale, tenths = (number(told.get(key, "")) for key in ("level", "scale", "temperature"))
    powered = [value == "true" for key, value in told.items() if key.endswith(" powered")]
    return {
        "battery_percent": None if level is None else round(100 * level / (scale or 100)),
        "battery_c": None if tenths is None else tenths / 10,
        "charging": any(powered) if powered else None,
    }


def parse_thermal(text: str) -> dict[str, Any]:
    """Read Android's ``dumpsys thermalservice``: the processor's temperature now, and whether heat slows it.

    What is cached there may be hours old, and is not read.
    """
    _, _, current = text.partition("Current temperatures from HAL:")
    readings = re.findall(r"^\s+Temperature\{mValue=(-?[\d.]+), mType=0,", current, re.MULTILINE)
    sane = [value for value in map(float, readings) if int(value) in SANE_C]
    status = re.search(r"^Thermal Status: ([0-6])\s*$", text, re.MULTILINE)
    severity = SEVERITIES[int(status[1])] if status else None
    throttled = None if severity is None else [f"thermal status {severity}"] * bool(severity)
    return {"temperature_c": max(sane, default=None), "throttled": throttled}


CPUS = "/sys/devices/system/cpu/cpu[0-9]*/cpufreq"
ZONES = 'for z in /sys/class/thermal/thermal_zone*; do echo "$(cat "$z/type" | tr " " _) $(cat "$z/temp")"; done'
FREQUENCIES = (
    f'for c in {CPUS}; do echo "now $(cat "$c/scaling_cur_freq")"; echo "max $(cat "$c/cpuinfo_max_freq")"; done'
)
FIRMWARE = (
    'for f in /sys/devices/platform/soc*/*firmware*/get_throttled; do [ -r "$f" ] && echo "driver=$(cat "$f")"; done; '
    "PATH=$PATH:/opt/vc/bin; vcgencmd get_throttled; vcgencmd measure_temp"
)
ALARM = 'for h in /sys/class/hwmon/hwmon*; do [ "$(cat "$h/name")" = rpi_volt ] && cat "$h/in0_lcrit_alarm"; done'

STATE = (
    Fact("clock", "date +%s", parse_clock),
    Fact("available", "cat /proc/meminfo", parse_available),
    Fact("loadavg", "cat /proc/loadavg", parse_loadavg),
    Fact("uptime", "cat /proc/uptime", parse_uptime),
    Fact("governors", f"cat {CPUS}/scaling_governor", parse_governors),
    Fact("frequencies", FREQUENCIES, parse_frequencies),
    Fact("thermal", "dumpsys thermalservice", parse_thermal),
    Fact("zones", ZONES, parse_zones),
    Fact("battery", "dumpsys battery", parse_battery),
    Fact("firmware", FIRMWARE, parse_firmware),
    Fact("alarm", ALARM, parse_alarm),
)
"""In the order in which they are believed."""
