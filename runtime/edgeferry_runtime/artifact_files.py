"""The files of one artifact: the file itself and, of an ONNX one, those beside it that it keeps weights in."""

from __future__ import annotations

from pathlib import Path

from edgeferry_runtime.flatbuffer import map_file
from edgeferry_runtime.onnx_wire import walk_onnx
from edgeferry_runtime.protobuf import WireError
from edgeferry_runtime.tflite_file import IDENTIFIER


def companions(path: Path) -> tuple[Path, ...]:
    """Return the files that an ONNX artifact keeps weights in, as it names them and each once.

    Where they may lie is for `edgeferry_runtime.guard.check_artifact` to say. TFLite artifacts have none, and a file
    that is neither has none either.
    """
    if not path.stat().st_size:
        return ()
    with map_file(path) as data:
        if data[4:8] == IDENTIFIER:
            return ()
        try:
            found = walk_onnx(data).external
        except WireError:
            return ()
    return tuple(path.parent / name for name in sorted({entry.get("location", "") for entry in found}))


def artifact_size(path: Path) -> int:
    """Return the bytes that an artifact takes, its companions included."""
    return sum(file.stat().st_size for file in (path, *companions(path)))


def artifact_sha256(path: Path) -> str:
    """Return the SHA-256 of an artifact as 64 hex digits.

    Of one with companions it is that of the lines ``NAME``, a zero byte and the SHA-256 of the file: first the
    artifact's own, without its name, then one for each companion.
    """
    import hashlib

    beside = companions(path)
    if not beside:
        return sha256_file(path)
    lines = [("", path), *((file.relative_to(path.parent).as_posix(), file) for file in beside)]
    return hashlib.sha256("".join(f"{name}\0{sha256_file(file)}\n" for name, file in lines).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    import hashlib

    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
