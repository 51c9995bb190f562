"""Several executors of one TFLite file that map one copy of its packed weights.

XNNPACK packs the weights for its kernels, once for each interpreter. LiteRT's own library can put the packed weights
into a cache file that every further executor of the same file maps. Here that file lies in memory and has no name, so
nothing of it outlives the process. The library is called by ctypes, which lets go of Python's lock meanwhile; the
wheel's own ``CompiledModel`` holds it, so that its executors would run one after the other.

Source: litert/c of LiteRT, litert_tensor_buffer.h and options/litert_cpu_options.cc.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import weakref
from collections.abc import Callable, Sequence
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_runtime.engines import Engine
from edgeferry_runtime.engines import litert_native as native
from edgeferry_runtime.engines.delegate import Delegate
from edgeferry_runtime.engines.execution import Execution
from edgeferry_runtime.errors import EngineError
from edgeferry_runtime.feeds import zero_feeds
from edgeferry_runtime.quiet_stderr import quiet_stderr
from edgeferry_runtime.tensors import Array, TensorSpec
from edgeferry_runtime.undo import undo_on_error

Run = Callable[[Sequence[Array]], list[Array]]

READ = 0
OPTIONS = 'num_threads = {}\nweight_cache_file_path = "/proc/self/fd/{}"\n'
FIX = "use an interpreter for each thread"


class SharedEngine:
    """One executor of several; see `Engine`.

    Args:
        like: The interpreter's engine of the same file and signature, which tells all about it.
        execution: What really executes it.
        run: What executes it once.
        handles: Frees what `run` uses.
    """

    concurrent = stateful = False

    def __init__(
        self,
        like: Engine,
        execution: Execution,
        run: Run,
        handles: contextlib.ExitStack,
    ) -> None:
        self.name, self.version = like.name, like.version
        self.inputs, self.outputs = like.inputs, like.outputs
        self.signature, self.signatures = like.signature, like.signatures
        self.execution, self.run = execution, run
        self._free = weakref.finalize(self, handles.close)

    def reset(self) -> None:
        """Do nothing: what keeps something between runs is not shared."""

    def close(self) -> None:
        """Free the executor; the file and the packed weights go with the last one."""
        self.run = _closed
        self._free()


def _closed(feeds: Sequence[Array]) -> list[Array]:
    raise EngineError("the engine", "was closed", "load the artifact again")


def open_shared(path: Path, like: Engine, delegate: Delegate, size: int) -> list[SharedEngine]:
    """Open one TFLite file for so many threads.

    This calls C functions by what is known of them, which kills a process where they are others: it is to be tried in
    a child process first.

    Args:
        path: The verified artifact; see `litert_sharing.check_shareable`.
        like: What has loaded it in an interpreter.
        delegate: ``cpu``, and how many threads each executor takes.
        size: How many executors.

    Raises:
        EngineError: If LiteRT refuses it, or puts no weights into its cache.
    """
    threads = delegate.threads or 1
    text = f"CPU, XNNPACK, {threads} thread{'s' if threads > 1 else ''} for each of {size}"
    execution = Execution(like.execution.asked, str(delegate), text, fallbacks=like.execution.fallbacks)
    cache = os.memfd_create("weights")
    try:
        with quiet_stderr():
            file = _File(native.open_library(path, like.version), path, like)
            runs = [_executor(file, OPTIONS.format(threads, cache)) for _ in range(size)]
        if not os.fstat(cache).st_size:
            raise EngineError(path, "has no weights that LiteRT puts into its cache", FIX)
    except native.NativeError as error:
        raise EngineError(path, f"is refused by LiteRT: {error}", FIX) from error
    finally:
        os.close(cache)
    return [SharedEngine(like, execution, run, handles) for run, handles in runs]


class _File:
    """The file in LiteRT, of which every executor holds a reference."""

    def __init__(self, library: native.Library, path: Path, like: Engine) -> None:
        self.library, self.path, self.like = library, path, like
        self.number = like.signatures.index(like.signature) if like.signature else 0
        wanted = (native.EnvOption * 2)(
            native.EnvOption(native.AUTO_REGISTER_ACCELERATORS, native.AnyValue(native.ANY_INT, native.CPU)),
            native.EnvOption(native.MIN_LOGGER_SEVERITY, native.AnyValue(native.ANY_INT, native.SEVERITY_ERROR)),
        )
        handles = _Handles(library)
        weakref.finalize(self, handles.close)
        self.environment = handles.make("Environment", "LiteRtCreateEnvironment", c_int(len(wanted)), wanted)
        self.model = handles.make("Model", "LiteRtCreateModelFromFile", self.environment, str(path).encode())
        self.signature = library.make("LiteRtGetModelSignature", self.model, c_size_t(self.number))

    def order(self, side: str, specs: Sequence[TensorSpec]) -> list[int]:
        """Find where the engine's inputs or outputs stand in LiteRT's order: by name where there is a signature."""
        if not self.like.signature:
            return list(range(len(specs)))
        count = self.library.count(f"LiteRtGetNumSignature{side}s", self.signature)
        names = [self._name(side, index) for index in range(count)]
        return [names.index(spec.name) for spec in specs]

    def _name(self, side: str, index: int) -> str:
        name = c_char_p()
        self.library.call(f"LiteRtGetSignature{side}Name", self.signature, c_size_t(index), byref(name))
        return (name.value or b"").decode()


class _Handles(contextlib.ExitStack):
    """Handles of the library, freed in reverse."""

    def __init__(self, library: native.Library) -> None:
        super().__init__()
        self._library = library

    def make(self, kind: str, name: str, *arguments: Any) -> c_void_p:
        """Make a handle of some kind by a function."""
        handle = self._library.make(name, *arguments)
        self.callback(self._library.free, f"LiteRtDestroy{kind}", handle)
        return handle


def _executor(file: _File, text: str) -> tuple[Run, contextlib.ExitStack]:
    """Compile the file with options, make its buffers, and return what runs it and what frees it."""
    handles = _Handles(file.library)
    with undo_on_error(handles.close):
        handles.callback(_hold, file)
        return _prepare(file, handles, _compile(file, handles, text)), handles


def _prepare(file: _File, handles: _Handles, compiled: c_void_p) -> Run:
    library, like, number = file.library, file.like, c_size_t(file.number)
    ports = native._Ports(library, {"environment": file.environment, "compiled": compiled}, file.signature, file.number)
    feeds = zero_feeds(like.inputs)
    sides = [ports.fill(feeds if like.signature else list(feeds.values())), ports.outputs()]
    for buffer in (*sides[0], *sides[1]):
        handles.callback(library.free, "LiteRtDestroyTensorBuffer", buffer)
    sources = [sides[0][i] for i in file.order("Input", like.inputs)]
    targets = [sides[1][i] for i in file.order("Output", like.outputs)]
    for buffer, spec in zip((*sources, *targets), (*like.inputs, *like.outputs), strict=True):
        _check_size(library, buffer, spec)
    counted = [part for side in sides for part in (c_size_t(len(side)), (c_void_p * len(side))(*side))]
    return _call(file, sources, targets, (compiled, number, *counted))


def _hold(file: _File) -> None:
    """Keep the file for as long as the handles that come after it."""


def _compile(file: _File, handles: _Handles, text: str) -> c_void_p:
    library = file.library
    with contextlib.closing(_Handles(library)) as temporary:
        options = temporary.make("Options", "LiteRtCreateOptions")
        library.call("LiteRtSetOptionsHardwareAccelerators", options, c_int(native.CPU))
        payload = ctypes.create_string_buffer(text.encode())
        leave = ctypes.CFUNCTYPE(None, c_void_p)(native._leave)
        told = (c_char_p(b"xnnpack"), ctypes.cast(payload, c_void_p), leave)
        library.call("LiteRtAddOpaqueOptions", options, library.make("LiteRtCreateOpaqueOptions", *told))
        return handles.make("CompiledModel", "LiteRtCreateCompiledModel", file.environment, file.model, options)


def _check_size(library: native.Library, buffer: c_void_p, spec: TensorSpec) -> None:
    """See that a buffer holds what is written to it and read from it."""
    size, needed = library.count("LiteRtGetTensorBufferSize", buffer), np.dtype(spec.dtype).itemsize
    for dim in spec.shape:
        needed *= dim
    if size < needed:
        raise native.NativeError(f"the buffer of {spec.name} holds {size} bytes of {needed}")


def _call(file: _File, sources: Sequence[c_void_p], targets: Sequence[c_void_p], arguments: tuple[Any, ...]) -> Run:
    """Return what writes, runs and reads."""
    call, move = file.library.call, ctypes.memmove
    shapes = [(spec.shape, np.dtype(spec.dtype)) for spec in file.like.outputs]

    def run(feeds: Sequence[Array]) -> list[Array]:
        address = c_void_p()
        try:
            for buffer, value in zip(sources, feeds):  # noqa: B905 (the model counted them)
                whole = np.ascontiguousarray(value)
                call("LiteRtLockTensorBuffer", buffer, byref(address), native.WRITE)
                move(address, whole.ctypes.data, whole.nbytes)
                call("LiteRtUnlockTensorBuffer", buffer)
            call("LiteRtRunCompiledModel", *arguments)
            results = [np.empty(shape, dtype) for shape, dtype in shapes]
            for buffer, result in zip(targets, results):  # noqa: B905
                call("LiteRtLockTensorBuffer", buffer, byref(address), READ)
                move(result.ctypes.data, address, result.nbytes)
                call("LiteRtUnlockTensorBuffer", buffer)
        except native.NativeError as error:
            raise EngineError(file.path, f"LiteRT refuses it: {error}", "load it without a pool") from error
        return results

    return run
