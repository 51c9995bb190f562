"""Overrides: layers or operators that get another precision than the rest of a model."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from edgeferry_runtime.errors import UnknownNameError, UsageError
from edgeferry_runtime.numerics import TOLERANCES

KEYS = ("layer", "operator", "precision")


class Layer(NamedTuple):
    """An operator of an artifact.

    Attributes:
        names: What it may be called, the preferred name first.
        operator: Its kind, such as ``CONV_2D`` or ``Conv``.
    """

    names: tuple[str, ...]
    operator: str


@dataclass(frozen=True)
class Override:
    """Another precision for some layers.

    Attributes:
        precision: One of the names that ``quantize`` takes; ``none`` keeps float32.
        layer: A name or a shell pattern (``*``, ``?``, ``[abc]``; case matters); None matches every layer.
        operator: A kind of operator as the format calls it; None matches every kind.

    Raises:
        UnknownNameError: For a precision that does not exist.
        UsageError: If neither a layer nor an operator is given.
    """

    precision: str
    layer: str | None = None
    operator: str | None = None

    def __post_init__(self) -> None:
        for key in KEYS:
            value = getattr(self, key)
            if value is not None and (not isinstance(value, str) or not value):
                raise UsageError(f"override key {key!r}", f"{value!r} is no name", "give it as text")
        if self.precision not in TOLERANCES:
            raise UnknownNameError("override precision", str(self.precision), TOLERANCES)
        if self.layer is None and self.operator is None:
            raise UsageError("override", "names neither a layer nor an operator", "add layer = PATTERN")

    def __str__(self) -> str:
        return f"--override {self.layer or self.operator}={self.precision}"

    @classmethod
    def parse(cls, text: str) -> Override:
        """Read ``LAYER=PRECISION``.

        Raises:
            UsageError: If it is written in another way.
        """
        layer, equals, precision = text.rpartition("=")
        if not equals or not layer:
            raise UsageError(f"--override {text}", "is not LAYER=PRECISION", "write it as --override '*dense*=none'")
        return cls(precision, layer)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Override:
        """Read the form that TOML has.

        Raises:
            UsageError: If the precision is missing.
            UnknownNameError: For a key that an override does not have.
        """
        for key in table:
            if key not in KEYS:
                raise UnknownNameError("override key", key, KEYS)
        if "precision" not in table:
            raise UsageError("override", "says no precision", "add precision = 'none', or another name")
        return cls(**table)

    def matches(self, layer: Layer) -> bool:
        """Tell whether it speaks of a layer."""
        named = self.layer is None or any(n == self.layer or fnmatchcase(n, self.layer) for n in layer.names)
        return named and self.operator in (None, layer.operator)


def resolve(overrides: Sequence[Override], layers: Sequence[Layer]) -> dict[int, Override]:
    """Find the override of each layer; where several match, the last one holds.

    Returns:
        By the layer's position its override; layers without one are left out.

    Raises:
        UsageError: If an override matches nothing; it tells the nearest names.
    """
    found: dict[int, Override] = {}
    for override in overrides:
        matched = {i: override for i, layer in enumerate(layers) if override.matches(layer)}
        if not matched:
            raise _unmatched(override, layers)
        found |= matched
    return found


def _unmatched(override: Override, layers: Sequence[Layer]) -> UsageError:
    """Name the layers and operators that are nearest to what was asked for."""
    kinds = sorted({layer.operator for layer in layers})
    if override.operator is not None and override.operator not in kinds:
        return UnknownNameError(f"{override}: operator", override.operator, kinds)
    names = [layer.names[0] for layer in layers if override.operator in (None, layer.operator)]
    wanted = (override.layer or "").strip("*")
    inside = [name for name in names if wanted.lower() and wanted.lower() in name.lower()]
    nearest = inside or difflib.get_close_matches(wanted, names, n=3, cutoff=0.2) or names
    fix = f"use one of them, or a pattern with *; the nearest are {', '.join(map(repr, nearest[:3]))}"
    return UsageError(override, f"matches none of the {len(names)} layers", fix)
