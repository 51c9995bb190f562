"""The smallest models with which an engine can be tried: ``y = x + x`` of float32 [1, 4]."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

TFLITE = zlib.decompress(
    base64.b64decode(
        b"eNpdjjEOwjAMRV8gQ6VaKEOHDozcgJ6BiYGBgSuwMDG0t+UQ7ME2rohI9BTZ/zv+I3A9nY+wY2SgIHRkrdAK9spBeStbJSnZtFqr"
        b"vc/7YyH6RZHmD4nexXYot/DZv7ZvcF3oY1/xPv06N+uOFDMbfic1ENoUuV4603mOr76EvuYWz4ZX5mm98583hZ79wgf7VhLk"
    )
)
ONNX = (
    b'\x08\t:@\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add\x12\x04tinyZ\x13\n\x01x\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x01'
    b"\n\x02\x08\x04b\x13\n\x01y\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x01\n\x02\x08\x04B\x04\n\x00\x10\x12"
)


def write_models(folder: Path) -> dict[str, Path]:
    """Write a model of each format to a folder, and return them by format."""
    files = {"tflite": folder / "tiny.tflite", "onnx": folder / "tiny.onnx"}
    files["tflite"].write_bytes(TFLITE)
    files["onnx"].write_bytes(ONNX)
    return files
