"""The table of how far each output is from its reference, as every command that proves something shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgeferry_runtime.commands.output import table

HEAD = ("output", "max abs", "mean abs", "cosine", "SNR dB", "top-1")


def figures_table(figures: Iterable[Mapping[str, Any]]) -> str:
    """Return one row for each output; see `edgeferry_runtime.numerics.OutputError.to_dict`."""
    return table([HEAD, *(_row(f) for f in figures)])


def _row(figures: Mapping[str, Any]) -> tuple[str, ...]:
    if figures["max_abs"] is None:
        return (str(figures["name"]), "not finite", *[""] * (len(HEAD) - 2))
    return (
        str(figures["name"]),
        f"{figures['max_abs']:.3g}",
        f"{figures['mean_abs']:.3g}",
        f"{figures['cosine']:.6f}",
        decibels(figures["snr_db"]),
        "" if figures["top1"] is None else f"{figures['top1']:.4f}",
    )


def decibels(ratio: float | None) -> str:
    """Write a ratio, which JSON has as None where it is infinite."""
    return "inf" if ratio is None else f"{ratio:.1f}"
