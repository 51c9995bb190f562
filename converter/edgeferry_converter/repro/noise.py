"""Model files with noise for weights: the same shapes, dtypes, mean, deviation and limits, and none of the values."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeferry_converter import onnx_file
from edgeferry_converter.quiet import foreign, require
from edgeferry_runtime.errors import UnknownFormatError
from edgeferry_runtime.tensors import Array

INDICES = 64
"""Integers of at most so many elements are shapes, axes and paddings, without which a model does not run."""


def noise(values: Array, generator: np.random.Generator) -> Array:
    """Return noise of the same shape, dtype, mean, deviation and limits.

    Single numbers, short integer arrays, and what is not finite are the model's structure, and stay.
    """
    short = values.dtype.kind in "iu" and values.dtype.itemsize >= 4 and values.size <= INDICES
    if values.dtype.kind not in "iuf" or values.size <= 1 or short:
        return values
    known = np.isfinite(values)
    real = values[known].astype(np.float64)
    if not real.size:
        return values
    drawn = np.clip(generator.normal(real.mean(), real.std(), real.size), real.min(), real.max())
    made = values.copy()
    made[known] = (np.rint(drawn) if values.dtype.kind in "iu" else drawn).astype(values.dtype)
    return made


def with_noise(path: Path, kind: str, target: Path) -> None:
    """Write a model file with noise for weights.

    Args:
        path: The file.
        kind: A source format, or ``weights`` for PyTorch's.
        target: What to write.

    Raises:
        UnknownFormatError: If that format cannot be rewritten.
        ArtifactError: If the file cannot be read.
    """
    writers: Mapping[str, Callable[[Path, np.random.Generator], bytes]] = {
        "tflite": _tflite, "onnx": _onnx, "h5": _h5, "keras": _keras, "weights": _torch,
    }  # fmt: skip
    if kind not in writers:
        raise UnknownFormatError(path, f"is {kind}, whose weights cannot be replaced", "describe the model in words")
    with foreign(path, "its weights could not be replaced", error=UnknownFormatError):
        target.write_bytes(writers[kind](path, np.random.default_rng(0)))


def _tflite(path: Path, generator: np.random.Generator) -> bytes:
    """Replace buffers by their tensors' types; drop metadata, and whatever lies behind the flatbuffer."""
    from edgeferry_converter.explain.tflite_network import INTEGERS
    from edgeferry_converter.sources.signature import pack

    flatbuffers = require("--repro", "quantize", "ai_edge_litert.tools.flatbuffer_utils")
    model = flatbuffers.read_model_from_bytearray(path.read_bytes())
    kinds = {0: "float32", 1: "float16", 4: "int64", 10: "float64", **INTEGERS}
    types = {t.buffer: kinds.get(t.type) for graph in model.subgraphs for t in graph.tensors}
    for number, buffer in enumerate(model.buffers):
        if buffer.data is None or not len(buffer.data):
            continue
        dtype = types.get(number)
        values = np.frombuffer(bytes(buffer.data), dtype or np.uint8)
        made = noise(values, generator) if dtype else np.zeros(0, np.uint8)
        buffer.data = np.frombuffer(made.tobytes(), np.uint8) if number in types and dtype else None
    model.metadata, model.description = [], None
    return pack(model)


def _onnx(path: Path, generator: np.random.Generator) -> bytes:
    require("--repro", "quantize", "onnx")
    from onnx import numpy_helper

    from edgeferry_converter.quantize.onnx_prepare import graphs

    model = onnx_file.read(path)
    if onnx_file.is_split(model):
        raise UnknownFormatError(path, "holds more than one ONNX file can", "describe the model in words")
    del model.metadata_props[:], model.training_info[:]
    model.doc_string = ""
    bodies = [*graphs(model.graph), *(graph for function in model.functions for graph in graphs(function))]
    for body in bodies:
        body.doc_string = ""
        for node in body.node:
            node.doc_string = ""
            del node.metadata_props[:]
        attributes = [a for node in body.node for a in node.attribute]
        tensors = [tensor for a in attributes for tensor in ([a.t] if a.HasField("t") else []) + list(a.tensors)]
        for tensor in (*getattr(body, "initializer", ()), *tensors):
            tensor.CopyFrom(numpy_helper.from_array(noise(numpy_helper.to_array(tensor), generator), tensor.name))
        for attribute in attributes:
            attribute.ClearField("sparse_tensor")
            attribute.floats[:] = noise(np.array(attribute.floats, np.float32), generator).tolist()
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _h5(path: Path | io.BytesIO, generator: np.random.Generator) -> bytes:
    """Write a new file, for old chunks would stay in a changed one; the optimizer's state is left out."""
    h5py = require("--repro", "keras", "h5py")
    stream = io.BytesIO()
    with h5py.File(path, "r") as old, h5py.File(stream, "w") as new:
        _copy_group(h5py, old, new, generator)
        new.attrs.pop("training_config", None)
    return stream.getvalue()


def _copy_group(h5py: Any, old: Any, new: Any, generator: np.random.Generator) -> None:
    for key, value in old.attrs.items():
        new.attrs[key] = value
    for name, item in old.items():
        if name in ("optimizer_weights", "optimizer"):
            continue
        if isinstance(item, h5py.Group):
            _copy_group(h5py, item, new.create_group(name), generator)
        else:
            values = item[()]
            made = noise(values, generator) if isinstance(values, np.ndarray) else values
            dataset = new.create_dataset(name, data=made)
            dataset.attrs.update(item.attrs)


def _keras(path: Path, generator: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("config.json", old.read("config.json"))
        new.writestr("metadata.json", old.read("metadata.json"))
        weights = io.BytesIO(old.read("model.weights.h5"))
        new.writestr("model.weights.h5", _h5(weights, generator))
    return stream.getvalue()


def _torch(path: Path, generator: np.random.Generator) -> bytes:
    torch = require("--repro", "torch", "torch")
    from edgeferry_converter.sources.torch_weights import read_state

    state = read_state(path)
    made = {name: torch.from_numpy(noise(tensor.numpy(force=True), generator)) for name, tensor in state.items()}
    stream = io.BytesIO()
    torch.save(made, stream)
    return stream.getvalue()
