"""Where an engine executes: the grammar of ``--delegate``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeferry_runtime.errors import UnknownNameError, UsageError

KINDS = ("cpu", "gpu", "npu", "edgetpu")
"""What may stand before the first colon; a path to a delegate library is recognised by its form."""

BACKENDS: Mapping[str, tuple[str, ...]] = {
    "cpu": ("openvino",),
    "gpu": ("cuda", "migraphx", "coreml", "directml", "webgpu", "openvino", "tensorrt"),
    "npu": ("qnn", "vitisai", "coreml", "openvino"),
}
"""What may stand behind the colon. Without it, ``cpu`` is the engine's own, and ``gpu`` and ``npu`` are the first of
these that the engine has."""

BUSES = ("usb", "pci")
SUFFIXES = (".so", ".dylib", ".dll")
LIBRARY = "library"
MOST_THREADS = 1024


@dataclass(frozen=True)
class Delegate:
    """Where an engine executes.

    Grammar: ``cpu[:THREADS]``, ``cpu:openvino``, ``gpu[:BACKEND]``, ``npu[:BACKEND]``, ``edgetpu[:usb|pci[:N]]``, or
    the path of a TFLite delegate library with options, ``./libfoo.so?key=value&key=value``. A path has a ``/``, or one
    of the suffixes ``.so``, ``.dylib``, ``.dll``; it and its options have no comma, which joins an order of preference
    (see `parse_delegates`). OpenVINO has a name on each of its three processors, because its CPU is no GPU. ``str``
    gives the canonical text.

    Attributes:
        kind: ``cpu``, ``gpu``, ``npu``, ``edgetpu`` or ``library``.
        threads: Worker threads of ``cpu``; None leaves the engine's default.
        name: The backend of the first three, the device of ``edgetpu`` (``usb``, ``pci:0``), or the library's path;
            None leaves the engine's choice.
        options: What a library is given, in the order of the text.
    """

    kind: str = "cpu"
    threads: int | None = None
    name: str | None = None
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Delegate:
        """Read one delegate.

        Raises:
            UnknownNameError: For a kind or backend that there is not.
            UsageError: For a thread count that is no positive integer, or an option that is no ``key=value``.
        """
        if _is_path(text):
            path, _, options = text.partition("?")
            return cls(LIBRARY, name=path, options=_options(text, options))
        kind, colon, rest = text.partition(":")
        if kind not in KINDS:
            raise UnknownNameError("--delegate", kind, (*KINDS, "./LIBRARY.so"))
        if not colon:
            return cls(kind)
        if kind == "cpu" and rest not in BACKENDS[kind]:
            return cls(kind, threads=_threads(text, rest))
        return cls(kind, name=_unit(text, rest) if kind == "edgetpu" else _backend(kind, rest))

    @property
    def is_plain_cpu(self) -> bool:
        """Whether it is the engine's own CPU, rather than anything that may fail or take nodes in part."""
        return self.kind == "cpu" and self.name is None

    def __str__(self) -> str:
        if self.kind == LIBRARY:
            return "?".join(filter(None, (self.name, "&".join(f"{key}={value}" for key, value in self.options))))
        detail = self.name or self.threads
        return self.kind if detail is None else f"{self.kind}:{detail}"


def parse_delegates(text: str) -> tuple[Delegate, ...]:
    """Read an order of preference, such as ``gpu,cpu``: each is used only where those before it failed.

    Raises:
        UnknownNameError: For a name that there is not.
        UsageError: For any other text that is outside the grammar, and for a delegate that stands there twice.
    """
    delegates = tuple(Delegate.parse(word.strip()) for word in text.split(","))
    twice = [str(delegate) for i, delegate in enumerate(delegates) if delegate in delegates[:i]]
    if twice:
        raise UsageError(f"--delegate {text}", f"names {twice[0]} twice", "name each delegate once")
    return delegates


def _is_path(text: str) -> bool:
    return "/" in text.partition("?")[0] or text.partition("?")[0].endswith(SUFFIXES)


def _options(text: str, words: str) -> tuple[tuple[str, str], ...]:
    pairs = [tuple(word.partition("=")[::2]) for word in words.split("&")] if words else []
    for word, (key, _) in zip(words.split("&"), pairs, strict=False):
        if not key or "=" not in word:
            raise UsageError(f"--delegate {text}", f"{word!r} is no option", "give ?key=value&key=value")
    return tuple((key, value) for key, value in pairs)


def _threads(text: str, count: str) -> int:
    if not count.isascii() or not count.isdecimal() or not 1 <= int(count) <= MOST_THREADS:
        raise UsageError(
            f"--delegate {text}", f"{count!r} is no thread count", "give a number, such as cpu:4, or openvino"
        )
    return int(count)


def _backend(kind: str, name: str) -> str:
    if name not in BACKENDS[kind]:
        raise UnknownNameError(f"--delegate {kind}:", name, BACKENDS[kind])
    return name


def _unit(text: str, name: str) -> str:
    """Read which Edge TPU: a bus, and the unit's number on it."""
    bus, colon, number = name.partition(":")
    if bus not in BUSES:
        raise UnknownNameError("--delegate edgetpu:", bus, BUSES)
    if colon and not (number.isascii() and number.isdecimal()):
        raise UsageError(f"--delegate {text}", f"{number!r} is no unit number", "give a number, such as edgetpu:usb:0")
    return name
