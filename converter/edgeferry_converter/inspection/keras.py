"""What a ``.keras`` or ``.h5`` file tells about itself: its configuration and weights, without Keras."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeferry_converter.inspection.graph import BITS
from edgeferry_converter.inspection.keras_shapes import Shape, macs, output
from edgeferry_converter.inspection.report import Inspection, Layer
from edgeferry_converter.quiet import require, summary
from edgeferry_runtime.errors import CorruptFileError, UnknownFormatError
from edgeferry_runtime.tensors import TensorSpec

AGAIN = "save or download it again"
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError, zipfile.BadZipFile)
"""What a damaged archive, HDF5 file or configuration raises."""

Weights = Mapping[str, "list[tuple[Shape, str]]"]
"""By the name of a layer's group: shape and dtype of each weight."""


def inspect_keras(path: Path, kind: str) -> Inspection:
    """Read one file.

    Args:
        path: The file.
        kind: ``keras`` or ``h5``.

    Raises:
        CorruptFileError: If it is damaged.
        UnknownFormatError: If it holds weights only.
        MissingExtraError: If h5py is not installed.
    """
    h5py = require(path, "keras", "h5py")
    try:
        config, weights, version = (_archive if kind == "keras" else _h5)(h5py, path)
        if config is None:
            raise UnknownFormatError(path, "holds no Keras model, at most its weights", "give the whole model")
        return _inspection(path, kind, (config, weights, version))
    except DAMAGE as error:
        if isinstance(error, UnknownFormatError):
            raise
        raise CorruptFileError(path, f"cannot be read ({summary(error)})", AGAIN) from error


def _archive(h5py: Any, path: Path) -> tuple[Any, Weights, str]:
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
        version = str(json.loads(archive.read("metadata.json")).get("keras_version", ""))
        with h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as file:
            layers = file.get("layers") or file.get("_layer_checkpoint_dependencies") or {}
            groups = {name: list(_weights(h5py, layers[name])) for name in layers}
    return config, _by_layer(config, groups), version


def _by_layer(config: Any, groups: Weights) -> Weights:
    """Keras 3 calls the groups by class and number, in the order of the layers."""
    seen: Counter[str] = Counter()
    found, left = {}, dict(groups)
    for layer in config["config"]["layers"]:
        kind = _snake(layer["class_name"])
        found[_name(layer)] = left.pop(f"{kind}_{seen[kind]}" if seen[kind] else kind, [])
        seen[kind] += 1
    return {**left, **found}


def _snake(name: str) -> str:
    """Write a class as Keras does: MaxPooling2D becomes max_pooling2d."""
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()


def _h5(h5py: Any, path: Path) -> tuple[Any, Weights, str]:
    with h5py.File(path, "r") as file:
        text, version = file.attrs.get("model_config"), file.attrs.get("keras_version", "")
        groups = file.get("model_weights") or {}
        weights = {name: list(_weights(h5py, groups[name])) for name in groups}
    version = version.decode(errors="replace") if isinstance(version, bytes) else str(version)
    return (None if text is None else json.loads(text)), weights, version


def _weights(h5py: Any, group: Any) -> Iterator[tuple[Shape, str]]:
    found: list[tuple[Shape, str]] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and "seed_generator" not in name:
            found.append((tuple(int(d) for d in item.shape), item.dtype.name))

    group.visititems(visit)
    yield from found


