"""A compression's recipe as plain data and as TOML: what the output keeps, and what a resumed run is compared by."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from edgeferry_converter.bundling import hash_source
from edgeferry_converter.compress import functions, methods
from edgeferry_converter.compress.methods.quantizing import Quantize
from edgeferry_converter.compress.methods.teaching import SOURCE
from edgeferry_converter.compress.recipe import CompressRecipe, Step, Train
from edgeferry_runtime import toml

PLAIN = ("metric", "metric_output", "seed")
PATHS = ("teacher", "weights")


def to_dict(recipe: CompressRecipe, folder: Path | None = None) -> dict[str, Any]:
    """Return the form that `CompressRecipe.from_dict` reads, without what has its default value.

    Args:
        recipe: Data that are functions or arrays are left out: they have no form in a file.
        folder: What paths are written relative to; None writes them as they are.
    """
    found: dict[str, Any] = {}
    for key in ("data", "evaluate"):
        if isinstance(getattr(recipe, key), str):
            found[key] = _path(getattr(recipe, key), folder)
    default = CompressRecipe()
    found |= {key: getattr(recipe, key) for key in PLAIN if getattr(recipe, key) != getattr(default, key)}
    found["step"] = [_step(number, step, folder) for number, step in enumerate(recipe.step, 1)]
    if recipe.convert is not None:
        found["convert"] = toml.parse(recipe.convert.to_toml(folder))
    return found


def to_toml(recipe: CompressRecipe, folder: Path | None = None) -> str:
    """Return a recipe as TOML; see `to_dict`."""
    return toml.dump(to_dict(recipe, folder))


def digests(recipe: CompressRecipe) -> list[str]:
    """Return a hash for each step, of it and all before, so that what is unchanged is known again.

    Names and gates are left out: they change nothing of what is computed.
    """
    found, before = [], artifacts(recipe)
    for number, step in enumerate(recipe.step, 1):
        told = {key: value for key, value in _step(number, step, None).items() if key not in ("name", "max_drop")}
        before = _digest([before, told, _teacher(step)])
        found.append(before)
    return found


def artifacts(recipe: CompressRecipe) -> str:
    """Return a hash of how models become artifacts: by ``[convert]``, and in float where a step trains for integers."""
    return _digest([to_dict(recipe).get("convert"), trains_integers(recipe)])


def trains_integers(recipe: CompressRecipe) -> bool:
    """Tell whether a step trains for integers; where none does, every artifact has the precision of ``[convert]``."""
    return any(isinstance(step.method, Quantize) for step in recipe.step)


def _digest(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _teacher(step: Step) -> str:
    """Return the hash of a teacher's file; empty where there is none."""
    if step.teach is None or step.teach.teacher == SOURCE:
        return ""
    python = functions.split(step.teach.teacher)
    path = python[0] if python else Path(step.teach.teacher)
    return hash_source(path) if path.exists() else ""


def _step(number: int, step: Step, folder: Path | None) -> dict[str, Any]:
    name = methods.name_of(step.method)
    found: dict[str, Any] = {"method": name}
    if step.name != f"{number}-{name}":
        found["name"] = step.name
    found |= _changed(step.method)
    if step.max_drop is not None:
        found["max_drop"] = step.max_drop
    if step.train != Train():
        found["train"] = _changed(step.train)
    if step.teach is not None:
        found["teach"] = _changed(step.teach)
        found["teach"] |= {key: _path(found["teach"][key], folder) for key in PATHS if key in found["teach"]}
    return found


def _changed(options: Any) -> dict[str, Any]:
    """Return the fields that differ from their default."""
    found = {}
    for one in fields(options):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        value = getattr(options, one.name)
        if value is not None and value != default:
            found[one.name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items() if one is not None}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, os.PathLike) else value


def _path(text: str, folder: Path | None) -> str:
    if folder is None or text == SOURCE:
        return text
    return Path(os.path.relpath(text, folder)).as_posix()
