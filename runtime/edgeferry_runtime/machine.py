"""This machine: what it is, and how it is doing. Read from files, each by a parser of its own."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RUNTIMES = ("", "-gpu", "-openvino", "-webgpu", "-qnn", "-migraphx", "-directml")
"""What follows ``onnxruntime`` in the names of its distributions, each of which brings other providers."""

ENGINES: Mapping[str, Sequence[str]] = {
    "ai_edge_litert": ("ai-edge-litert",),
    "tflite_runtime": ("tflite-runtime",),
    "tensorflow.lite": ("tensorflow",),
    "onnxruntime": tuple(f"onnxruntime{ending}" for ending in RUNTIMES),
}
"""By engine name, the distributions that bring it."""

THROTTLING: Mapping[int, str] = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
    16: "under-voltage since boot",
    17: "frequency capped since boot",
    18: "throttled since boot",
    19: "soft temperature limit since boot",
}
"""Bits of ``vcgencmd get_throttled``. Source: Raspberry Pi documentation, "vcgencmd"."""

ROOT = Path("/")


def describe(root: Path = ROOT) -> dict[str, Any]:
    """Tell what this machine is.

    Args:
        root: Where its files lie.

    Returns:
        ``board``, ``arch``, ``userland_bits``, ``cores``, ``python``, ``memory_bytes``, ``os``, ``kernel`` and
        ``engines`` (version by name, found without importing them); None where the machine does not tell.
    """
    cpuinfo = _read(root / "proc/cpuinfo")
    return {
        "board": _read(root / "proc/device-tree/model").strip("\0\n ") or parse_cpu_model(cpuinfo),
        "arch": platform.machine(),
        "userland_bits": struct.calcsize("P") * 8,
        "cores": cores(),
        "python": platform.python_version(),
        "memory_bytes": parse_kilobytes(_read(root / "proc/meminfo"), "MemTotal"),
        "os": parse_os_name(_read(root / "etc/os-release")) or platform.system(),
        "kernel": platform.release(),
        "engines": installed_engines(),
    }


def state(root: Path = ROOT) -> dict[str, Any]:
    """Tell how this machine is doing.

    Args:
        root: Where its files lie.

    Returns:
        ``temperature_c`` (the hottest zone), ``frequency_mhz`` (the fastest core), ``governor``, ``throttled``
        (a list of words, empty where all is well) and ``load1``; only those that could be read.
    """
    cpus = root / "sys/devices/system/cpu"
    readings = {
        "temperature_c": _highest(root / "sys/class/thermal", "thermal_zone*/temp", 1000),
        "frequency_mhz": _highest(cpus, "cpu[0-9]*/cpufreq/scaling_cur_freq", 1000),
        "governor": _read(cpus / "cpu0/cpufreq/scaling_governor").strip() or None,
        "throttled": _throttled(root),
        "load1": parse_load(_read(root / "proc/loadavg")),
    }
    return {key: value for key, value in readings.items() if value is not None}


def memory(root: Path = ROOT) -> dict[str, Any]:
    """Tell this process's resident memory now (``rss_bytes``) and at its highest (``peak_rss_bytes``)."""
    status = _read(root / "proc/self/status")
    return {
        "rss_bytes": parse_kilobytes(status, "VmRSS"),
        "peak_rss_bytes": parse_kilobytes(status, "VmHWM") or _peak_by_rusage(),
    }


def installed_engines() -> dict[str, str]:
    """Return the version of each engine that is installed, importing none."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str] = {}
    for name, distributions in ENGINES.items():
        for distribution in distributions:
            with contextlib.suppress(PackageNotFoundError):
                found.setdefault(name, version(distribution))
    return found


def has_engine(name: str, version: str) -> bool:
    """Tell whether an engine of this version is installed: mostly by the names of folders, forty times as quickly."""
    projects = (distribution.replace("-", "_") for distribution in ENGINES.get(name, ()))
    folders = [f"{project}-{version}.dist-info" for project in projects]
    if any((Path(place) / folder).is_dir() for place in sys.path for folder in folders):
        return True
    return installed_engines().get(name) == version


def parse_cpu_model(cpuinfo: str) -> str | None:
    """Read the board (``Model``, on a Raspberry Pi) or the processor (``model name``) from ``/proc/cpuinfo``."""
    facts: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            facts.setdefault(key.strip(), value.strip())
    return facts.get("Model") or facts.get("model name") or None


def parse_kilobytes(text: str, key: str) -> int | None:
    """Read a line such as ``MemTotal:  947744 kB`` as bytes."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == key and value.split()[1:] == ["kB"] and value.split()[0].isdecimal():
            return int(value.split()[0]) * 1024
    return None


def parse_os_name(os_release: str) -> str | None:
    """Read ``PRETTY_NAME`` from ``/etc/os-release``."""
    for line in os_release.splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip("\"'") or None
    return None


def parse_throttled(text: str) -> list[str] | None:
    """Read ``throttled=0x50005`` as words; None where the text is not of that form."""
    name, _, value = text.strip().partition("=")
    return parse_throttling_bits(value) if name == "throttled" else None


def parse_throttling_bits(text: str) -> list[str] | None:
    """Read the same bits as the kernel's driver gives them, ``50005``; None where the text is no hexadecimal."""
    try:
        bits = int(text, 16)
    except ValueError:
        return None
    return [word for bit, word in THROTTLING.items() if bits >> bit & 1]


def parse_load(loadavg: str) -> float | None:
    """Read the one-minute average from ``/proc/loadavg``."""
    return _number(loadavg.partition(" ")[0])


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _highest(folder: Path, pattern: str, divisor: int) -> float | None:
    readings = [_number(_read(path)) for path in sorted(folder.glob(pattern))]
    known = [reading / divisor for reading in readings if reading is not None]
    return max(known, default=None)


def _read(path: Path) -> str:
    """Return a file's text, or nothing: sensors come, go and refuse."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _throttled(root: Path) -> list[str] | None:
    """Ask the firmware's driver, which costs no process, or else vcgencmd.

    Source: Raspberry Pi's kernel, drivers/firmware/raspberrypi.c, ``get_throttled``.
    """
    files = sorted((root / "sys/devices/platform/soc").glob("*firmware*/get_throttled"))
    words = parse_throttling_bits(_read(files[0])) if files else None
    return parse_throttled(_vcgencmd()) if words is None and root == ROOT else words


def _vcgencmd() -> str:
    tool = shutil.which("vcgencmd")
    if not tool:
        return ""
    try:
        return subprocess.run([tool, "get_throttled"], capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _peak_by_rusage() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