def _inspection(path: Path, kind: str, content: tuple[Any, Weights, str]) -> Inspection:
    config, weights, version = content
    listed = config["config"]["layers"] if isinstance(config["config"], dict) else config["config"]
    shapes: dict[str, Shape | None] = {}
    found, previous = [], ""
    for layer in listed:
        name = _name(layer)
        given = [shapes.get(key) for key in _inbound(layer) or [previous] if key]
        shapes[name] = _declared(layer) or output(layer["class_name"], layer["config"], given)
        if layer["class_name"] != "InputLayer":
            found.append(_layer(layer, weights.get(name, []), given[0] if given else None, shapes[name]))
        previous = name
    found += [_unlisted(name, weights[name]) for name in weights.keys() - shapes.keys() if weights[name]]
    outputs = _names(config, "output_layers") or [previous]
    return Inspection(
        path=path,
        format=kind,
        size=path.stat().st_size,
        inputs=tuple(_borders(_input_names(config, listed), shapes)),
        outputs=tuple(_borders(outputs, shapes)),
        layers=tuple(found),
        metadata={"Keras": version, "class": config["class_name"]} if version else {"class": config["class_name"]},
        notes=tuple(_notes(found, shapes, outputs)),
    )


def _name(layer: Any) -> str:
    return str(layer.get("name") or layer["config"].get("name"))


def _declared(layer: Any) -> Shape | None:
    """Return the shape that an input declares, also a first layer of Keras 2 without an input of its own."""
    dims = layer["config"].get("batch_shape") or layer["config"].get("batch_input_shape")
    if not dims:
        return None
    shape = tuple(-1 if d is None else int(d) for d in dims)
    return shape if layer["class_name"] == "InputLayer" else output(layer["class_name"], layer["config"], [shape])


def _inbound(layer: Any) -> list[str]:
    """Name the layers that a layer takes its inputs from, in the forms of Keras 2 and Keras 3."""
    return list(dict.fromkeys(_histories((layer.get("inbound_nodes") or [])[:1])))


def _histories(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "keras_history" in part:
            yield str(part["keras_history"][0])
            return
        part = [part.get("args", []), part.get("kwargs", {}), part.get("config", {})] if part else []
    elif isinstance(part, list) and len(part) >= 3 and isinstance(part[0], str) and isinstance(part[1], int):
        yield part[0]
        return
    for item in part if isinstance(part, list) else ():
        yield from _histories(item)


def _layer(layer: Any, weights: list[tuple[Shape, str]], given: Shape | None, made: Shape | None) -> Layer:
    kind, dtype = layer["class_name"], layer["config"].get("dtype", "float32")
    sizes = [(_product(shape), name) for shape, name in weights]
    return Layer(
        name=_name(layer),
        operator=kind,
        shape=made,
        activation=dtype if isinstance(dtype, str) else str(dtype.get("config", {}).get("name", "")),
        weight=max(sizes)[1] if sizes else "",
        parameters=sum(size for size, _ in sizes),
        weight_bytes=sum(size * BITS.get(name, 32) // 8 for size, name in sizes),
        macs=macs(kind, [shape for shape, _ in weights], given, made),
    )


def _unlisted(name: str, weights: list[tuple[Shape, str]]) -> Layer:
    """Count weights that belong to none of the layers by name, so that the sums are right."""
    layer = {"class_name": "weights", "config": {"dtype": "", "name": name}}
    return _layer(layer, weights, None, None)


def _product(shape: Shape) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _names(config: Any, key: str) -> list[str]:
    layers = config["config"].get(key) if isinstance(config["config"], dict) else None
    if not layers:
        return []
    return [layers[0]] if isinstance(layers[0], str) else [str(entry[0]) for entry in layers]


def _input_names(config: Any, layers: list[Any]) -> list[str]:
    return _names(config, "input_layers") or [_name(x) for x in layers if x["class_name"] == "InputLayer"]


def _borders(names: list[str], shapes: Mapping[str, Shape | None]) -> Iterator[TensorSpec]:
    for name in names:
        shape = shapes.get(name)
        if shape is not None:
            yield TensorSpec(name, shape, "float32")


def _notes(layers: list[Layer], shapes: Mapping[str, Shape | None], outputs: list[str]) -> Iterator[str]:
    if any(layer.macs is None for layer in layers):
        yield "the MACs of some layers cannot be told from the file alone: convert it and inspect the bundle"
    for name in outputs:
        if shapes.get(name) is None:
            yield f"the shape of the output {name!r} cannot be told from the file alone"
