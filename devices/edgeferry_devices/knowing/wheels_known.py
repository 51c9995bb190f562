"""For which Pythons and systems there are wheels of the engines, as far as is known without asking a package index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeferry_devices.platforms import ARM_32, Platform

FORMATS: Mapping[str, str] = {"tflite": "TFLite", "onnx": "ONNX"}
RUNS: Mapping[str, str] = {
    "ai_edge_litert": "tflite",
    "tflite_runtime": "tflite",
    "tensorflow.lite": "tflite",
    "onnxruntime": "onnx",
}
"""By engine, the format that it runs."""

ARM_64_AND_PC: Mapping[int, tuple[str, ...]] = {64: ("aarch64", "x86_64")}


@dataclass(frozen=True)
class Wheels:
    """What an engine is published for.

    Attributes:
        engine: Its name.
        format: The artifacts that it runs.
        requirement: How pip is asked for it.
        pythons: The oldest and the newest minor version of Python 3.
        machines: By bits of the userland, what the kernel may say of the machine.
        glibc: The oldest minor version of glibc 2.
    """

    engine: str
    format: str
    requirement: str
    pythons: tuple[int, int]
    machines: Mapping[int, tuple[str, ...]]
    glibc: int = 27

    def lack(self, platform: Platform) -> str:
        """Say why none fits a Python; nothing where one does."""
        oldest, newest = self.pythons
        if platform.machine not in self.machines.get(platform.bits, ()):
            return f"is not there for {platform.bits}-bit {platform.arch}"
        if not oldest <= platform.version[1] <= newest:
            return f"needs Python 3.{oldest} to 3.{newest}"
        if platform.glibc < self.glibc:
            return f"needs glibc 2.{self.glibc}"
        return ""


KNOWN = (
    Wheels("LiteRT", "tflite", "ai-edge-litert>=2.1", (10, 14), ARM_64_AND_PC, 34),
    Wheels("LiteRT", "tflite", "ai-edge-litert>=2.1,<2.1.6", (10, 14), ARM_64_AND_PC),
    Wheels("tflite-runtime", "tflite", "tflite-runtime>=2.14", (10, 11), {32: ARM_32}),
    Wheels("ONNX Runtime", "onnx", "onnxruntime>=1.20", (10, 14), ARM_64_AND_PC),
)
"""In the order of preference. ai-edge-litert needs glibc 2.34 from 2.1.6 on, though its tags promise 2.27. There are no
32-bit wheels of NumPy: it comes from the distribution there, and tflite-runtime takes NumPy 1 alone."""


SERVE = "serve"
"""The optional part of an installation that makes a device a server."""
SERVER = Wheels("the server", SERVE, "grpcio>=1.66,<1.84", (10, 14), ARM_64_AND_PC, 17)
"""What the server is published for, which is what the narrowest of its parts is: on 32-bit Arm there are wheels of
neither grpcio nor uvloop nor httptools, on musl none of the engines."""
SERVER_PARTS = (
    *("starlette>=0.45", "uvicorn>=0.34", "httptools>=0.6", "uvloop>=0.21", "python-multipart>=0.0.18"),
    *("orjson>=3.10", "prometheus-client>=0.21", SERVER.requirement, "protobuf>=5", "pillow>=10"),
)
"""What pip is asked for: the extra ``serve``."""


def fitting(platform: Platform) -> dict[str, Wheels]:
    """Return the engine for each format of artifact that has one for this Python."""
    found: dict[str, Wheels] = {}
    for wheels in KNOWN:
        if not wheels.lack(platform):
            found.setdefault(wheels.format, wheels)
    return found


def lacks(platform: Platform, artifact: str) -> str:
    """Say of each engine for a format of artifact why it does not fit, in the words of the least that it asks."""
    told = {wheels.engine: wheels.lack(platform) for wheels in KNOWN if wheels.format == artifact}
    return ", ".join(f"{engine} {why}" for engine, why in told.items() if why)
