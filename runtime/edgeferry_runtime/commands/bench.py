"""``ferry bench``: measure a bundle or an artifact on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeferry_runtime.commands.delegate_option import delegate_options
from edgeferry_runtime.commands.output import emit, json_option, say


@click.command("bench")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--num-runs", type=int, default=50, show_default=True, help="Runs to measure at least.")
@click.option("--warmup-runs", type=int, default=10, show_default=True, help="Runs before them that do not count.")
@click.option("--min-secs", type=float, default=1.0, show_default=True, help="Seconds to measure at least.")
@click.option("--max-secs", type=float, default=150.0, show_default=True, help="Seconds after which to stop anyway.")
@delegate_options
@click.option("--seed", type=int, default=0, show_default=True, help="Of the inputs, where there is no probe.")
@json_option
def bench(target: Path, as_json: bool, delegate: str | None, **options: Any) -> None:
    """Measure a bundle or artifact on this machine.

    TARGET is a bundle's folder, or a .tflite or .onnx file. A bundle is fed its probe's first sample, a bare artifact
    seeded random numbers.
    """
    from edgeferry_runtime.benchmark import BenchOptions
    from edgeferry_runtime.benchmark import bench as measure
    from edgeferry_runtime.commands.profile_text import profile_text
    from edgeferry_runtime.commands.target import check_target

    wanted = BenchOptions(delegate=delegate or "cpu", **options)
    if check_target(target, wanted.delegate) is None:
        say("a bare artifact has no probe: measuring on seeded random inputs")
    profile = measure(target, wanted)
    if as_json:
        data = profile.to_dict()
        emit(data, data.pop("schema"))
    else:
        click.echo(profile_text(profile))
