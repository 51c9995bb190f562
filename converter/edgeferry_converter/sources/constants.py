"""Inputs that are no data, such as a sample rate: given a value once, and no inputs of the artifact any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeferry_runtime.errors import UnknownNameError, UsageError

Constant = int | float | bool


def parse_constant(text: str) -> tuple[str, Constant]:
    """Read ``NAME=VALUE``, the value being a whole number, a real one, ``true`` or ``false``.

    Raises:
        UsageError: If it is written otherwise.
    """
    name, _, said = text.rpartition("=")
    value: Constant | None = {"true": True, "false": False}.get(said.strip().lower())
    for kind in (int, float):
        try:
            value = kind(said) if value is None else value
        except ValueError:
            continue
    if not name or value is None:
        raise UsageError(f"--constant {text}", "is not NAME=NUMBER", "write it as --constant sr=16000")
    return name, value


def check_constants(constants: Mapping[str, Constant], kinds: Mapping[str, str], others: Sequence[str]) -> None:
    """Refuse constants of inputs that cannot have one.

    Args:
        constants: By name, as the user gave them.
        kinds: By name of an input that can be constant: ``int``, ``float`` or ``bool``.
        others: The names of the other inputs.

    Raises:
        UnknownNameError: If there is no such input.
        UsageError: If the input is data, or takes another kind of value.
    """
    fits = {"int": (int,), "float": (int, float), "bool": (bool,)}
    for name, value in constants.items():
        if name in others:
            raise UsageError(f"--constant {name}", "is data, which changes from run to run", "leave it out")
        if name not in kinds:
            raise UnknownNameError("--constant", name, kinds)
        if not isinstance(value, fits[kinds[name]]) or (isinstance(value, bool) and kinds[name] != "bool"):
            raise UsageError(f"--constant {name}", f"takes {kinds[name]}, not {value!r}", "give such a value")
