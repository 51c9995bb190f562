"""The Pythons of a device: what they are, which engines they have, and whether these can be imported."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Callable, Mapping
from typing import Any

from edgeferry_devices.knowing.fact import Fact

OURS = "ours"
"""Stands for the Python of our environment, whose path only the device knows."""

ASK = f"""\
seen="|"
for p in "$@"; do
  [ "$p" != {OURS} ] || p="$root/venv/bin/python"
  e=$(command -v "$p") || continue
  r=$(readlink -f "$e" || echo "$e")
  case "$p" in */*) ;; *) case "$seen" in *"|$r|"*) continue;; esac; seen="$seen$r|";; esac
  "$e" "$flag" -c "$probe" "$flag"
done
"""
"""One program of several names is asked once; those that are given by their path are environments, and always asked."""


def probe() -> str:
    """Return the program that each Python runs."""
    return importlib.resources.files("edgeferry_devices.knowing").joinpath("probe.py").read_text(encoding="utf-8")


def parse_pythons(text: str) -> dict[str, Any]:
    """Read one line of JSON for each Python; one that printed something else is left out."""
    found = [_answer(line) for line in text.splitlines() if line.startswith('{"edgeferry":')]
    return {"pythons": [python for python in found if python]}


def _answer(line: str) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(line)["edgeferry"]
        return {key: kind(told[key]) for key, kind in KINDS.items()}
    except (ValueError, KeyError, TypeError):
        return {}


def _version(value: Any) -> list[int]:
    major, minor, micro = map(int, value)
    return [major, minor, micro]


KINDS: Mapping[str, Callable[[Any], Any]] = {
    "python": str,
    "version": _version,
    "system": str,
    "bits": int,
    "machine": str,
    "libc": str,
    "venv": bool,
    "page_size": int,
    "numpy": lambda value: value and str(value),
    "engines": dict,
    "imports": dict,
}
"""What each Python tells, and of which kind it is."""

PYTHONS = (Fact("pythons", ASK, parse_pythons),)
