"""Sources: a trained model as its framework keeps it. One file per family, found by the content of the file.

A source runs (the truth that every artifact is compared with) and lowers itself to a float artifact whose
input and output names, order and shapes are its own. Two rules for the batch, axis 0, where it is dynamic:
TFLite artifacts pin it to 1, which delegates and quantizers handle best; ONNX artifacts keep it dynamic.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgeferry_runtime.errors import UsageError
from edgeferry_runtime.tensors import Array, TensorSpec

MODULES: Mapping[str, str] = {
    "keras": "edgeferry_converter.sources.keras",
    "h5": "edgeferry_converter.sources.keras",
    "savedmodel": "edgeferry_converter.sources.savedmodel",
    "torchscript": "edgeferry_converter.sources.torchscript",
    "exported": "edgeferry_converter.sources.exported",
    "factory": "edgeferry_converter.sources.factory",
    "onnx": "edgeferry_converter.sources.onnx",
    "tflite": "edgeferry_converter.sources.tflite",
}
"""The module of each source format; it defines ``open_source(spec) -> Source``."""

HINTED = ("factory", "torchscript")
"""The formats whose files do not tell the shapes of their inputs, which are then learned from data."""


@dataclass(frozen=True)
class SourceSpec:
    """Where a source lies, and what its file does not say.

    Attributes:
        path: The model file or folder; for a factory the Python file.
        factory: The function in that file which returns the module; None for every other format.
        weights: The factory's weights: ``.pt``, ``.pth``, ``.th`` or ``.safetensors``.
        shapes: By input name, the shape it shall have; a first dimension of -1 is a dynamic batch.
        weights_key: Where in a checkpoint the weights lie; None finds them where there is one place only.
        custom_objects: The Python file and the names in it that a Keras file needs; None allows no code.
        signature: The signatures of a SavedModel or a TFLite file to take; empty takes all of them.
        one_signature: Whether what it becomes has room for one only; then ``serving_default``, or the only one.
        submodule: The part of a TorchScript module that is the model, such as ``_model``; dots lead deeper.
        constants: By name, the values of inputs that are no data, such as a sample rate.
        hints: By input name, or by "" for the only input, the shape to take where nothing else tells it.
    """

    path: Path
    factory: str | None = None
    weights: Path | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    hints: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    weights_key: str | None = None
    custom_objects: tuple[Path, tuple[str, ...]] | None = None
    submodule: str | None = None
    constants: Mapping[str, int | float | bool] = field(default_factory=dict)
    signature: tuple[str, ...] = ()
    one_signature: bool = False

    @classmethod
    def parse(
        cls, text: str, weights: Path | None = None, shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> SourceSpec:
        """Read ``PATH`` or ``FILE.py:FACTORY``.

        Raises:
            UsageError: For a Python file without a factory, or weights without a factory.
        """
        path, colon, factory = text.rpartition(":")
        if not colon or not path.endswith(".py"):
            path, factory = text, ""
        if path.endswith(".py") and not factory:
            raise UsageError(text, "is Python, and says not which function makes the model", f"write {text}:FACTORY")
        if weights is not None and not factory:
            raise UsageError("--weights", f"{text} brings its own weights", "leave it out, or give FILE.py:FACTORY")
        return cls(Path(path), factory or None, weights, dict(shapes or {}))

    def __str__(self) -> str:
        return f"{self.path}:{self.factory}" if self.factory else str(self.path)


class Entry(Protocol):
    """One way into a model: a source of one signature is one, and so is a loaded artifact."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it takes, in its own order; -1 marks a dynamic dimension."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it gives, likewise."""
        ...

    def run(self, feeds: Mapping[str, Array], /) -> dict[str, Array]:
        """Execute once; see `Source.run`."""
        ...


class Source(Protocol):
    """A trained model, opened.

    Attributes:
        path: The file or folder that it was read from.
        format: One of `MODULES`.
        framework: What executes it, such as ``keras 3.15.0``.
        inputs: Its inputs in its own order; -1 marks a dynamic dimension.
        outputs: Its outputs, likewise.
        lowers_to: The artifact formats that `lower` can write.
        tools: Versions of the packages that were used so far, by distribution name.
        notes: What was chosen on the way, one sentence each, such as which signature; grows while lowering.
        warnings: What was chosen that the user may not expect, likewise.
        signatures: Each signature by name, the primary one first, whose inputs, outputs and run are the source's own;
            empty where there are not several.
    """

    path: Path
    format: str
    framework: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    lowers_to: tuple[str, ...]
    tools: Mapping[str, str]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    signatures: Mapping[str, Entry]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Execute once.

        Args:
            feeds: One array per input by name, as the model takes it, batch axis included.

        Returns:
            One array per output by name.

        Raises:
            DataError: If the names are not those of the inputs.
            ConversionError: If the framework fails.
        """
        ...

    def lower(self, to: str, path: Path) -> None:
        """Write the float artifact.

        Args:
            to: One of `lowers_to`.
            path: The file to write, in one go when the conversion has succeeded.

        Raises:
            UnknownNameError: If this source does not lower to that format.
            ConversionError: If the framework's converter refuses the model.
        """
        ...


class OpenSource(Protocol):
    """What a source's module offers as ``open_source``."""

    def __call__(self, spec: SourceSpec) -> Source:
        """Open a source whose format was detected."""
        ...


def detect(spec: SourceSpec) -> str:
    """Tell the format of a source by its content.

    Raises:
        MissingFileError: If there is no such file.
        UnknownFormatError: If it is none of the formats.
        CorruptFileError: If it is one of them, but truncated.
        UnsafeFileError: If it is a pickle.
    """
    from edgeferry_converter.sources.detection import detect_format

    return detect_format(spec)


def open_source(spec: SourceSpec) -> Source:
    """Detect a source's format and open it, importing only the framework that it needs.

    Raises:
        ArtifactError: If the file cannot be used, or is unsafe.
        MissingExtraError: If the framework is not installed.
        UsageError: If the spec does not fit the source.
    """
    opener: OpenSource = importlib.import_module(MODULES[detect(spec)]).open_source
    return opener(spec)
