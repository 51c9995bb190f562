"""pip on the host, which resolves and downloads wheels for the Python of a device."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeferry_devices.installation import Installation
from edgeferry_devices.lockfile import Lock, Pin, from_report
from edgeferry_runtime.errors import DeviceRequirementError, MissingExtraError

TIMEOUT_S = 600
QUIET = ("--quiet", "--disable-pip-version-check", "--no-input")
CHECK_INDEX = "check this machine's access to the package index"
DIFFERS = "do not use this index before you know why"


def resolve(device: str, planned: Installation, wanted: Sequence[str], wheels: Path | None = None) -> Lock:
    """Choose wheels for some requirements; nothing is kept.

    Args:
        device: The device's name.
        planned: For which Python.
        wanted: pip's requirements.
        wheels: A folder to choose from; the network is not used then. None asks the index.

    Raises:
        DeviceRequirementError: If no wheel fits, the index cannot be reached, or it tells no SHA-256.
        MissingExtraError: If pip is not installed on the host.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        never = ["--dry-run", "--ignore-installed", "--target", f"{folder}/never", "--report", str(report)]
        _run(device, planned, ["install", *never, *_target(planned), *_source(wheels), *wanted], wheels is not None)
        try:
            return from_report(json.loads(report.read_text(encoding="utf-8")), wanted)
        except (ValueError, KeyError) as error:
            raise DeviceRequirementError(device, f"pip's report cannot be used ({error})", "update pip here") from error


def fetch(device: str, planned: Installation, pins: Sequence[Pin], folder: Path) -> None:
    """Download wheels into a folder; pip refuses what is not of the pinned SHA-256.

    Raises:
        DeviceRequirementError: If one cannot be had, or is not what it was.
        MissingExtraError: If pip is not installed on the host.
    """
    lines = [f"{pin.name}=={pin.version} --hash=sha256:{pin.sha256}\n" for pin in pins]
    exact = folder / "requirements.txt"
    exact.write_text("".join(lines), encoding="utf-8")
    strict = ["--no-deps", "--require-hashes", "--dest", str(folder), "-r", str(exact)]
    _run(device, planned, ["download", *_target(planned), *strict], offline=False)
    exact.unlink()


def by_hand(planned: Installation, wanted: Sequence[str], folder: Path) -> str:
    """Return the command that fetches wheels on another machine."""
    return shlex.join(["python3", "-m", "pip", "download", *_target(planned), "--dest", folder.name, *wanted])


def _target(planned: Installation) -> list[str]:
    version = ".".join(str(part) for part in planned.platform.version[:2])
    tags = [word for tag in planned.platform.tags() for word in ("--platform", tag)]
    alone = ["--no-deps"] if planned.system_site_packages else []
    return ["--only-binary=:all:", "--implementation", "cp", "--python-version", version, *tags, *alone]


def _source(wheels: Path | None) -> list[str]:
    return ["--no-index", "--find-links", str(wheels)] if wheels else []


def _run(device: str, planned: Installation, arguments: Sequence[str], offline: bool) -> None:
    if importlib.util.find_spec("pip") is None:
        raise MissingExtraError("downloading wheels for devices", "devices", "pip")
    command, *rest = arguments
    argv = [sys.executable, "-m", "pip", command, *QUIET, *rest]
    how: dict[str, Any] = {"capture_output": True, "text": True, "timeout": TIMEOUT_S}
    try:
        done = subprocess.run(argv, check=False, env=_environment(offline), **how)
    except subprocess.TimeoutExpired as error:
        reason = f"the download of its wheels took longer than {TIMEOUT_S} s"
        raise DeviceRequirementError(device, reason, CHECK_INDEX) from error
    if done.returncode:
        raise DeviceRequirementError(device, *_explain(planned, done.stderr))


def _environment(offline: bool) -> Mapping[str, str]:
    """Return pip's environment; offline, none of the user's settings may name a place in the network."""
    kept = {name: value for name, value in os.environ.items() if not (offline and name.startswith("PIP_"))}
    ours = {"PYTHONSAFEPATH": "1", "PYTHONWARNINGS": "ignore", "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
    return {**kept, **ours, **({"PIP_CONFIG_FILE": os.devnull} if offline else {})}


def _explain(planned: Installation, stderr: str) -> tuple[str, str]:
    """Turn pip's complaint into a reason and a way out."""
    lines = redact(stderr).splitlines()
    errors = [line for line in lines if line.startswith("ERROR:")]
    last = (errors or lines or ["it printed nothing"])[-1].removeprefix("ERROR: ")[:300]
    if "THESE PACKAGES DO NOT MATCH THE HASHES" in stderr:
        return "a wheel is not what the index promised: its SHA-256 differs", DIFFERS
    if "No matching distribution" in last:
        platform = planned.platform
        what = f"Python {platform.dotted} on {platform.arch} with {platform.libc or platform.system}"
        return f"no wheel fits {what}: {last}", f"{CHECK_INDEX}, or use another Python there"
    return f"its wheels could not be downloaded: {last}", CHECK_INDEX


def redact(text: str) -> str:
    """Remove every URL: one of an index may hold a password or a token."""
    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\",)]+", "(URL)", text)
