"""Accelerators: device files and what we may do with them, USB devices, and the libraries that drive them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edgeferry_devices.knowing.fact import Fact

NODES: Mapping[str, str] = {
    "/dev/dri/renderD*": "GPU",
    "/dev/mali*": "Mali GPU",
    "/dev/kgsl-3d0": "Adreno GPU",
    "/dev/nvmap": "NVIDIA GPU",
    "/dev/nvidia[0-9]*": "NVIDIA GPU",
    "/dev/apex_*": "Edge TPU",
    "/dev/hailo*": "Hailo",
    "/dev/accel/accel*": "NPU",
    "/dev/galcore": "VeriSilicon NPU",
}
"""What a device file stands for, by a pattern of its name."""

USB: Mapping[str, str] = {"1a6e:089a": "Edge TPU", "18d1:9302": "Edge TPU", "03e7:2485": "Movidius"}
"""USB ids. The Edge TPU has the first one until its firmware is loaded, and the second one from then on."""

LIBRARIES = (
    *("libedgetpu.so.1", "libvulkan.so.1", "libvulkan.so", "libOpenCL.so.1", "libOpenCL.so", "libcuda.so.1"),
    *("libnvinfer.so.*", "libhailort.so.*", "librknnrt.so"),
)
FOLDERS = (
    *("/lib", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib/*-linux-gnu*", "/usr/lib/*-linux-gnu*"),
    *("/usr/lib/*-linux-gnu*/tegra", "/usr/lib/*-linux-gnu*/nvidia", "/vendor/lib64", "/system/lib64", '"$PREFIX"/lib'),
)


def parse_nodes(text: str) -> dict[str, Any]:
    """Read lines of ``r`` or ``-``, ``w`` or ``-``, the owning group, and a device file."""
    found = re.findall(r"^([r-])([w-]) (\S+) (/\S+)$", text, re.MULTILINE)
    return {"nodes": [_node(path, group, read + write == "rw") for read, write, group, path in found] or None}


def _node(path: str, group: str, usable: bool) -> dict[str, Any]:
    kind = next((what for pattern, what in NODES.items() if _is(path, pattern)), "")
    return {"path": path, "kind": kind, "group": group, "usable": usable}


def _is(path: str, pattern: str) -> bool:
    from fnmatch import fnmatchcase

    return fnmatchcase(path, pattern)


def parse_usb(text: str) -> dict[str, Any]:
    """Read lines of a USB id and whether we may write to it: those that are accelerators."""
    found = [line.split() for line in text.splitlines()]
    known = [(words[0], words[1] == "w") for words in found if len(words) == 2 and words[0] in USB]
    return {"usb": [{"id": name, "kind": USB[name], "usable": usable} for name, usable in known] or None}


def parse_libraries(text: str) -> dict[str, Any]:
    """Read paths of libraries: the first of each name."""
    found: dict[str, str] = {}
    for path in text.splitlines():
        found.setdefault(path.rpartition("/")[2].partition(".so")[0], path)
    return {"libraries": found or None}


def parse_drivers(text: str) -> dict[str, Any]:
    """Read the names of Vulkan's drivers, such as ``broadcom_icd.aarch64.json``."""
    names = sorted({path.rpartition("/")[2].partition("_icd")[0].partition(".")[0] for path in text.splitlines()})
    return {"vulkan_drivers": names or None}


SHOW = (
    'r=-; w=-; [ -r "$n" ] && r=r; [ -w "$n" ] && w=w; '
    'g=$(ls -ld "$n" | { read -r _ _ _ g _; echo "$g"; }); echo "$r$w ${g:--} $n"'
)
USB_LOOP = (
    "for d in /sys/bus/usb/devices/*; do "
    '[ -r "$d/idVendor" ] || continue; n=$(printf "/dev/bus/usb/%03d/%03d" "$(cat "$d/busnum")" "$(cat "$d/devnum")"); '
    'w=-; [ -w "$n" ] && w=w; echo "$(cat "$d/idVendor"):$(cat "$d/idProduct") $w"; done'
)
LIBRARY_LOOP = (
    f"for f in {' '.join(FOLDERS)}; do for l in {' '.join(LIBRARIES)}; do "
    'for p in "$f"/$l; do [ -e "$p" ] && echo "$p"; done; done; done'
)

ACCELERATORS = (
    Fact("nodes", f'for n in {" ".join(NODES)}; do [ -e "$n" ] || continue; {SHOW}; done', parse_nodes),
    Fact("usb", USB_LOOP, parse_usb),
    Fact("libraries", LIBRARY_LOOP, parse_libraries),
    Fact("vulkan", "ls /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json", parse_drivers),
)
