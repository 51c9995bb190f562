"""The command ``ferry verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeferry_converter.commands.accuracy_text import accuracy_line
from edgeferry_converter.commands.source_options import read_tables, source_options
from edgeferry_converter.comparison import Comparison, Gates, Options
from edgeferry_converter.comparison import verify as compare
from edgeferry_converter.metrics import METRICS
from edgeferry_runtime.commands.delegate_option import FORMS, execution_lines
from edgeferry_runtime.commands.figures_text import figures_table
from edgeferry_runtime.commands.output import emit, json_option


@click.command("verify")
@click.argument("a")
@click.argument("b")
@click.option("--probe", metavar="DATA", type=click.Path(path_type=Path), help="Samples to compare with.")
@click.option("--data", metavar="FILE.npz", type=click.Path(path_type=Path), help="Inputs by name, and their labels.")
@click.option("--metric", metavar="|".join(METRICS), default="top1", show_default=True, help="Measured on --data.")
@click.option("--output", metavar="NAME", help="The output that --metric is taken of.")
@click.option("--max-drop", type=float, help="Most accuracy that B may lose, in points (of mse: in percent).")
@click.option("--max-abs-error", type=float, help="Largest absolute error that passes.")
@click.option("--min-snr", type=float, help="Lowest signal-to-noise ratio that passes, in dB.")
@source_options
@click.option("--signature", metavar="NAME", help="Which of several signatures.  [default: the primary one]")
@click.option(
    "--delegate", metavar="DELEGATE[,...]", help=f"Where B executes, and A where it is another artifact: {FORMS}."
)
@click.option("--samples", type=click.IntRange(1, 100_000), default=32, show_default=True, help="Most to compare with.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of random samples.")
@json_option
def verify(a: str, b: str, as_json: bool, **flags: Any) -> None:
    """Compare two models: any two of source, artifact and bundle.

    A is the reference. Both run on the same samples: those of --probe, else a bundle's own probe, else --data, else
    seeded random ones. --data also measures the accuracy of both. With --delegate, one file given as A and as B is
    its own reference, on the CPU. Nothing is gated unless a limit is given; a gate that fails ends with exit code 3.
    """
    gates = Gates(**{key: flags.pop(key) for key in ("max_drop", "max_abs_error", "min_snr")})
    found = compare(a, b, Options(gates=gates, **read_tables(flags), **flags))
    if as_json:
        emit(found.to_dict())
    else:
        click.echo(_text(found))
    found.check()


def _text(found: Comparison) -> str:
    lines = [figures_table(e.to_dict() for e in found.errors), "", f"on {found.samples} samples of {found.origin}"]
    if found.accuracy:
        lines.append(accuracy_line(found.accuracy.to_dict(), {"a": "A", "b": "B"}))
    for side, execution in zip("AB", found.executions, strict=True):
        lines += [f"{side}: {line}" for line in execution_lines(execution)] if execution else []
    lines += [f"{'passed' if v.passed else 'FAILED'}: {v}" for v in found.verdicts]
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)])
