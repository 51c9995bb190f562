"""Keras models: ``.keras`` archives and HDF5 files, of Keras 3 and of Keras 2."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgeferry_converter.quiet import foreign, require, summary
from edgeferry_converter.sources import Source, SourceSpec, detect
from edgeferry_converter.sources.detection import AGAIN
from edgeferry_converter.sources.finite import check_finite
from edgeferry_converter.sources.python_file import imported
from edgeferry_converter.sources.signature import KEY
from edgeferry_converter.sources.tensorflow_lowering import Call, TensorFlowSource, Traced
from edgeferry_converter.sources.tensors import unique, with_shapes
from edgeferry_runtime.errors import (
    ArtifactError,
    CorruptFileError,
    UnknownFormatError,
    UnknownNameError,
    UnsafeFileError,
    UsageError,
)
from edgeferry_runtime.tensors import TensorSpec

PACKAGES = ("keras", "tf_keras", "builtins")
"""Where the objects that a file names may come from; objects of other packages are not registered here anyway."""

NAMESPACES = ("math", "nn", "linalg", "image", "signal", "__operators__")
OPERATIONS = frozenset(
    {"reshape", "concat", "cast", "squeeze", "expand_dims", "transpose", "stack", "unstack", "split", "tile", "pad"}
    | {"gather", "gather_nd", "slice", "strided_slice", "shape", "size", "rank", "where", "clip_by_value", "identity"}
    | {"convert_to_tensor", "zeros_like", "ones_like", "reverse", "roll", "one_hot", "fill", "range", "broadcast_to"}
    | {"tensordot", "einsum", "norm", "batch_to_space", "space_to_batch", "space_to_batch_nd", "meshgrid"}
)
"""The functions of TensorFlow that a layer of Keras 2 may call by name: they only compute."""

UNKNOWN_CLASS = re.compile(r"(?:Unknown \w+:|Could not locate (?:class|function)) '(?:\w+>)?(\w+)'")
"""How both Keras say that they do not know a class."""

NEEDS_CODE = "give its Python source, which is then executed: --custom-objects FILE.py:{}"

REFUSALS = (ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError, NotImplementedError, IndexError)
"""What Keras 3 raises on a file that Keras 2 wrote."""


def open_source(spec: SourceSpec) -> Source:
    """Load a Keras model for inference, without executing code from the file.

    HDF5 files that Keras 3 refuses are read by Keras 2 (``tf_keras``).

    Raises:
        UnsafeFileError: If it has Lambda layers, which are Python code.
        CorruptFileError: If it is damaged.
        UnknownFormatError: If an HDF5 file holds weights only.
        ArtifactError: If neither Keras can load it.
    """
    opened = load_model(spec)
    inputs = with_shapes(input_specs(opened.model), spec.shapes)
    traced = Traced(spec.path, Call(_flat(opened.model)), inputs, output_names(opened.model))
    source = TensorFlowSource((spec.path, detect(spec)), opened.framework, {KEY: traced})
    source.notes = opened.notes
    return source


class Opened(NamedTuple):
    """A model as its framework has it.

    Attributes:
        framework: The distribution that loaded it: ``keras``, or ``tf_keras`` for Keras 2.
        model: The model.
        notes: What is to be said of that.
    """

    framework: str
    model: Any
    notes: tuple[str, ...]


def load_model(spec: SourceSpec) -> Opened:
    """Load a Keras model, without executing code from the file.

    Raises:
        EdgeferryError: As `open_source` does.
    """
    kind = detect(spec)
    config = _read_archive_config(spec.path) if kind == "keras" else _read_h5_config(spec.path)
    _check_config(spec.path, config, spec.custom_objects[1] if spec.custom_objects else ())
    opened = _load(spec, kind)
    check_finite(spec.path, ((getattr(w, "path", w.name), w.numpy()) for w in opened.model.weights))
    return opened


def _read_archive_config(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, OSError, ValueError, KeyError) as error:
        raise CorruptFileError(path, f"its config.json cannot be read ({summary(error)})", AGAIN) from error


def _read_h5_config(path: Path) -> Any:
    h5py = require(path, "keras", "h5py")
    try:
        with h5py.File(path, "r") as file:
            config = file.attrs.get("model_config")
    except (OSError, RuntimeError, KeyError) as error:
        raise CorruptFileError(path, f"is truncated or damaged ({summary(error)})", AGAIN) from error
    if config is None:
        fix = "save the whole model: model.save(FILE)"
        raise UnknownFormatError(path, "holds no Keras model, at most its weights", fix)
    try:
        return json.loads(config)
    except ValueError as error:
        raise CorruptFileError(path, f"its model_config cannot be read ({summary(error)})", AGAIN) from error


def _check_config(path: Path, config: Any, allowed: Collection[str]) -> None:
    """Refuse what would bring code along, which Keras 2 would execute without asking."""
    for part in _objects(config):
        kind, module = part.get("class_name"), part.get("module")
        foreign_class = kind and isinstance(module, str) and module.partition(".")[0] not in PACKAGES
        if foreign_class and kind not in allowed:
            reason = f"has {kind}, an object of the Python module {module}: loading it could execute code"
            raise UnsafeFileError(path, reason, NEEDS_CODE.format(kind))
        code = _code_in(part)
        if code:
            fix = "replace it by layers of Keras, and save the model again"
            raise UnsafeFileError(path, f"has {code}: loading it could execute code", fix)


def _code_in(part: dict[str, Any]) -> str:
    """Say what in one serialized object could execute code; empty where nothing can."""
    kind = part.get("class_name")
    if kind in ("Lambda", "__lambda__"):
        return "a Lambda layer"
    if kind in ("TFOpLambda", "SlicingOpLambda"):
        function = str(part.get("config", {}).get("function"))
        return "" if _only_computes(function) else f"the TensorFlow function {function}"
    return "a method of a TensorFlow class" if kind == "ClassMethod" else ""


def _only_computes(function: str) -> bool:
    namespace, _, name = function.removeprefix("compat.v1.").rpartition(".")
    return namespace in NAMESPACES or (not namespace and name in OPERATIONS)


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    if isinstance(config, dict):
        yield config
        config = list(config.values())
    for part in config if isinstance(config, list) else ():
        yield from _objects(part)


def _load(spec: SourceSpec, kind: str) -> Opened:
    path = spec.path
    keras = require(path, "keras", "keras")
    require(path, "keras", "tensorflow")
    if keras.backend.backend() != "tensorflow":
        raise UsageError("KERAS_BACKEND", f"is {keras.backend.backend()!r}", "set KERAS_BACKEND=tensorflow")
    own = _custom_objects(spec)
    with foreign(path, "Keras could not load it", "save it again with Keras 3: model.save(FILE)", ArtifactError):
        try:
            with keras.saving.custom_object_scope(own):
                return Opened("keras", keras.saving.load_model(path, compile=False, safe_mode=True), ())
        except REFUSALS as error:
            if kind != "h5":
                _check_unknown_class(path, error)
                raise
            refusal = error
            note = f"read by tf-keras, which is Keras 2, because Keras 3 refuses it ({summary(error)[:160]})"
        try:
            tf_keras = require(path, "keras", "tf_keras")
            with tf_keras.utils.custom_object_scope(own):
                return Opened("tf_keras", tf_keras.models.load_model(path, compile=False), (note,))
        except REFUSALS as error:
            _check_unknown_class(path, error)
            _check_unknown_class(path, refusal)
            raise


def _custom_objects(spec: SourceSpec) -> dict[str, Any]:
    """Execute the Python file that the user gave, and return what he named in it."""
    if spec.custom_objects is None:
        return {}
    file, names = spec.custom_objects
    with foreign(file, "failed when it was executed", "mend the file", ArtifactError), imported(file) as python:
        for name in names:
            if not hasattr(python, name):
                own = [n for n, v in vars(python).items() if getattr(v, "__module__", "") == python.__name__]
                raise UnknownNameError(f"--custom-objects {file}", name, own or ["none: it defines nothing"])
        return {name: getattr(python, name) for name in names}


def _check_unknown_class(path: Path, error: Exception) -> None:
    """Name the class that Keras does not know, and the flag that brings it."""
    found = UNKNOWN_CLASS.search(str(error))
    if found:
        reason = f"needs the Python class or function {found[1]}, which Keras does not have"
        raise ArtifactError(path, reason, NEEDS_CODE.format(found[1])) from error


def _flat(model: Any) -> Any:
    """Call a model on flat tensors, for a flat list of tensors."""
    structure = getattr(model, "input", model.inputs[0])  # a Sequential has no input before its first call

    def call(*tensors: Any) -> Sequence[Any]:
        import tensorflow as tf

        answer = model(tf.nest.pack_sequence_as(structure, tensors), training=False)
        return list(tf.nest.flatten(answer))

    return call


def input_specs(model: Any) -> tuple[TensorSpec, ...]:
    """Return a model's inputs, in its own order."""
    names = unique(getattr(model, "input_names", None) or [t.name.partition(":")[0] for t in model.inputs])
    return tuple(_spec(name, tensor) for name, tensor in zip(names, model.inputs, strict=True))


def output_names(model: Any) -> list[str]:
    """Return the names of a model's outputs, in its own order."""
    return unique(getattr(model, "output_names", None) or [model.layers[-1].name])


def output_specs(model: Any) -> tuple[TensorSpec, ...]:
    """Return a model's outputs, in its own order."""
    return tuple(_spec(name, tensor) for name, tensor in zip(output_names(model), model.outputs, strict=True))


def _spec(name: str, tensor: Any) -> TensorSpec:
    dtype = tensor.dtype if isinstance(tensor.dtype, str) else tensor.dtype.name
    return TensorSpec(name, tuple(-1 if d is None else int(d) for d in tensor.shape), dtype)
