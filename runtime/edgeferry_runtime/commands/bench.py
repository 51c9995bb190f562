"""``ferry bench``: measure a bundle or an artifact on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeferry_runtime.commands.bench_options import ops_options, run_options, state_options
from edgeferry_runtime.commands.budget_options import Gates, budget_options, verdict_lines
from edgeferry_runtime.commands.delegate_option import delegate_options
from edgeferry_runtime.commands.output import emit, json_option, say
from edgeferry_runtime.errors import EdgeferryError, UsageError

if TYPE_CHECKING:
    from edgeferry_runtime.benchmark import BenchOptions
    from edgeferry_runtime.junit import Suite


@click.command("bench")
@click.argument("target", type=click.Path(path_type=Path))
@run_options
@delegate_options
@state_options
@ops_options
@budget_options
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

    gates = Gates.take(options)
    others = {
        "--delegate": delegate,
        "--sustained": options["sustained_secs"],
        "--ops": options["ops"],
        "--budget": gates.limits,
    }
    for other in [name for name, given in others.items() if sweep and given]:
        raise UsageError("--sweep", f"does not go together with {other}", f"leave out {other}")
    wanted = BenchOptions(delegate=delegate or "cpu", **options)
    if check_target(target, wanted.delegate) is None:
        say("a bare artifact has no probe: measuring on seeded random inputs")
    if sweep:
        _sweep(target, wanted, as_json)
    else:
        _bench(target, wanted, gates, None if as_json else top)


def _bench(target: Path, options: BenchOptions, gates: Gates, top: int | None) -> None:
    """Measure, report as text with so many operators, or as JSON, and hold the budget."""
    from edgeferry_runtime.budget import enforce
    from edgeferry_runtime.commands.profile_text import profile_text

    suite = _measure(target, options, gates)
    (profile,) = suite.profiles
    if top is None:
        data = profile.to_dict()
        told = {"budget": [verdict.to_dict() for verdict in suite.verdicts]} if gates.limits else {}
        emit({**data, **told}, data.pop("schema"))
    else:
        click.echo("\n".join([profile_text(profile, top), *verdict_lines([suite])]))
    gates.report([suite])
    enforce(suite.verdicts)


def _measure(target: Path, options: BenchOptions, gates: Gates) -> Suite:
    """Measure; what prevents it is reported too."""
    from edgeferry_runtime.benchmark import bench_fresh

    try:
        return gates.suite("local", [bench_fresh(target, options, say=say)])
    except EdgeferryError as error:
        gates.report([gates.suite("local", errors=[(target.name, error)])])
        raise


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
