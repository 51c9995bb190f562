"""Which layers a method works on: patterns of names, and what is left alone with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from edgeferry_converter.compress.methods import Context
from edgeferry_converter.compress.network import Network, Weight
from edgeferry_runtime.errors import UnknownNameError, UsageError

SKIPPED, UNASKED = "skip names it", "layers does not name it"


@dataclass(frozen=True)
class Choice:
    """The kernels of a step.

    Attributes:
        weights: What is worked on, in the order of the model.
        kept: By layer, why it is left alone.
    """

    weights: tuple[Weight, ...]
    kept: Mapping[str, str]


def choose(network: Network, layers: Iterable[str], skip: Iterable[str]) -> Choice:
    """Choose kernels by patterns of their layers, in which ``*`` stands for any text.

    Args:
        network: The model.
        layers: Only these; none means all.
        skip: All but these.

    Raises:
        UnknownNameError: If a pattern matches no layer with weights.
        UsageError: If nothing is left.
    """
    layers, skip = tuple(layers) or ("*",), tuple(skip)
    cannot = network.unprunable()
    weights = network.weights()
    known = list(dict.fromkeys([*(weight.layer for weight in weights), *cannot]))
    check_patterns("skip", skip, known)
    if known:
        check_patterns("layers", layers, known)
    kept = {
        name: SKIPPED if matches(name, skip) else UNASKED
        for name in known
        if matches(name, skip) or not matches(name, layers)
    }
    chosen = tuple(weight for weight in weights if weight.layer not in kept)
    if not chosen:
        raise UsageError(network.name, "has no layer that is to be pruned and can be", "widen layers, or shorten skip")
    return Choice(chosen, kept | {name: reason for name, reason in cannot.items() if name not in kept})


def tell(network: Network, context: Context, kept: Mapping[str, str]) -> None:
    """Say which layers cannot be done, though they were asked for.

    Raises:
        UsageError: With ``--strict``.
    """
    cannot = [f"{name} ({reason})" for name, reason in kept.items() if reason not in (SKIPPED, UNASKED)]
    if cannot and context.strict:
        fix = "name them in skip, or leave --strict away"
        raise UsageError(network.name, f"cannot be pruned in {', '.join(cannot)}", fix)
    for one in cannot:
        context.warn(f"{network.name}: left alone: {one}")


def check_patterns(key: str, patterns: Iterable[str], names: Iterable[str]) -> None:
    """Refuse a pattern that matches no name.

    Raises:
        UnknownNameError: With the nearest name.
    """
    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnknownNameError(f"{key}: layer", pattern, names)


def check_texts(key: str, values: object) -> tuple[str, ...]:
    """Return a list of patterns as a tuple.

    Raises:
        UsageError: If it is no list of texts.
    """
    if not isinstance(values, list | tuple) or not all(isinstance(one, str) for one in values):
        raise UsageError(key, f"{values!r} is no list of names", 'write it as ["conv*", "head"]')
    return tuple(values)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether one of the patterns matches."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
