"""The unit of systemd, as text. Whatever is data in it is quoted, so that no path and no option means anything else.

Source: systemd.service(5), "Command lines", and systemd.syntax(7), "Quoting": a word in double quotes, C escapes in it.
"""

from __future__ import annotations

import json
import os
import string
from collections.abc import Sequence
from pathlib import Path

from edgeferry_runtime.serving.token import VARIABLE

NAME = "edgeferry.service"
MARK = "# Edgeferry's service for"
PLAIN = frozenset((string.ascii_letters + string.digits + "/._-+=:,@~^()[]{}<>?*&;|!# ").encode())
"""Bytes that mean nothing between double quotes; a percent sign is doubled, all others are escaped."""
TEMPLATE = """\
{mark}
[Unit]
Description=Edgeferry: serves the bundles of this device
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=notify
NotifyAccess=main
ExecStart=:/bin/sh -c 'cd "$0" && export TMPDIR="$0" && exec "$@"' {words}
UnsetEnvironment={token}
WatchdogSec=30
Restart=on-failure
RestartSec=2
TimeoutStartSec=300
TimeoutStopSec={stop_s:g}
KillSignal=SIGTERM
MemoryMax=80%
NoNewPrivileges=yes
UMask=0077

[Install]
WantedBy=default.target
"""
"""The shell changes the folder, has temporary files lie there, and becomes the server: systemd itself starts no program
whose path holds a quote. The colon keeps it from replacing variables."""


def unit_text(root: Path, folder: Path, command: Sequence[str], stop_s: float = 45.0) -> str:
    """Return the unit that keeps a command running.

    Args:
        root: The device's folder, whose service it is.
        folder: Where the command runs, and has its temporary files.
        command: The program and its arguments.
        stop_s: How long it may take to end.
    """
    words = " ".join(quote(word) for word in (str(folder), *command))
    return TEMPLATE.format(mark=mark(root), words=words, stop_s=stop_s, token=VARIABLE)


def mark(root: Path) -> str:
    """Return the first line of a unit that is ours, and that of this folder."""
    return f"{MARK} {json.dumps(str(root))}"


def owner(text: str) -> str:
    """Return whose service a unit is: the device's folder, or nothing where the unit is not ours."""
    first = text.partition("\n")[0]
    try:
        return str(json.loads(first.removeprefix(MARK))) if first.startswith(MARK) else ""
    except ValueError:
        return ""


def quote(word: str) -> str:
    """Return a word of a command as systemd reads it back."""
    return '"' + "".join(_escape(byte) for byte in os.fsencode(word)) + '"'


def _escape(byte: int) -> str:
    if byte == ord("%"):
        return "%%"
    return chr(byte) if byte in PLAIN else f"\\x{byte:02x}"
