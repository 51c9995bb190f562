"""The recipe of a compression: which steps, on which data, trained how. One frozen dataclass and one TOML file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgeferry_converter.compress import methods
from edgeferry_converter.compress.methods.teaching import Distill, Teach
from edgeferry_converter.metrics import METRICS
from edgeferry_converter.recipe import Recipe, check_keys, read_toml
from edgeferry_runtime.errors import UsageError

OPTIMIZERS: Mapping[str, float] = {"sgd": 0.01, "adam": 1e-3, "adamw": 1e-3}
"""Each optimizer with the learning rate that it has by default."""
SCHEDULES = ("constant", "cosine", "linear")
LOSSES = ("auto", "cross-entropy", "binary-cross-entropy", "mse")
MIXED = ("auto", "never", "always")


@dataclass(frozen=True)
class Train:
    """How a step trains.

    Attributes:
        epochs: Passes over the data; 0 trains nothing.
        batch_size: Samples a step of the optimizer.
        optimizer: ``sgd`` (with momentum), ``adam`` or ``adamw``.
        learning_rate: At its highest; None is the optimizer's own default (`OPTIMIZERS`).
        momentum: Of ``sgd``.
        weight_decay: Of ``adamw`` decoupled (Loshchilov and Hutter 2019), of the others an L2 penalty; 0 is none.
        schedule: ``constant``, ``cosine`` (Loshchilov and Hutter 2017, without restarts) or ``linear``, down to zero.
        warmup: The share of all steps in which the rate rises from zero, 0 to 1.
        clip_norm: Longest gradient, as a global norm; None does not clip.
        loss: ``auto`` (by the labels), or one of `LOSSES`.
        label_smoothing: What of the truth is spread over all classes.
        mixed_precision: ``auto`` computes in 16 bits where there is a GPU, ``never`` and ``always`` say so.
    """

    epochs: int = 3
    batch_size: int = 32
    optimizer: str = "adam"
    learning_rate: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup: float = 0.0
    clip_norm: float | None = None
    loss: str = LOSSES[0]
    label_smoothing: float = 0.0
    mixed_precision: str = MIXED[0]

    def __post_init__(self) -> None:
        for key, valid in {
            "optimizer": OPTIMIZERS,
            "schedule": SCHEDULES,
            "loss": LOSSES,
            "mixed_precision": MIXED,
        }.items():
            methods.check_choice(f"train.{key}", getattr(self, key), valid)
        methods.check_number("train.epochs", self.epochs, 0, 1_000_000, whole=True)
        methods.check_number("train.batch_size", self.batch_size, 1, 1_000_000, whole=True)
        for key, high in {"momentum": 1, "warmup": 1, "label_smoothing": 1, "weight_decay": math.inf}.items():
            methods.check_number(f"train.{key}", getattr(self, key), 0, high)
        for key in ("learning_rate", "clip_norm"):
            if getattr(self, key) is not None:
                methods.check_number(f"train.{key}", getattr(self, key), 1e-12, math.inf)

    @property
    def rate(self) -> float:
        """The learning rate at its highest."""
        return OPTIMIZERS[self.optimizer] if self.learning_rate is None else self.learning_rate


@dataclass(frozen=True)
class Step:
    """One step of a chain.

    Attributes:
        method: What is done, with its options; see `methods.METHODS`.
        train: How it trains.
        teach: Whom it learns from beside the labels; None has no teacher, but for ``distill``, which then learns from
            the model as it was given.
        max_drop: The gate: points of the metric that the model may have lost against the source when the step has
            ended (of ``mse`` percent). None lets anything pass, and so does infinity, where all others have a gate.
        name: What the history calls it; unique in a recipe.
    """

    method: methods.Options
    train: Train = field(default_factory=Train)
    teach: Teach | None = None
    max_drop: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        _check_text("step name", self.name or None)
        if self.max_drop not in (None, math.inf):
            methods.check_number("max_drop", self.max_drop, -math.inf, math.inf)
        if self.teach is None and isinstance(self.method, Distill):
            object.__setattr__(self, "teach", Teach())


@dataclass(frozen=True)
class CompressRecipe:
    """How a trained model becomes a smaller one.

    Attributes:
        step: What is done, in this order.
        data: Labelled samples to train on: an ``.npz`` with the input names and ``label``, or ``FILE.py:FUNCTION``.
        evaluate: Labelled samples to judge by, likewise, or a function that scores; without it a tenth of `data`.
        metric: ``top1``, ``mse`` or ``auc``.
        metric_output: The output that is trained and judged; without it the only one that can be meant.
        seed: Of everything that is random.
        convert: How every step's model becomes an artifact that is measured, and the last one's the bundle; None
            makes none.
    """

    step: tuple[Step, ...] = ()
    data: str | None = None
    evaluate: str | None = None
    metric: str = METRICS[0]
    metric_output: str | None = None
    seed: int = 0
    convert: Recipe | None = None

    def __post_init__(self) -> None:
        methods.check_choice("metric", self.metric, METRICS)
        _check_text("metric_output", self.metric_output)
        methods.check_number("seed", self.seed, 0, 2**32 - 1, whole=True)
        if not isinstance(self.step, tuple | list) or not all(isinstance(one, Step) for one in self.step):
            raise UsageError("step", f"{self.step!r:.60} is no tuple of Step", "give one Step for each thing to do")
        if not isinstance(self.convert, Recipe | None):
            raise UsageError("convert", f"{self.convert!r:.60} is no Recipe", "give one, or None to make no artifacts")
        object.__setattr__(self, "step", _named(tuple(self.step)))

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> CompressRecipe:
        """Read a recipe file; relative paths in it are relative to its folder.

        Raises:
            MissingFileError: If there is no such file.
            UsageError: If it is no TOML, or a value does not fit.
            UnknownNameError: For a key or method that there is not.
        """
        file = Path(path)
        return cls.from_dict(read_toml(file, "docs/compression.md"), file.parent)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], folder: Path = Path()) -> CompressRecipe:
        """Read the form that TOML has.

        Args:
            data: Keys as in `CompressRecipe`; ``[train]`` and ``max_drop`` hold for every step that has none of its
                own; ``[[step]]`` has ``method`` and its options, and may have ``[step.train]`` and ``[step.teach]``.
            folder: What relative paths are relative to.

        Raises:
            UnknownNameError: For a key or method that there is not.
            UsageError: For a value of the wrong type.
        """
        check_keys("recipe", data, [*(f.name for f in fields(cls)), "train", "max_drop"])
        values = dict(data)
        general = _table("train", values.pop("train", {}))
        gate = values.pop("max_drop", None)
        steps = values.get("step", [])
        if not isinstance(steps, list) or not all(isinstance(one, Mapping) for one in steps):
            raise UsageError("recipe key 'step'", "is no list of tables", "write each as [[step]] with its keys below")
        values["step"] = tuple(_step({"max_drop": gate, **one}, general, folder) for one in steps)
        for key in ("data", "evaluate"):
            if key in values:
                values[key] = located(key, values[key], folder)
        if "convert" in values:
            values["convert"] = Recipe.from_dict(_table("convert", values["convert"]), folder)
        return cls(**values)


def located(key: str, value: object, folder: Path) -> str:
    """Return a path, or ``FILE.py:FUNCTION``, relative to `folder`.

    Raises:
        UsageError: If it is neither.
    """
    if not isinstance(value, str) or not value:
        raise UsageError(key, f"{value!r} is no path", "give a file, or FILE.py:FUNCTION")
    return str(folder / value)


def _check_text(key: str, value: object) -> None:
    if value is not None and (not isinstance(value, str) or not value or not value.isprintable()):
        raise UsageError(key, f"{value!r} is no name", "give one line of text")


def _table(key: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"recipe key {key!r}", "is no table", f"write it as [{key}] with its keys below")
    return value


def _step(table: Mapping[str, Any], general: Mapping[str, Any], folder: Path) -> Step:
    values = dict(table)
    train = {**general, **_table("step.train", values.pop("train", {}))}
    check_keys("train", train, [f.name for f in fields(Train)])
    teach = values.pop("teach", None)
    own = {key: values.pop(key) for key in ("max_drop", "name") if key in values}
    method = methods.read(values)
    return Step(method, Train(**train), Teach.from_dict(teach, folder) if teach is not None else None, **own)


def _named(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Number the steps, and name those that have no name by what they do."""
    named = tuple(replace(s, name=s.name or f"{i}-{methods.name_of(s.method)}") for i, s in enumerate(steps, 1))
    names = [s.name for s in named]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"step {name!r}", "is there twice", "give each step a name of its own")
    return named
