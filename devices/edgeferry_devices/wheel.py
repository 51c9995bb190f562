"""The ``edgeferry`` wheel for devices: the runtime of this very installation, repacked, byte for byte reproducible."""

from __future__ import annotations

import base64
import hashlib
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

PACKAGE = "edgeferry_runtime"
EPOCH = (1980, 1, 1, 0, 0, 0)
ENTRY_POINTS = "[console_scripts]\nferry = edgeferry_runtime.cli:main\n"
METADATA = """\
Metadata-Version: 2.1
Name: edgeferry
Version: {version}
Summary: The runtime of Edgeferry, as it is brought to devices.
License: Apache-2.0
Requires-Python: >=3.10
Requires-Dist: numpy>=1.24
Requires-Dist: click>=8.1
"""
WHEEL = "Wheel-Version: 1.0\nGenerator: edgeferry\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@lru_cache(maxsize=1)
def runtime_version() -> str:
    """Return the version with a hash of the runtime's content, so that every change is another version to pip."""
    from edgeferry_runtime import __version__

    digest = hashlib.sha256()
    for name, content in _sources():
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return f"{__version__}+{digest.hexdigest()[:16]}"


def _sources() -> Iterator[tuple[str, bytes]]:
    """Yield the name in the wheel and the content of each file of the runtime, sorted."""
    import edgeferry_runtime

    folder = Path(str(edgeferry_runtime.__file__)).parent
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"{PACKAGE}/{path.relative_to(folder).as_posix()}", path.read_bytes()


def build_runtime_wheel(folder: Path) -> Path:
    """Write the wheel into a folder and return its path; equal sources give equal bytes.

    The files are stored, not deflated, because the output of deflate differs between zlib versions.
    """
    version = runtime_version()
    info = f"edgeferry-{version}.dist-info"
    files = dict(_sources()) | {
        f"{info}/METADATA": METADATA.format(version=version).encode(),
        f"{info}/WHEEL": WHEEL.encode(),
        f"{info}/entry_points.txt": ENTRY_POINTS.encode(),
    }
    path = folder / f"edgeferry-{version}-py3-none-any.whl"
    part = folder / f".{path.name}.{uuid.uuid4().hex}"  # another device may be reading the one that is there
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {**files, f"{info}/RECORD": _record(files, f"{info}/RECORD")}.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return part.replace(path)


def _record(files: Mapping[str, bytes], own: str) -> bytes:
    lines = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    return "\n".join([*lines, f"{own},,", ""]).encode()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
