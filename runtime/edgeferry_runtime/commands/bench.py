"""``ferry bench``: measure a bundle or an artifact on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeferry_runtime.commands.bench_options import heat_options, ops_options, run_options
from edgeferry_runtime.commands.delegate_option import delegate_options
from edgeferry_runtime.commands.output import emit, json_option, say
from edgeferry_runtime.errors import UsageError

if TYPE_CHECKING:
    from edgeferry_runtime.benchmark import BenchOptions


@click.command("bench")
@click.argument("target", type=click.Path(path_type=Path))
@run_options
@delegate_options
@heat_options
@ops_options
@click.option("--sweep", is_flag=True, help="Try threads and delegates that this machine has, and recommend one.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the inputs, where there is no probe.")
@click.option("--signature", metavar="NAME", help="Which of several signatures.  [default: the primary one]")
@json_option
def bench(target: Path, as_json: bool, delegate: str | None, sweep: bool, top: int, **options: Any) -> None:
    """Measure a bundle or artifact on this machine, in a fresh process.

    TARGET is a bundle's folder, or a .tflite or .onnx file. A bundle is fed its probe's first sample, a bare artifact
    seeded random numbers. It warms up until the runs are steady, and says plainly where the figures should not be
    trusted.
    """
    from edgeferry_runtime.benchmark import BenchOptions
    from edgeferry_runtime.commands.target import check_target

    others = {"--delegate": delegate, "--sustained": options["sustained_secs"], "--ops": options["ops"]}
    for other in [name for name, given in others.items() if sweep and given]:
        raise UsageError("--sweep", f"does not go together with {other}", f"leave out {other}")
    wanted = BenchOptions(delegate=delegate or "cpu", **options)
    if check_target(target, wanted.delegate) is None:
        say("a bare artifact has no probe: measuring on seeded random inputs")
    if sweep:
        _sweep(target, wanted, as_json)
    else:
        _bench(target, wanted, as_json, top)


def _bench(target: Path, options: BenchOptions, as_json: bool, top: int) -> None:
    from edgeferry_runtime.benchmark import bench_fresh
    from edgeferry_runtime.commands.profile_text import profile_text

    profile = bench_fresh(target, options, say=say)
    if as_json:
        data = profile.to_dict()
        emit(data, data.pop("schema"))
    else:
        click.echo(profile_text(profile, top))


def _sweep(target: Path, options: BenchOptions, as_json: bool) -> None:
    from edgeferry_runtime import machine
    from edgeferry_runtime.bundle import Bundle
    from edgeferry_runtime.commands.sweep_text import sweep_text
    from edgeferry_runtime.guard import check_artifact
    from edgeferry_runtime.measurement.sweep import candidates, sweep

    format_name = check_artifact(Bundle.open(target).artifact if target.is_dir() else target)
    found = sweep(target, candidates(format_name, machine.cores()), options, say=say)
    if as_json:
        emit({"target": str(target), **found.to_dict()})
    else:
        click.echo(sweep_text(found))
