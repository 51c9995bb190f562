"""Wheels for a device's Python, downloaded on the host by pip and kept in a cache: the device needs no network."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeferry_devices.places import cache_dir
from edgeferry_devices.platforms import LITERT_GLIBC, Platform
from edgeferry_devices.wheel import build_runtime_wheel
from edgeferry_runtime.artifact_files import sha256_file
from edgeferry_runtime.errors import DeviceRequirementError, MissingExtraError

BASE = ("numpy>=1.24", "click>=8.1", "pip>=24")
TIMEOUT_S = 600


@dataclass(frozen=True)
class Wheel:
    """One wheel to bring.

    Attributes:
        path: Where it lies on the host.
        sha256: Its content.
    """

    path: Path
    sha256: str

    def to_dict(self) -> dict[str, str | int]:
        """Return what the device must know: name, size and unpacked size in bytes."""
        with zipfile.ZipFile(self.path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        return {"name": self.path.name, "size": self.path.stat().st_size, "unpacked": unpacked}


def requirements(platform: Platform, formats: Sequence[str]) -> list[str]:
    """Return what a device needs to run artifacts of these formats, as pip's requirements."""
    litert = "ai-edge-litert>=2.1" if platform.glibc >= LITERT_GLIBC else "ai-edge-litert>=2.1,<2.1.6"
    engines = {"tflite": litert, "onnx": "onnxruntime>=1.20"}
    return [*BASE, *(engines[name] for name in sorted(set(formats)))]


def collect(device: str, platform: Platform, formats: Sequence[str]) -> list[Wheel]:
    """Return the wheels for a platform, from the cache or by pip, and the runtime's own.

    Raises:
        DeviceRequirementError: If there is no wheel for it, or pip cannot reach its index.
        MissingExtraError: If pip is not installed on the host.
    """
    wanted = requirements(platform, formats)
    folder = cache_dir() / "wheels" / _key(platform, wanted)
    if not folder.is_dir():
        _download(device, platform, wanted, folder)
    own = cache_dir() / "wheels" / "runtime"
    own.mkdir(parents=True, exist_ok=True)
    paths = [*sorted(folder.glob("*.whl")), build_runtime_wheel(own)]
    return [Wheel(path, sha256_file(path)) for path in paths]


def _key(platform: Platform, wanted: Sequence[str]) -> str:
    digest = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:12]
    major, minor, _ = platform.version
    return f"cp{major}{minor}-glibc2.{platform.glibc}-{platform.machine}-{digest}"


def _download(device: str, platform: Platform, wanted: Sequence[str], folder: Path) -> None:
    """Fill a folder of the cache, which is there whole or not at all."""
    if importlib.util.find_spec("pip") is None:
        raise MissingExtraError("downloading wheels for devices", "devices", "pip")
    folder.parent.mkdir(parents=True, exist_ok=True)
    parts = Path(tempfile.mkdtemp(prefix=".download.", dir=folder.parent))
    try:
        done = subprocess.run(
            _pip(platform, wanted, parts),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=_environment(),
            check=False,
        )
        if done.returncode:
            raise DeviceRequirementError(device, *_explain(platform, done.stderr))
        if not folder.is_dir():
            parts.rename(folder)
    except subprocess.TimeoutExpired as error:
        reason = f"the download of its wheels took longer than {TIMEOUT_S} s"
        raise DeviceRequirementError(device, reason, "check this machine's access to the package index") from error
    finally:
        shutil.rmtree(parts, ignore_errors=True)


def _pip(platform: Platform, wanted: Sequence[str], folder: Path) -> list[str]:
    version = ".".join(str(part) for part in platform.version[:2])
    tags = [word for tag in platform.tags() for word in ("--platform", tag)]
    target = ["--only-binary=:all:", "--implementation", "cp", "--python-version", version, *tags]
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    return [sys.executable, "-m", "pip", "download", *quiet, *target, "--dest", str(folder), *wanted]


def _environment() -> Mapping[str, str]:
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONWARNINGS": "ignore"}


def _explain(platform: Platform, stderr: str) -> tuple[str, str]:
    """Turn pip's complaint into a reason and a way out."""
    errors = [line for line in redact(stderr).splitlines() if line.startswith("ERROR:")]
    last = (errors or redact(stderr).splitlines() or ["it printed nothing"])[-1].removeprefix("ERROR: ")[:300]
    if "No matching distribution" in last:
        what = f"Python {platform.dotted} on {platform.machine} with {platform.libc}"
        return (
            f"no wheel fits {what}: {last}",
            "check this machine's access to the package index, or use another Python there",
        )
    return f"its wheels could not be downloaded: {last}", "check this machine's access to the package index"


def redact(text: str) -> str:
    """Remove every URL: one of an index may hold a password or a token."""
    return re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\",)]+", "(URL)", text)
