"""Our folder on a device: what is there, who may write, how much fits."""

from __future__ import annotations

import json
from typing import Any

from edgeferry_devices.knowing.fact import Fact, number, pairs


def parse_folder(text: str) -> dict[str, Any]:
    """Read what was tried on our folder, or on its nearest parent that exists."""
    told = pairs(text)
    found: dict[str, Any] = {key: told[key] == "yes" for key in ("folder", "writable", "ours") if key in told}
    return {**found, "root": told.get("root"), "near": told.get("near"), "holds": told.get("holds")}


def parse_runtime(text: str) -> dict[str, Any]:
    """Read the version of our runtime, and which parts are there, from the stamp of an installation that is whole."""
    try:
        stamp = json.loads(text)
        if not stamp["runtime"]:
            return {}
        return {"runtime": str(stamp["runtime"]), "parts": [str(part) for part in stamp.get("formats", ())]}
    except (ValueError, KeyError, TypeError):
        return {}


def parse_space(text: str) -> dict[str, Any]:
    """Read ``df -Pk``: bytes in all, bytes free for us, and where the file system is mounted."""
    words = (text.strip().splitlines() or [""])[-1].split(None, 5)
    total, free = (number(words[i]) if len(words) == 6 else None for i in (1, 3))
    if total is None or free is None:
        return {}
    return {"total_bytes": total * 1024, "free_bytes": free * 1024, "mount": words[5]}


def parse_mount(text: str) -> dict[str, Any]:
    """Read the flags of the mount, such as ``ro`` and ``noexec``; the last one made on that folder counts."""
    lines = text.strip().splitlines()
    return {"mount_options": [word for word in lines[-1].split(",") if "=" not in word] if lines else None}


def parse_account(text: str) -> dict[str, Any]:
    """Read who we are there."""
    told = pairs(text)
    return {"user": told.get("user"), "groups": told.get("groups", "").split() or None, "home": told.get("home")}


FOLDER = (
    Fact(
        "folder",
        'echo "root $root"; echo "near $near"; [ -d "$near" ] && echo "folder yes" || echo "folder no"; '
        '[ -w "$near" ] && echo "writable yes" || echo "writable no"; '
        '[ -e "$root/.edgeferry-device" ] && echo "ours yes" || echo "ours no"; '
        'echo "holds $(ls -A "$root" | head -n 1)"',
        parse_folder,
    ),
    Fact("stamp", 'cat "$root/venv/edgeferry.json"', parse_runtime),
    Fact("space", 'df -Pk "$near"', parse_space),
    Fact(
        "mount",
        'm=$(df -Pk "$near" | { read -r _; read -r _ _ _ _ _ at; echo "$at"; }); '
        'while read -r _ at _ how _; do [ "$at" = "$m" ] && echo "$how"; done < /proc/mounts',
        parse_mount,
    ),
    Fact("account", 'echo "user $(id -un)"; echo "groups $(id -Gn)"; echo "home $HOME"', parse_account),
)
