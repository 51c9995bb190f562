"""Signatures under the names that TensorFlow Serving's clients give them.

A signature without a name is ``serving_default``. A name that ends in ``:stored`` means the same signature with the
stored integers of its quantized tensors, where the plain name means real values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeferry_runtime.serving.lane import Lane
from edgeferry_runtime.serving.release import Release
from edgeferry_runtime.serving.service import signature
from edgeferry_runtime.tensors import TensorSpec

DEFAULT = "serving_default"
STORED = ":stored"


@dataclass(frozen=True)
class Signature:
    """A signature that a client named.

    Attributes:
        lane: What runs it.
        key: Its name in the release; None for the primary one.
        stored: Whether quantized tensors go in and out as stored integers.
    """

    lane: Lane
    key: str | None
    stored: bool = False

    def outputs(self) -> dict[str, bool]:
        """Return every output, and whether as stored values: what a `Call` takes."""
        return {spec.name: self.stored for spec in self.lane.outputs}

    def dtype(self, spec: TensorSpec) -> np.dtype[np.generic]:
        """Return the dtype of a tensor as the client sees it; a text's is object."""
        return np.dtype("float32" if spec.quantization and not self.stored else spec.dtype)


def find_signature(release: Release, name: str) -> Signature:
    """Return the signature that a client named; an empty name means the primary one.

    Raises:
        RefusedError: NOT_FOUND if there is none of this name.
    """
    base = name.removesuffix(STORED)
    key = None if base in ("", DEFAULT) and base not in release.lanes else base
    return Signature(signature(release, key), key, name.endswith(STORED))


def signatures(release: Release) -> dict[str, Signature]:
    """Return every signature by the name that a client gives it, those of stored integers only where there are any."""
    found: dict[str, Signature] = {}
    for key, lane in release.lanes.items():
        found[key or DEFAULT] = Signature(lane, key)
        if any(spec.quantization for spec in (*lane.inputs, *lane.outputs)):
            found[(key or DEFAULT) + STORED] = Signature(lane, key, stored=True)
    return found
