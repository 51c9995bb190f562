"""Distillation: a teacher says of every sample what it thinks, and the student learns that too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeferry_converter.compress.methods import Context, Plain, Work, check_number
from edgeferry_converter.recipe import check_keys
from edgeferry_runtime.errors import UsageError

if TYPE_CHECKING:
    from edgeferry_converter.compress.network import Network

SOURCE = "source"
"""The teacher that is the model as it was given."""


@dataclass(frozen=True)
class Match:
    """A layer of the student that shall be like one of the teacher's.

    Attributes:
        student: The student's layer.
        teacher: The teacher's layer.
        weight: Of its loss beside the others.
    """

    student: str
    teacher: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_number("teach weight", self.weight, 0, 1e9)

    @classmethod
    def from_dict(cls, key: str, table: object) -> Match:
        """Read ``{student = "...", teacher = "...", weight = 1.0}``.

        Raises:
            UsageError: If it is something else.
            UnknownNameError: For a key that there is not.
        """
        fix = f'write {key} = [{{student = "LAYER", teacher = "LAYER"}}]'
        if not isinstance(table, Mapping):
            raise UsageError(f"teach.{key}", f"{table!r} is no table", fix)
        check_keys(f"teach.{key}", table, [f.name for f in fields(cls)])
        if not all(isinstance(table.get(side), str) for side in ("student", "teacher")):
            raise UsageError(f"teach.{key}", f"{dict(table)!r} does not name a layer of each side", fix)
        return cls(**table)


@dataclass(frozen=True)
class Teach:
    """Whom a step learns from, and how much.

    Attributes:
        teacher: `SOURCE`, or a model file, an artifact, a bundle, or ``FILE.py:FACTORY``.
        weights: Of a factory.
        soft: Share of the teacher's soft targets in the loss; the labels have the rest.
        temperature: Of the soft targets (Hinton, Vinyals and Dean 2015).
        hints: Layers whose values shall be like the teacher's (Romero et al. 2015).
        attention: Layers that shall look where the teacher's look (Zagoruyko and Komodakis 2017).
    """

    teacher: str = SOURCE
    weights: str | None = None
    soft: float = 0.5
    temperature: float = 4.0
    hints: tuple[Match, ...] = ()
    attention: tuple[Match, ...] = ()

    def __post_init__(self) -> None:
        check_number("teach.soft", self.soft, 0, 1)
        check_number("teach.temperature", self.temperature, 0.01, 1000)
        if self.weights is not None and ".py:" not in self.teacher:
            raise UsageError("teach.weights", f"the teacher {self.teacher} brings its own", "leave it out")
        if self.soft == 0 and not self.hints and not self.attention:
            raise UsageError("teach", "soft is 0 and no layer is named: nothing is taught", "raise soft, or name hints")
        for key in ("hints", "attention"):
            students = [match.student for match in getattr(self, key)]
            for layer in students:
                if students.count(layer) > 1:
                    raise UsageError(f"teach.{key}", f"the student's layer {layer!r} is there twice", "name it once")

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], folder: Path) -> Teach:
        """Read ``[step.teach]``; a path is relative to `folder`.

        Raises:
            UsageError: For a value that does not fit.
            UnknownNameError: For a key that there is not.
        """
        if not isinstance(table, Mapping):
            raise UsageError("recipe key 'teach'", "is no table", "write it as [step.teach] with its keys below")
        check_keys("teach", table, [f.name for f in fields(cls)])
        values = dict(table)
        for key in {"teacher", "weights"} & set(values):
            if not isinstance(values[key], str):
                raise UsageError(f"teach.{key}", f"{values[key]!r} is no path", "give a file")
            if values[key] != SOURCE:
                values[key] = str(folder / values[key])
        for key in ("hints", "attention"):
            values[key] = tuple(Match.from_dict(key, one) for one in _listed(key, values.get(key, [])))
        return cls(**values)


@dataclass(frozen=True)
class Distill:
    """A step that only trains: by its ``[step.teach]``, and without one by the model as it was given."""

    def begin(self, network: Network, context: Context) -> Work:
        """Train the network as it is."""
        return Plain(network, {})


def _listed(key: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        reason = f"{value!r} is no list"
        raise UsageError(f"teach.{key}", reason, f'write {key} = [{{student = "LAYER", teacher = "LAYER"}}]')
    return value
