"""What is not said in a recipe but by whoever runs it: data that execute code, the model's options, how to go on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODEL_OPTIONS = ("weights", "weights_key", "custom_objects", "submodule", "constant", "shape")
"""The fields of `edgeferry_converter.recipe.Recipe` that tell what a model's file does not say."""


@dataclass(frozen=True)
class Given:
    """What the user gave beside the recipe.

    Attributes:
        data: Labelled samples to train on, in place of the recipe's: a path, ``FILE.py:FUNCTION``, a function, arrays.
        evaluate: What to judge by, likewise, or a function that takes ``predict``.
        teacher: The teacher of every step that has one, in place of the recipe's.
        strict: Whether a layer that a method cannot do is refused instead of kept.
        resume: Whether to go on from what an earlier run has left.
        plot: Where to draw what was reached, ``.svg`` or ``.png``.
        model: What the model's file does not say: `MODEL_OPTIONS`.
    """

    data: object = None
    evaluate: object = None
    teacher: str | None = None
    strict: bool = False
    resume: bool = False
    plot: Path | None = None
    model: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.plot is not None:
            object.__setattr__(self, "plot", Path(self.plot))
        if self.teacher is not None:
            object.__setattr__(self, "teacher", os.fspath(self.teacher))


def words(value: object) -> str:
    """Return what data are called in errors and in the history."""
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if callable(value):
        return f"{getattr(value, '__qualname__', type(value).__name__)}()"
    return "arrays"
