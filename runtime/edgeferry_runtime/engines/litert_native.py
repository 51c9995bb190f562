"""LiteRT's own C library, as its wheel brings it: as much of it as runs a model on the CPU under its profiler.

The library is loaded beside the interpreter of the same wheel, and is told to register no accelerator but the CPU's:
those of the GPU kill the process on cores that lack their instructions.

Source: litert/c of LiteRT 2.1.6 to 2.3, litert_profiler.h, litert_profiler_event.h, litert_environment_options.h,
litert_compiled_model.h; the layout of an event is that of C++, and is checked against what the library writes.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from ctypes import byref, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_runtime.errors import EngineError
from edgeferry_runtime.tensors import Array

LIBRARY = {"darwin": "libLiteRt.dylib", "win32": "libLiteRt.dll"}.get(sys.platform, "libLiteRt.so")
OLDEST = (2, 1, 6)
"""Before this version the same names take other arguments."""
NEEDED = (
    *("LiteRtCreateEnvironment", "LiteRtDestroyEnvironment", "LiteRtCreateModelFromFile", "LiteRtDestroyModel"),
    *("LiteRtCreateOptions", "LiteRtDestroyOptions", "LiteRtSetOptionsHardwareAccelerators"),
    *("LiteRtCreateOpaqueOptions", "LiteRtAddOpaqueOptions"),
    *("LiteRtCreateCompiledModel", "LiteRtDestroyCompiledModel", "LiteRtRunCompiledModel"),
    *("LiteRtCompiledModelResizeInputTensor", "LiteRtGetCompiledModelOutputTensorLayouts"),
    *("LiteRtGetCompiledModelInputBufferRequirements", "LiteRtGetCompiledModelOutputBufferRequirements"),
    *("LiteRtGetModelSignature", "LiteRtGetNumSignatureInputs", "LiteRtGetNumSignatureOutputs"),
    *("LiteRtGetSignatureInputName", "LiteRtGetSignatureInputTensorByIndex", "LiteRtGetSignatureOutputTensorByIndex"),
    *("LiteRtGetRankedTensorType", "LiteRtCreateManagedTensorBufferFromRequirements", "LiteRtDestroyTensorBuffer"),
    *("LiteRtGetTensorBufferSize", "LiteRtLockTensorBuffer", "LiteRtUnlockTensorBuffer"),
    "LiteRtCompiledModelGetProfiler",
    *("LiteRtStartProfiler", "LiteRtStopProfiler", "LiteRtResetProfiler"),
    *("LiteRtGetNumProfilerEvents", "LiteRtGetProfilerEvents"),
)

AUTO_REGISTER_ACCELERATORS, MIN_LOGGER_SEVERITY = 24, 25
ANY_INT, SEVERITY_ERROR, CPU, WRITE = 2, 3, 1, 1
POISON = 0xA5
SLACK = 64
"""Bytes for each event beside its own, to see that the library writes no more."""
MOST_DIMENSIONS = 8


class NativeError(Exception):
    """The library refused a call, or does not do what this module knows of it."""


class AnyValue(ctypes.Structure):
    """LiteRtAny, holding an integer."""

    _fields_ = (("type", c_int), ("value", c_int64))


class EnvOption(ctypes.Structure):
    """LiteRtEnvOption."""

    _fields_ = (("tag", c_int), ("value", AnyValue))


class Layout(ctypes.Structure):
    """LiteRtLayout: the rank lies in the low seven bits, and no strides are given."""

    _fields_ = (("rank", c_uint32), ("dimensions", c_int * MOST_DIMENSIONS), ("strides", c_uint32 * MOST_DIMENSIONS))


class TensorType(ctypes.Structure):
    """LiteRtRankedTensorType."""

    _fields_ = (("element", c_int), ("layout", Layout))


class Event(ctypes.Structure):
    """ProfiledEventData."""

    _fields_ = (
        ("tag", c_void_p),
        ("type", c_int),
        ("start_us", c_uint64),
        ("elapsed_us", c_uint64),
        ("memory", c_uint64 * 6),
        ("index", c_uint64),
        ("subgraph", c_uint64),
        ("source", c_int),
    )


class Library:
    """The library's functions; each that fails raises NativeError."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function that returns a status."""
        status = getattr(self._library, name)(*arguments)
        if status:
            raise NativeError(f"{name} gives status {status}")

    def make(self, name: str, *arguments: Any) -> c_void_p:
        """Call a function that returns a handle by its last argument."""
        handle = c_void_p()
        self.call(name, *arguments, byref(handle))
        return handle

    def count(self, name: str, *arguments: Any, kind: Any = c_size_t) -> int:
        """Call a function that returns a number by its last argument."""
        number = kind()
        self.call(name, *arguments, byref(number))
        return int(number.value)

    def free(self, name: str, handle: c_void_p) -> None:
        """Call a function that returns nothing."""
        getattr(self._library, name)(handle)


