"""The gate before an engine: native engines trust a file's content, so nothing reaches them unverified.

`check_artifact` proves the structure in Python. A file can be well-formed and still crash an engine, so
`try_in_child` loads and runs doubtful ones in a process of their own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from edgeferry_runtime.artifact_files import artifact_size
from edgeferry_runtime.child import child_command
from edgeferry_runtime.errors import (
    CorruptFileError,
    EdgeferryError,
    EngineCrashError,
    EngineError,
    MissingFileError,
    UnknownFormatError,
)
from edgeferry_runtime.flatbuffer import Buffer, FlatbufferError, map_file
from edgeferry_runtime.onnx_wire import walk_onnx
from edgeferry_runtime.protobuf import WireError
from edgeferry_runtime.tflite_file import IDENTIFIER, verify_tflite

if TYPE_CHECKING:
    import subprocess

    from edgeferry_runtime.engines import Delegate, Engine
    from edgeferry_runtime.tensors import TensorSpec

AGAIN = "copy or convert it again"
TIMEOUT_S = 120
"""Seconds after which a child is ended."""
CHILD_MEMORY = 3 << 29
"""Bytes of memory of its own that a child may take: with the engine's code and a small file, it stays below 2 GB."""
PER_FILE_BYTE, PER_CORE = 8, 16 << 20
"""What it may take beside: for each byte of the file, whose weights are copied and packed, and for each core."""


def check_artifact(path: str | os.PathLike[str]) -> str:
    """Tell an artifact's format from its content, and prove that its structure is sound.

    Args:
        path: The artifact.

    Returns:
        ``tflite`` or ``onnx``.

    Raises:
        MissingFileError: If there is no such file, or a file that it keeps its weights in is missing.
        UnknownFormatError: If it is neither format.
        CorruptFileError: If it is truncated, or an offset, length, index or path in it is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(path, "is no file" if path.exists() else "no such file", "check the path")
    if str(path).encode(errors="ignore").decode() != str(path):
        raise MissingFileError(path, "is not named in UTF-8, and engines open no such file", "rename it")
    if not path.stat().st_size:
        raise CorruptFileError(path, "is empty", AGAIN)
    try:
        mapped = map_file(path)
    except OSError as error:
        raise MissingFileError(path, f"cannot be read ({error.strerror})", "check its permissions") from error
    with mapped as data:
        if data[4:8] == IDENTIFIER:
            _check_tflite(path, data)
            return "tflite"
        _check_onnx(path, data)
        return "onnx"


def _check_tflite(path: Path, data: Buffer) -> None:
    try:
        verify_tflite(data)
    except FlatbufferError as error:
        raise CorruptFileError(path, f"is a damaged TFLite file: {error}", AGAIN) from error


def _check_onnx(path: Path, data: Buffer) -> None:
    begins_like_onnx = len(data) > 1 and data[0] == 0x08 and 0 < data[1] < 0x80
    try:
        found = walk_onnx(data)
        if not found.graphs:
            raise WireError("it has no graph")
    except WireError as error:
        if not begins_like_onnx:
            raise UnknownFormatError(
                path, "is neither TFLite nor ONNX", "give a .tflite or .onnx file, or a bundle"
            ) from error
        raise CorruptFileError(path, f"is a damaged ONNX file: {error}", AGAIN) from error
    for entry in found.external:
        _check_external(path, entry)


def _check_external(path: Path, entry: Mapping[str, str]) -> None:
    """Check that weights kept beside the model lie in its folder, and reach as far as it says."""
    location, offset, length = (entry.get(key, "") for key in ("location", "offset", "length"))
    folder = path.parent.resolve()
    try:
        file = (folder / location).resolve()
        found = file.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise CorruptFileError(path, f"keeps weights where no file can be ({str(error)[:200]})", AGAIN) from error
    if not location or not file.is_relative_to(folder):
        raise CorruptFileError(path, f"keeps weights outside its folder, at {location[:200]!r}", "do not use this file")
    if not found:
        raise MissingFileError(file, f"holds weights of {path.name} and is missing", "copy it beside the model")
    for number in (offset, length):
        if number and not (number.isascii() and number.isdecimal() and len(number) < 20):
            raise CorruptFileError(path, f"says that its weights begin or end at {number!r}", AGAIN)
    if int(offset or 0) + int(length or 0) > file.stat().st_size:
        raise CorruptFileError(file, f"is shorter than {path.name} says", AGAIN)


def try_in_child(path: str | os.PathLike[str], *, delegate: str = "cpu", timeout_s: float = TIMEOUT_S) -> None:
    """Load an artifact and run it once on zeros, in a child process that may die of it.

    Args:
        path: The artifact, or a bundle.
        delegate: Where to execute.
        timeout_s: Seconds after which the child is ended.

    Raises:
        EngineCrashError: If the child dies.
        EngineError: If the engine refuses to load the artifact, or does not answer in time.
        EdgeferryError: What `check_artifact` raises, and a missing engine.
    """
    import subprocess

    command = child_command(__name__, "child", os.fspath(path), delegate)
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        refuse_late(path, delegate, timeout_s)
    if done.returncode:
        raise_for(path, done, delegate)


def refuse_late(path: str | os.PathLike[str], delegate: str, timeout_s: float) -> NoReturn:
    """Raise the error of a child that was ended."""
    reason = f"did not load and run within {timeout_s:g} s"
    raise EngineError(_culprit(path, delegate), reason, _way_out(delegate)) from None


def _culprit(path: str | os.PathLike[str], delegate: str) -> object:
    return path if _plain(delegate) else f"{path} with --delegate {delegate}"


def _way_out(delegate: str) -> str:
    return "do not use this file on this machine" if _plain(delegate) else "use another delegate, such as cpu"


def _plain(delegate: str) -> bool:
    from edgeferry_runtime.engines.delegate import parse_delegates

    return parse_delegates(delegate)[0].is_plain_cpu


def raise_for(path: str | os.PathLike[str], done: subprocess.CompletedProcess[bytes], delegate: str = "cpu") -> None:
    """Raise what the child reported, or say how it died."""
    if done.returncode == 1 and done.stdout:
        import json

        from edgeferry_runtime.wire import decode_error

        raise decode_error(json.loads(done.stdout))
    said = done.stderr.decode(errors="replace").strip().splitlines()
    reason = f"its engine died: {_cause(done.returncode)}{': ' + said[-1][:200] if said else ''}"
    raise EngineCrashError(_culprit(path, delegate), reason, _way_out(delegate))


def _cause(status: int) -> str:
    """Name what ended a process; emulators and shells report a signal as 128 and its number."""
    import signal

    number = -status if status < 0 else status - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"exit status {status}"
    return f"{name}, this CPU lacks instructions that the engine uses" if name == "SIGILL" else name


def limit_memory(path: str | os.PathLike[str]) -> None:
    """Keep a file that asks for absurd memory from taking the machine down with it, where the system can.

    What this process takes beyond the limit is refused to it. Neither does it leave a core dump when it dies.

    Args:
        path: The artifact, or a bundle, whose size is the measure.
    """
    with contextlib.suppress(ImportError, AttributeError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        wanted = CHILD_MEMORY + PER_FILE_BYTE * _size(Path(path)) + PER_CORE * (os.cpu_count() or 1)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, wanted))


def _size(path: Path) -> int:
    """Return the bytes of a bundle's files, or of an artifact and of those beside it that hold its weights."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir())
    with contextlib.suppress(EdgeferryError, ValueError):
        return artifact_size(path)
    return path.stat().st_size


