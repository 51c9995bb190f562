"""The command ``ferry explain``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from edgeferry_converter import explain as explaining
from edgeferry_converter.explain import Explanation, LayerError
from edgeferry_converter.explain.inputs import Wanted, pair
from edgeferry_runtime.commands.output import emit, json_option, table

WIDTH = 56
"""Characters of a layer's name that are shown at most."""


@click.command()
@click.argument("target", metavar="BUNDLE|ARTIFACT", type=click.Path(path_type=Path))
@click.option("--float", "float_file", metavar="FILE", type=click.Path(path_type=Path), help="The float artifact.")
@click.option("--source", metavar="MODEL", help="The model it was made of, which is lowered again.")
@click.option(
    "--probe", metavar="DATA", type=click.Path(path_type=Path), help="Samples to run. [default: the bundle's]"
)
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="Layers to show.")
@click.option("--min-snr", type=float, default=20.0, show_default=True, help="SNR in dB below which a tensor is bad.")
@click.option("--first", "only_first", is_flag=True, help="Only bisect for the first bad tensor; for big models.")
@json_option
def explain(target: Path, top: int, min_snr: float, only_first: bool, as_json: bool, **given: Any) -> None:
    """Rank the layers by the error that quantization put there, and say why and what to do.

    SNR compares the quantized run with the float run; OWN is what the layer itself adds when it is fed the float
    run's inputs, rounded as it stores them. A bundle that was converted on this machine needs nothing else: the float
    artifact was kept. DATA is as for ferry convert.
    """
    with pair(Wanted(target, **given)) as found:
        result = explaining.explain(
            found.artifact, found.float_artifact, found.probe, min_snr_db=min_snr, only_first=only_first
        )
    if as_json:
        emit({"target": str(target), **result.to_dict(top)})
    else:
        click.echo(_text(result, top, found.precision))


def _text(result: Explanation, top: int, precision: str | None) -> str:
    shown = result.layers[:top]
    parts = [_table(shown), _summary(result, len(shown))]
    why = list(dict.fromkeys(f"{r.rule}: {r.text}; {r.advice}" for layer in result.layers for r in layer.reasons))
    if why:
        parts.append("Why:\n" + "\n".join(f"  {line}" for line in why[:top]))
    if result.keep_float:
        head = "What repairs it, for the end of the recipe (its quantize = ... becomes the first table here):"
        base = f'[quantize]\nprecision = "{precision}"\n\n' if precision else ""
        parts.append(f"{head}\n\n{base}{result.override_toml()}")
    return "\n\n".join(part.rstrip() for part in parts)


def _table(layers: tuple[LayerError, ...]) -> str:
    rows = [("layer", "operator", "own dB", "SNR dB", "cosine")]
    rows += [(_short(e.name), e.operator, _decibels(e.own_db), _decibels(e.snr_db), f"{e.cosine:.5f}") for e in layers]
    return table(rows)


def _short(name: str) -> str:
    return name if len(name) <= WIDTH else f"…{name[1 - WIDTH :]}"


def _decibels(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if math.isfinite(value) else "inf" if value > 0 else "-inf"


def _summary(result: Explanation, shown: int) -> str:
    lines = [f"{shown} of {len(result.layers)} layers, over {result.samples} samples"]
    if result.uncompared:
        lines.append(f"{result.uncompared} tensors of the float model are not in the artifact: they were fused")
    if result.first_below is None:
        lines.append(f"no tensor falls below {result.min_snr_db:g} dB")
    else:
        lines.append(f"the first tensor below {result.min_snr_db:g} dB is {result.first_below}")
    return "\n".join(lines)