def open_library(path: Path, version: str) -> Library:
    """Load the library of the wheel of ai-edge-litert that is installed.

    Args:
        path: The artifact, for the error.
        version: Of the wheel.

    Raises:
        EngineError: If it is older than `OLDEST`, brings no such library, or one that lacks a function.
    """
    wanted = "install ai-edge-litert {}.{}.{} or newer".format(*OLDEST)
    if tuple(int(number) for number in re.findall(r"\d+", version)[:3]) < OLDEST:
        raise EngineError(path, f"ai-edge-litert {version} has no profiler that Edgeferry can read", wanted)
    spec = importlib.util.find_spec("ai_edge_litert")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    file = next((Path(folder) / LIBRARY for folder in folders if (Path(folder) / LIBRARY).is_file()), None)
    if file is None:
        raise EngineError(path, f"ai-edge-litert {version} does not bring {LIBRARY}, which has the profiler", wanted)
    try:
        library = ctypes.CDLL(str(file))
    except OSError as error:
        raise EngineError(path, f"{LIBRARY} cannot be loaded ({error})", wanted) from error
    missing = [name for name in NEEDED if not hasattr(library, name)]
    if missing:
        reason = f"{LIBRARY} of ai-edge-litert {version} does not export {', '.join(missing)}"
        raise EngineError(path, reason, "install another version of ai-edge-litert")
    return Library(library)


