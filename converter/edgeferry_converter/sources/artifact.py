"""Sources that are artifacts already: ``.onnx`` and ``.tflite``. Their engine runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeferry_converter.sources import Entry
from edgeferry_converter.sources.tensors import in_order
from edgeferry_runtime.errors import UnknownNameError
from edgeferry_runtime.tensors import Array

if TYPE_CHECKING:
    from edgeferry_runtime.model import Model


def load_doubtful(path: Path) -> Model:
    """Load a file that may be corrupt: in a child process first, because it can crash the one that holds it.

    Raises:
        EngineError: If its engine refuses it, or dies of it.
    """
    from edgeferry_runtime.guard import try_in_child
    from edgeferry_runtime.model import load

    try_in_child(path)
    return load(path)


class ArtifactSource:
    """A deployable file as a source; see `edgeferry_converter.sources.Source`.

    Args:
        path: The file.
        model: The file, loaded.
        normalize: Returns the content of the artifact that `lower` writes; a subclass may give it more to do.
        tools: Versions of the packages that `normalize` needs.
    """

    def __init__(self, path: Path, model: Model, normalize: Callable[..., Any], tools: Mapping[str, str]) -> None:
        self.path, self.format = path, model.format
        self.framework = f"{model.engine} {model.engine_version}"
        self.tools: Mapping[str, str] = tools
        self.notes: tuple[str, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.signatures: Mapping[str, Entry] = {}
        self.inputs, self.outputs = model.inputs, model.outputs
        self.lowers_to: tuple[str, ...] = (model.format,)
        self._model, self._normalize = model, normalize

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Execute once."""
        in_order(self.path, self.inputs, feeds)
        return self._model.run(feeds)

    def lower(self, to: str, path: Path) -> None:
        """Write a copy of the file."""
        if to not in self.lowers_to:
            raise UnknownNameError(f"--to (from {self.path.name})", to, self.lowers_to)
        self._write(path)

    def _write(self, path: Path) -> None:
        path.write_bytes(self._normalize(self.path))
