"""The methods of compression, each a small module: its options as data, and what it does to a network.

A method takes a `Network` and gives a `Work`: what is trained, what happens after each step of the optimizer, and what
comes out. The loop of training, the gates and the checkpoints are everybody's, in `training` and `chain`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

from edgeferry_converter.recipe import check_keys
from edgeferry_runtime.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from edgeferry_converter.compress.lessons import Lessons
    from edgeferry_converter.compress.network import Arrays, Course, Network

METHODS: Mapping[str, tuple[str, str]] = {
    "prune-weights": ("weights", "PruneWeights"),
    "prune-pattern": ("pattern", "PrunePattern"),
    "prune-channels": ("channels", "PruneChannels"),
    "distill": ("teaching", "Distill"),
    "quantize": ("quantizing", "Quantize"),
}
"""The module here and the class of options of each method."""


@dataclass(frozen=True)
class Context:
    """What a method knows beside the network.

    Attributes:
        lessons: What is trained on.
        course: What is made small, and how.
        seed: Of everything that is random in the step.
        strict: Whether a layer that cannot be done is refused instead of kept.
        score: Judges a network: the metric, in its unit.
        warn: Tells of what was left alone, with the reason.
    """

    lessons: Lessons
    course: Course
    seed: int
    strict: bool
    score: Callable[[Network], float]
    warn: Callable[[str], None]


class Options(Protocol):
    """A method's options: a frozen dataclass whose fields are the keys of ``[[step]]``."""

    def begin(self, network: Network, context: Context) -> Work:
        """Make a network ready to be trained by this method; the same network and context give the same.

        Args:
            network: May be changed, and is not used by others afterwards.
            context: The rest.

        Raises:
            UsageError: If a pattern matches no layer, or what is asked for does not fit the model.
            ConversionError: If the model cannot be rewritten.
            TrainingError: If a target cannot be reached; says how far it gets.
        """
        ...


class Work(Protocol):
    """A step at work."""

    @property
    def network(self) -> Network:
        """What is trained, and judged after each epoch."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """What the history says of the step; plain JSON."""
        ...

    def after_step(self, step: int) -> None:
        """Do what is due after a step of the optimizer, counted from 1."""
        ...

    def state(self) -> Arrays:
        """Return what is remembered beside the network's own state, for a checkpoint."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        ...

    def finish(self) -> Network:
        """Return what comes out, and complete `facts`.

        Raises:
            TrainingError: If a target was not reached; says how far it got.
        """
        ...


@dataclass
class Plain:
    """Work that only trains."""

    network: Network
    facts: dict[str, Any]

    def after_step(self, step: int) -> None:
        """Do nothing."""

    def state(self) -> Arrays:
        """Return nothing."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""

    def finish(self) -> Network:
        """Return the network as it is."""
        return self.network


def read(table: Mapping[str, Any]) -> Options:
    """Read ``method`` and its options.

    Raises:
        UnknownNameError: For a method or a key that there is not.
        UsageError: For a value that does not fit.
    """
    values = dict(table)
    name = values.pop("method", None)
    check_choice("step method", name, METHODS)
    kind = _options(name)
    check_keys(f"step {name}", values, [f.name for f in fields(kind)])
    options: Options = kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
    return options


def name_of(options: Options) -> str:
    """Return the method's name."""
    kind = (type(options).__module__, type(options).__name__)
    return next(name for name, place in METHODS.items() if _at(*place) == kind)


def _at(module: str, kind: str) -> tuple[str, str]:
    return f"{__name__}.{module}", kind


def _options(name: str) -> Any:
    module, kind = _at(*METHODS[name])
    return getattr(importlib.import_module(module), kind)


def check_choice(key: str, value: object, valid: Iterable[str]) -> None:
    """Refuse what is none of the valid names; a list or a table is none.

    Raises:
        UnknownNameError: With the nearest.
    """
    names = tuple(valid)
    if not isinstance(value, str) or value not in names:
        raise UnknownNameError(key, str(value), names)


def check_number(key: str, value: object, low: float, high: float, *, whole: bool = False) -> None:
    """Refuse what is no finite number in a range.

    Raises:
        UsageError: With the range.
    """
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high or not abs(value) < math.inf:  # type: ignore[operator, arg-type]
        what = "a whole number" if whole else "a number"
        raise UsageError(key, f"{value!r:.60} is out of range", f"give {what}{_range(low, high)}")


def _range(low: float, high: float) -> str:
    """Say a range in words; an open end is not said."""
    if math.isinf(high):
        return "" if math.isinf(low) else f" of at least {low:.12g}"
    return f" from {low:.12g} to {high:.12g}"
