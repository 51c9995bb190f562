"""What a machine is: board, processor, memory, system. These facts stay as they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from edgeferry_devices.knowing.fact import Fact, number, pairs
from edgeferry_runtime.machine import parse_kilobytes, parse_os_name

CORES: Mapping[str, str] = {
    "0xb76": "ARM1176",
    "0xc07": "Cortex-A7",
    "0xc0f": "Cortex-A15",
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
    "0xd48": "Cortex-X2",
    "0xd4d": "Cortex-A715",
    "0xd4e": "Cortex-X3",
}
"""``CPU part`` of implementer 0x41, Arm. Source: the MIDR_EL1 register of each core's reference manual."""

PROPERTIES = (
    "ro.product.model",
    "ro.product.manufacturer",
    "ro.soc.manufacturer",
    "ro.soc.model",
    "ro.board.platform",
    "ro.build.version.release",
    "ro.build.version.sdk",
    "ro.product.cpu.abi",
)


def parse_model(text: str) -> dict[str, Any]:
    """Read the device tree's model, such as ``Raspberry Pi 4 Model B Rev 1.5``."""
    return {"board": text.strip("\0\n ")}


def parse_compatible(text: str) -> dict[str, Any]:
    """Read the SoC from the device tree's list of compatible machines, whose last line is the most general one."""
    named = [line.strip() for line in text.replace("\0", "\n").splitlines() if "," in line]
    vendor, _, soc = named[-1].partition(",") if named else ("", "", "")
    return {"soc": soc.upper() if vendor == "brcm" else soc, "soc_vendor": vendor}


def parse_properties(text: str) -> dict[str, Any]:
    """Read Android's properties, lines such as ``[ro.product.model]: [Pixel 7]``."""
    told = dict(re.findall(r"^\[([\w.]+)\]: \[(.+)\]$", text, re.MULTILINE))
    board = f"{told.get('ro.product.manufacturer', '')} {told.get('ro.product.model', '')}".strip()
    release = told.get("ro.build.version.release")
    return {
        "board": board,
        "soc": told.get("ro.soc.model") or told.get("ro.board.platform"),
        "soc_vendor": told.get("ro.soc.manufacturer"),
        "os": f"Android {release}" if release else None,
        "android_api": number(told.get("ro.build.version.sdk", "")),
    }


def parse_cpuinfo(text: str) -> dict[str, Any]:
    """Read ``/proc/cpuinfo``: the kinds of core, what all of them can do, and on a Raspberry Pi the board.

    ``Hardware`` is not read: every Raspberry Pi says BCM2835 there.
    """
    lines = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in text.splitlines())]
    features = [set(value.split()) for key, value in lines if key in ("Features", "flags")]
    parts = dict.fromkeys(CORES.get(value, f"part {value}") for key, value in lines if key == "CPU part")
    first = pairs(text, ":")
    return {
        "board": first.get("Model"),
        "cpu": ", ".join(parts) or first.get("model name"),
        "features": sorted(set.intersection(*features)) if features else None,
        "cores": sum(key == "processor" for key, _ in lines) or None,
    }


def parse_product(text: str) -> dict[str, Any]:
    """Read the product that a PC's firmware names."""
    return {"board": text.strip()}


def parse_uname(text: str) -> dict[str, Any]:
    """Read the kernel's name, release and architecture; the latter need not be that of the programs."""
    told = pairs(text)
    return {"system": told.get("system"), "kernel": told.get("release"), "arch": told.get("machine")}


def parse_cores(text: str) -> dict[str, Any]:
    """Read how many cores there are for us."""
    return {"cores": number(text.strip())}


def parse_userland(text: str) -> dict[str, Any]:
    """Read what ``getconf`` tells of the programs: bits, page size in bytes, and C library."""
    told = pairs(text)
    return {
        "userland_bits": number(told.get("bits", "")),
        "page_size": number(told.get("page", "")),
        "libc": parse_libc(told.get("libc", ""), told.get("ldd", "")),
    }


def parse_libc(getconf: str, ldd: str) -> str | None:
    """Name the C library, such as ``glibc 2.36`` or ``musl``; None where neither says."""
    if getconf.startswith("glibc "):
        return getconf
    if "musl" in ldd:
        return "musl"
    found = re.search(r"(?:GNU libc|GLIBC)\D* (2\.\d+)", ldd)
    return f"glibc {found[1]}" if found else None


def parse_os(text: str) -> dict[str, Any]:
    """Read ``/etc/os-release``."""
    return {"os": parse_os_name(text)}


def parse_tegra(text: str) -> dict[str, Any]:
    """Read ``/etc/nv_tegra_release``: the release of NVIDIA's Jetson Linux, such as ``R36.4.3``."""
    found = re.search(r"^# (R\d+) \(release\), REVISION: ([\d.]+)", text, re.MULTILINE)
    return {"jetson_linux": f"{found[1]}.{found[2]}" if found else None}


def parse_memory(text: str) -> dict[str, Any]:
    """Read ``/proc/meminfo``."""
    return {"memory_bytes": parse_kilobytes(text, "MemTotal")}


def parse_termux(text: str) -> dict[str, Any]:
    """Read Termux's folder of programs, where it is what runs."""
    prefix = text.strip()
    return {"termux": prefix if "com.termux" in prefix else None}


def _patterns(names: Iterable[str]) -> str:
    return " ".join(f"-e '[{name}]'" for name in names)


def _tree(name: str, change: str) -> str:
    folders = "/proc/device-tree", "/sys/firmware/devicetree/base"
    return " || ".join(f"tr {change} < {folder}/{name}" for folder in folders)


MACHINE = (
    Fact("model", _tree("model", "-d '\\000'"), parse_model),
    Fact("compatible", _tree("compatible", "'\\000' '\\n'"), parse_compatible),
    Fact("getprop", f"getprop | grep -F {_patterns(PROPERTIES)}", parse_properties),
    Fact("termux", 'printf "%s\\n" "$PREFIX"', parse_termux),
    Fact("nproc", "nproc || getconf _NPROCESSORS_ONLN", parse_cores),
    Fact("cpuinfo", "cat /proc/cpuinfo", parse_cpuinfo),
    Fact("product", "cat /sys/class/dmi/id/product_name", parse_product),
    Fact("uname", 'echo "system $(uname -s)"; echo "release $(uname -r)"; echo "machine $(uname -m)"', parse_uname),
    Fact(
        "userland",
        'echo "bits $(getconf LONG_BIT)"; echo "page $(getconf PAGE_SIZE || getconf PAGESIZE)"; '
        'echo "libc $(getconf GNU_LIBC_VERSION)"; echo "ldd $(ldd --version 2>&1 | head -n 1)"',
        parse_userland,
    ),
    Fact("os-release", "cat /etc/os-release || cat /usr/lib/os-release", parse_os),
    Fact("tegra", "cat /etc/nv_tegra_release", parse_tegra),
    Fact("meminfo", "cat /proc/meminfo", parse_memory),
)
"""In the order in which they are believed."""