class Profiled:
    """A model of the CPU that is compiled with its profiler, and has its inputs.

    Args:
        library: Where it lives.
        handles: By name: environment, compiled, profiler.
        signature: Its number.
        inputs: Its input buffers.
        outputs: Its output buffers.
    """

    def __init__(
        self,
        library: Library,
        handles: Mapping[str, c_void_p],
        signature: int,
        inputs: Sequence[c_void_p],
        outputs: Sequence[c_void_p],
    ) -> None:
        self._library, self._profiler = library, handles["profiler"]
        sides = [(c_size_t(len(side)), (c_void_p * len(side))(*side)) for side in (inputs, outputs)]
        self._arguments = (handles["compiled"], c_size_t(signature), *sides[0], *sides[1])

    def run(self) -> None:
        """Execute once."""
        self._library.call("LiteRtRunCompiledModel", *self._arguments)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record what runs inside of the block, in place of what was recorded before."""
        self._library.call("LiteRtResetProfiler", self._profiler)
        self._library.call("LiteRtStartProfiler", self._profiler)
        try:
            yield
        finally:
            self._library.call("LiteRtStopProfiler", self._profiler)

    def events(self) -> list[tuple[str, Event]]:
        """Return what was recorded, by its tag.

        Raises:
            NativeError: If the library's events are not laid out as `Event` is.
        """
        count = self._library.count("LiteRtGetNumProfilerEvents", self._profiler, kind=c_int)
        size = count * ctypes.sizeof(Event)
        room = bytearray([POISON]) * (size + count * SLACK)
        view = (ctypes.c_char * len(room)).from_buffer(room)
        self._library.call("LiteRtGetProfilerEvents", self._profiler, c_int(count), view)
        events = list((Event * count).from_buffer(room)) if count else []
        if room[size:].strip(bytes([POISON])) or any(not 0 <= e.source <= 2 or not e.tag for e in events):
            raise NativeError("its profiler's events are laid out in another way than is known")
        return [(ctypes.string_at(event.tag).decode(errors="replace"), event) for event in events]


@contextlib.contextmanager
def open_profiled(
    library: Library, path: Path, signature: int, feeds: Mapping[str, Array] | Sequence[Array], threads: int
) -> Iterator[Profiled]:
    """Compile a model for the CPU, with its profiler, and fill its inputs.

    Args:
        library: From `open_library`.
        path: A verified ``.tflite`` file.
        signature: Its number in the file.
        feeds: Stored values by the signature's names, or in order where the file has no signature.
        threads: How many XNNPACK takes.

    Raises:
        NativeError: If LiteRT refuses it.
    """
    with contextlib.ExitStack() as stack:

        def make(name: str, end: str, *arguments: Any) -> c_void_p:
            handle = library.make(name, *arguments)
            stack.callback(library.free, end, handle)
            return handle

        wanted = (EnvOption * 2)(
            EnvOption(AUTO_REGISTER_ACCELERATORS, AnyValue(ANY_INT, CPU)),
            EnvOption(MIN_LOGGER_SEVERITY, AnyValue(ANY_INT, SEVERITY_ERROR)),
        )
        environment = make("LiteRtCreateEnvironment", "LiteRtDestroyEnvironment", c_int(len(wanted)), wanted)
        model = make("LiteRtCreateModelFromFile", "LiteRtDestroyModel", environment, str(path).encode())
        kept: list[Any] = []
        stack.callback(kept.clear)
        options = make("LiteRtCreateOptions", "LiteRtDestroyOptions")
        kept += _configure(library, options, threads)
        compiled = make("LiteRtCreateCompiledModel", "LiteRtDestroyCompiledModel", environment, model, options)
        handles = {
            "environment": environment,
            "compiled": compiled,
            "profiler": library.make("LiteRtCompiledModelGetProfiler", compiled),
        }
        ports = _Ports(library, handles, library.make("LiteRtGetModelSignature", model, c_size_t(signature)), signature)
        inputs, outputs = ports.fill(feeds), ports.outputs()
        for buffer in (*inputs, *outputs):
            stack.callback(library.free, "LiteRtDestroyTensorBuffer", buffer)
        yield Profiled(library, handles, signature, inputs, outputs)


def _configure(library: Library, options: c_void_p, threads: int) -> list[Any]:
    """Ask for the CPU, so many threads and the profiler; return what must live as long as the options do."""
    library.call("LiteRtSetOptionsHardwareAccelerators", options, c_int(CPU))
    done = ctypes.CFUNCTYPE(None, c_void_p)(_leave)
    kept: list[Any] = [done]
    texts = {b"runtime_options_string": b"enable_profiling = true\n", b"xnnpack": b"num_threads = %d\n" % threads}
    for name, text in texts.items():
        payload = ctypes.create_string_buffer(text)
        kept.append(payload)
        opaque = library.make("LiteRtCreateOpaqueOptions", c_char_p(name), ctypes.cast(payload, c_void_p), done)
        library.call("LiteRtAddOpaqueOptions", options, opaque)
    return kept


def _leave(payload: int | None) -> None:
    """Leave the text of an option to Python, which frees it."""


class _Ports:
    """Makes the buffers of one signature of a compiled model."""

    def __init__(self, library: Library, handles: Mapping[str, c_void_p], signature: c_void_p, number: int) -> None:
        self._library, self._environment, self._compiled = library, handles["environment"], handles["compiled"]
        self._signature, self._number = signature, c_size_t(number)

    def fill(self, feeds: Mapping[str, Array] | Sequence[Array]) -> list[c_void_p]:
        """Make the input buffers, of the shapes of what they are fed."""
        count = self._library.count("LiteRtGetNumSignatureInputs", self._signature)
        values = [self._feed(feeds, i) for i in range(count)]
        for i, value in enumerate(values):
            self._resize(i, value)
        return [self._input(i, np.asarray(value, order="C")) for i, value in enumerate(values)]

    def _feed(self, feeds: Mapping[str, Array] | Sequence[Array], index: int) -> Array:
        if not isinstance(feeds, Mapping):
            return feeds[index]
        name = c_char_p()
        self._library.call("LiteRtGetSignatureInputName", self._signature, c_size_t(index), byref(name))
        return feeds[(name.value or b"").decode()]

    def _resize(self, index: int, value: Array) -> None:
        layout = self._type("Input", index).layout
        if tuple(layout.dimensions[: layout.rank & 0x7F]) != value.shape:
            dimensions = (c_int * value.ndim)(*value.shape)
            arguments = (c_size_t(index), dimensions, c_size_t(value.ndim))
            self._library.call("LiteRtCompiledModelResizeInputTensor", self._compiled, self._number, *arguments)

    def _input(self, index: int, value: Array) -> c_void_p:
        if value.dtype.kind not in "biufc":
            raise NativeError("it has no buffers for texts")
        kind = self._type("Input", index)
        kind.layout = _layout(value.shape)
        buffer = self._buffer("Input", index, kind)
        if self._library.count("LiteRtGetTensorBufferSize", buffer) < value.nbytes:
            raise NativeError(f"its buffer for input {index} is smaller than the {value.nbytes} bytes of the input")
        address = c_void_p()
        self._library.call("LiteRtLockTensorBuffer", buffer, byref(address), c_int(WRITE))
        ctypes.memmove(address, value.ctypes.data, value.nbytes)
        self._library.call("LiteRtUnlockTensorBuffer", buffer)
        return buffer

    def outputs(self) -> list[c_void_p]:
        """Make the output buffers, of the shapes that follow from the inputs'."""
        count = self._library.count("LiteRtGetNumSignatureOutputs", self._signature)
        if not count:
            return []
        layouts = (Layout * count)()
        arguments = (self._compiled, self._number, c_size_t(count), layouts, ctypes.c_bool(True))
        self._library.call("LiteRtGetCompiledModelOutputTensorLayouts", *arguments)
        kinds = [TensorType(self._type("Output", i).element, layout) for i, layout in enumerate(layouts)]
        return [self._buffer("Output", i, kind) for i, kind in enumerate(kinds)]

    def _type(self, side: str, index: int) -> TensorType:
        tensor = self._library.make(f"LiteRtGetSignature{side}TensorByIndex", self._signature, c_size_t(index))
        kind = TensorType()
        self._library.call("LiteRtGetRankedTensorType", tensor, byref(kind))
        return kind

    def _buffer(self, side: str, index: int, kind: TensorType) -> c_void_p:
        place = (self._compiled, self._number, c_size_t(index))
        needs = self._library.make(f"LiteRtGetCompiledModel{side}BufferRequirements", *place)
        make = "LiteRtCreateManagedTensorBufferFromRequirements"
        return self._library.make(make, self._environment, byref(kind), needs)


def _layout(shape: Sequence[int]) -> Layout:
    return Layout(len(shape), (c_int * MOST_DIMENSIONS)(*shape))
