"""``ferry profile``: measure a bundle on one or more devices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edgeferry_devices.commands.asking import terminal
from edgeferry_devices.profiling import Outcome
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.commands.bench_options import heat_options, ops_options, run_options
from edgeferry_runtime.commands.delegate_option import delegate_options
from edgeferry_runtime.commands.operators_text import operators_text, profile_operators
from edgeferry_runtime.commands.output import emit, json_option, say, table
from edgeferry_runtime.measurement.sustained import drift_sentence
from edgeferry_runtime.profile import Profile

HEAD = ("device", "engine", "delegate", "p50 ms", "95 % interval", "p95 ms", "first ms", "init ms", "runs", "peak MB")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("devices", nargs=-1, required=True, metavar="DEVICE...")
@run_options
@heat_options
@ops_options
@delegate_options
@click.option("--signature", metavar="NAME", help="Which of several signatures.  [default: the primary one]")
@json_option
@click.pass_context
def profile(
    ctx: click.Context, /, bundle: Path, devices: tuple[str, ...], as_json: bool, top: int, **options: Any
) -> None:
    """Measure BUNDLE on each DEVICE, pushing it first where it is not up to date.

    A device that fails has a line of its own and does not stop the others; the exit code is the first failure's.
    """
    from edgeferry_devices.profiling import profile as perform
    from edgeferry_runtime.benchmark import BenchOptions

    wanted = BenchOptions(**{**options, "delegate": options["delegate"] or "cpu"})
    outcomes = perform(Bundle.open(bundle), devices, wanted, say, terminal())
    if as_json:
        emit({"profiles": [_json(outcome) for outcome in outcomes]})
    elif done := [outcome.profile for outcome in outcomes if outcome.profile]:
        click.echo(table([HEAD, *(_row(p) for p in done)]))
        for p in done:
            if p.windows:
                click.echo(f"{p.device}: {drift_sentence(p.windows)}")
            if p.operators:
                click.echo(f"\n{p.device}:\n{operators_text(profile_operators(p), top)}")
    _report(outcomes)
    ctx.exit(next((outcome.error.exit_code for outcome in outcomes if outcome.error), 0))


def _json(outcome: Outcome) -> dict[str, object]:
    error = outcome.error
    told = {"reason": error.reason, "fix": error.fix, "exit_code": error.exit_code} if error else None
    return {
        "device": outcome.device,
        "profile": outcome.profile.to_dict() if outcome.profile else None,
        "error": told,
    }


def _row(p: Profile) -> tuple[str, ...]:
    low, high = p.median_ms_ci95
    peak = "" if p.peak_rss_bytes is None else f"{p.peak_rss_bytes / 2**20:.0f}"
    return (
        p.device,
        f"{p.engine['name']} {p.engine['version']}",
        str(p.engine["delegate"]),
        f"{p.median_ms:.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{p.p95_ms:.3f}",
        f"{p.first_inference_ms:.3f}",
        f"{p.init_ms:.1f}",
        str(p.num_runs),
        peak,
    )


def _report(outcomes: Sequence[Outcome]) -> None:
    """Say on stderr why a device failed, or why its figures should not be trusted."""
    for outcome in outcomes:
        if outcome.error:
            say(f"ferry: error: {' '.join(str(outcome.error).split())}")
        for warning in outcome.profile.warnings if outcome.profile else ():
            say(f"{outcome.device}: {warning}")
