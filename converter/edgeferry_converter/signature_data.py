"""Samples of several signatures in one place: each name says which signature its array is for.

``SIGNATURE/INPUT`` belongs to that input; ``SIGNATURE`` to the only input of that signature; and ``INPUT`` to every
signature that has an input of that name. In a folder the same names are folders.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from edgeferry_converter.data import ONLY, Column, Data, Samples
from edgeferry_converter.sources import Entry
from edgeferry_runtime.errors import DataError
from edgeferry_runtime.tensors import TensorSpec

Inputs = Mapping[str, tuple[TensorSpec, ...]]


def by_signature(data: Data, signatures: Mapping[str, Entry]) -> dict[str, Samples]:
    """Give each signature its samples.

    Args:
        data: Samples whose names say what they are for.
        signatures: The signatures by name.

    Returns:
        Samples by signature; one that there is nothing for is absent.

    Raises:
        DataError: If a name belongs to no input, or a signature has data for some of its inputs only.
    """
    inputs = {key: entry.inputs for key, entry in signatures.items()}
    columns = _named(data, inputs)
    _check_names(data, columns, inputs)
    parts = {key: _part(columns, key, specs) for key, specs in inputs.items()}
    return {key: _bind(data, key, part, inputs[key]) for key, part in parts.items() if part}


def _named(data: Data, inputs: Inputs) -> Mapping[str, Column]:
    """Give an array without a name that of the only input, where all signatures have the same one."""
    names = {spec.name for specs in inputs.values() for spec in specs}
    if ONLY not in data.columns:
        return data.columns
    if len(names) > 1:
        fix = f"give an .npz or folders with names such as {next(_names(inputs))}"
        raise DataError(data.path, f"names no input, and the {len(inputs)} signatures have {len(names)}", fix)
    return {names.pop(): data.columns[ONLY]}


def _candidates(key: str, specs: tuple[TensorSpec, ...], name: str) -> tuple[str, ...]:
    """Return the names that data of an input can have, the closest first."""
    return (f"{key}/{name}", *((key,) if len(specs) == 1 else ()), name)


def _names(inputs: Inputs) -> Iterator[str]:
    for key, specs in inputs.items():
        for spec in specs:
            yield from _candidates(key, specs, spec.name)


def _check_names(data: Data, columns: Mapping[str, Column], inputs: Inputs) -> None:
    valid = list(dict.fromkeys(_names(inputs)))
    for name in columns:
        if name not in valid:
            near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
            meant = f"did you mean {near[0]!r}? " if near else ""
            full = ", ".join(f"{key}/{spec.name}" for key, specs in inputs.items() for spec in specs)
            raise DataError(data.path, f"has data for {name!r}, which is no input", f"{meant}inputs are {full}")


def _part(columns: Mapping[str, Column], key: str, specs: tuple[TensorSpec, ...]) -> dict[str, Column]:
    """Pick the columns of one signature, by input name."""
    found = {spec.name: [n for n in _candidates(key, specs, spec.name) if n in columns] for spec in specs}
    return {name: columns[names[0]] for name, names in found.items() if names}


def _bind(data: Data, key: str, part: Mapping[str, Column], specs: tuple[TensorSpec, ...]) -> Samples:
    missing = [spec.name for spec in specs if spec.name not in part]
    if missing:
        reason = f"has no data for the input {missing[0]!r} of the signature {key!r}, and some for others"
        raise DataError(data.path, reason, f"add an array named {key}/{missing[0]}")
    return Data(data.path, part).bind(specs)
