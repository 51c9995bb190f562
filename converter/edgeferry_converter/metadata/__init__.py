"""Labels and preprocessing inside the artifact, where other tools of the ecosystem look for them.

TFLite: the metadata entry ``TFLITE_METADATA``, and label files in a zip archive behind the flatbuffer, as Android's
and MediaPipe's readers expect them. ONNX: ``metadata_props``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeferry_runtime.preprocess import Preprocess


@dataclass(frozen=True)
class Description:
    """What travels in an artifact beside the graph.

    Attributes:
        name: The model's name.
        text: One sentence for people.
        labels: One name per class; empty where there are none.
        preprocess: How pictures become inputs, where that is known.
    """

    name: str
    text: str = ""
    labels: tuple[str, ...] = ()
    preprocess: Preprocess | None = None


def describe(artifact: Path, description: Description, source: Path | None = None) -> None:
    """Write a description into an artifact, whose graph, names and weights stay as they are.

    Without labels and preprocessing nothing is written; then the files that `source`, a ``.tflite``, carried behind
    its flatbuffer are carried on.

    Args:
        artifact: The ``.tflite`` or ``.onnx`` file; it is replaced.
        description: What to write.
        source: What the artifact was made from.

    Raises:
        ConversionError: If the file cannot be written anew.
    """
    from edgeferry_converter.metadata import onnx, tflite

    known = bool(description.labels or description.preprocess)
    with artifact.open("rb") as stream:
        is_tflite = stream.read(8)[4:] == b"TFL3"
    if is_tflite:
        content = artifact.read_bytes()
        done = tflite.embed(content, description) if known else tflite.carry(content, source)
        if done is not content:
            artifact.write_bytes(done)
    elif known:
        artifact.write_bytes(onnx.embed(artifact, description))
