"""Opens a trained model for training, importing the one framework that it needs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from edgeferry_converter.compress.network import Network
from edgeferry_converter.sources import SourceSpec, detect
from edgeferry_runtime.errors import UnknownFormatError

OPENERS: Mapping[str, str] = {
    "keras": "edgeferry_converter.compress.on_keras.network",
    "h5": "edgeferry_converter.compress.on_keras.network",
    "factory": "edgeferry_converter.compress.on_torch.network",
}
"""By source format, the module that defines ``open_network(spec) -> Network``."""


def open_network(spec: SourceSpec) -> Network:
    """Open a ``.keras`` or HDF5 file of Keras 3, or a PyTorch factory with its weights.

    Raises:
        UnknownFormatError: For a source that cannot be trained.
        ArtifactError: If the file cannot be used, or is unsafe.
        MissingExtraError: If the framework is not installed.
    """
    found = detect(spec)
    if found not in OPENERS:
        raise refuse(spec, found)
    network: Network = importlib.import_module(OPENERS[found]).open_network(spec)
    return network


def refuse(spec: SourceSpec, found: str) -> UnknownFormatError:
    """Return the error of a source that cannot be trained."""
    fix = "give the .keras file, or FILE.py:FACTORY with --weights, that it was made from"
    return UnknownFormatError(spec, f"is {found}, which keeps what runs but not what trains", fix)