def check_inputs(path: Path, specs: Sequence[TensorSpec]) -> None:
    """Refuse inputs that no memory holds.

    Raises:
        EngineError: If there is one.
    """
    for spec in specs:
        size = prod(max(dim, 1) for dim in spec.shape)
        if size > CHILD_MEMORY:
            raise EngineError(path, f"takes an input of {size} values ({spec})", AGAIN)


def out_of_memory(path: str | os.PathLike[str]) -> EngineError:
    """Return the error of a child that asked for more than `limit_memory` allows."""
    allowed = f"{CHILD_MEMORY / 2**30:g} GiB and {PER_FILE_BYTE} times the file's size"
    fix = "load it by edgeferry_runtime.load, where you know who made it"
    return EngineError(path, f"needs more memory than it may take ({allowed})", fix)


def _load_and_run(path: str, delegates: Sequence[Delegate] = ()) -> None:
    """Load an artifact and run its signatures on zeros.

    One delegate is tried in this process; of several, each that is not the plain CPU has a child of its own.
    """
    from edgeferry_runtime.bundle import Bundle
    from edgeferry_runtime.engines import Delegate, open_engine

    artifact = Bundle.open(path).artifact if Path(path).is_dir() else Path(path)
    format_name, places, tried = check_artifact(artifact), delegates or (Delegate(),), len(delegates) < 2
    engine = open_engine(format_name, artifact, places, tried=tried)
    others = [key for key in engine.signatures if key != engine.signature]
    _run_on_zeros(artifact, engine)
    for key in others:
        _run_on_zeros(artifact, open_engine(format_name, artifact, places, key, tried=tried))


def _run_on_zeros(artifact: Path, engine: Engine) -> None:
    """Run once and close; that it refuses zeros says nothing about real inputs."""
    from edgeferry_runtime.feeds import zero_feeds

    check_inputs(artifact, engine.inputs)
    feeds = zero_feeds(engine.inputs)
    with contextlib.suppress(EngineError):
        engine.run([feeds[spec.name] for spec in engine.inputs])
    engine.close()


def child(path: str, delegate: str) -> int:
    """Be the child: print an expected error as JSON."""
    from edgeferry_runtime.engines import parse_delegates

    delegates = parse_delegates(delegate)
    if all(each.is_plain_cpu for each in delegates):
        limit_memory(path)
    import json

    from edgeferry_runtime.wire import claim_stdout, encode_error

    with claim_stdout() as answers:
        try:
            _load_and_run(path, delegates)
        except EdgeferryError as error:
            answers.write(json.dumps(encode_error(error)).encode())
            return 1
        except MemoryError:
            answers.write(json.dumps(encode_error(out_of_memory(path))).encode())
            return 1
    return 0
