"""``ferry bench``: measure a bundle or an artifact on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeferry_runtime.commands.bench_options import heat_options, run_options
from edgeferry_runtime.commands.delegate_option import delegate_options
from edgeferry_runtime.commands.output import emit, json_option, say


@click.command("bench")
@click.argument("target", type=click.Path(path_type=Path))
@run_options
@delegate_options
@heat_options
@click.option("--seed", type=int, default=0, show_default=True, help="Of the inputs, where there is no probe.")
@json_option
def bench(target: Path, as_json: bool, delegate: str | None, **options: Any) -> None:
    """Measure a bundle or artifact on this machine, in a fresh process.

    TARGET is a bundle's folder, or a .tflite or .onnx file. A bundle is fed its probe's first sample, a bare artifact
    seeded random numbers. It warms up until the runs are steady, and says plainly where the figures should not be
    trusted.
    """
    from edgeferry_runtime.benchmark import BenchOptions, bench_fresh
    from edgeferry_runtime.commands.profile_text import profile_text
    from edgeferry_runtime.commands.target import check_target

    wanted = BenchOptions(delegate=delegate or "cpu", **options)
    if check_target(target, wanted.delegate) is None:
        say("a bare artifact has no probe: measuring on seeded random inputs")
    profile = bench_fresh(target, wanted, say=say)
    if as_json:
        data = profile.to_dict()
        emit(data, data.pop("schema"))
    else:
        click.echo(profile_text(profile))
