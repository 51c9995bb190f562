"""``ferry profile``: measure bundles on one or more devices."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeferry_devices.commands.asking import terminal
from edgeferry_devices.commands.outcomes import conclude, jobs_option, on_option, performing
from edgeferry_devices.commands.series_suites import earlier_suites, series_suites
from edgeferry_runtime.commands.bench_options import ops_options, run_options, state_options
from edgeferry_runtime.commands.budget_options import Gates, budget_options, verdict_lines
from edgeferry_runtime.commands.delegate_option import delegate_options
from edgeferry_runtime.commands.output import emit, json_option, say
from edgeferry_runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeferry_devices.foreign.binary import Binary
    from edgeferry_devices.journal import Journal
    from edgeferry_devices.series import Series
    from edgeferry_runtime.junit import Suite


@dataclass(frozen=True)
class Orders:
    """What `ferry profile` was told, as a journal keeps it; `BenchOptions`, `Plan`, `Binary` and `Gates` explain it."""

    bench: Mapping[str, Any]
    rounds: int
    top: int
    binary: Mapping[str, str] | None = None
    budget: str | None = None
    junit: str | None = None

    @property
    def gates(self) -> Gates:
        """What must hold."""
        return Gates.from_dict({"budget": self.budget, "junit": self.junit})


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="BUNDLE...")
@on_option
@jobs_option
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    help="How often each bundle is measured.  [default: 1; 2 of several bundles]",
)
@click.option(
    "--benchmark-binary",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Measure by this benchmark_model, built for the device, in place of our runtime; so phones over adb are.",
)
@click.option("--benchmark-sha256", metavar="HEX", help="The SHA-256 that it must have.")
@run_options
@state_options
@ops_options
@delegate_options
@budget_options
@click.option("--signature", metavar="NAME", help="Which of several signatures.  [default: the primary one]")
@json_option
@click.pass_context
def profile(
    ctx: click.Context, /, bundles: tuple[Path, ...], names: tuple[str, ...], jobs: int, as_json: bool, **options: Any
) -> None:
    """Measure each BUNDLE on each device, pushing it first where it is not up to date.

    Several bundles are measured in turn, every second round backwards, each time in a fresh process, and are compared
    with the first one. Every profile is kept, below the state folder of this account.

    With --benchmark-binary nothing is installed on the device: the program and the artifact are placed there, the
    program is proven by the probe where it writes outputs, and what it does not tell is absent from the profile.

    Devices are measured at once. One that fails has a line of its own and does not stop the others; the exit code is
    that of the first that failed, in the order in which they were named. Then --budget is held against all that was
    measured. A run that was cut is picked up by `ferry fleet resume`.
    """
    from edgeferry_devices.journal import begin
    from edgeferry_devices.runs import Task
    from edgeferry_devices.selecting import select
    from edgeferry_devices.series import Plan
    from edgeferry_runtime.benchmark import BenchOptions
    from edgeferry_runtime.bundle import Bundle

    if not names:
        raise _no_device(bundles)
    gates, binary = Gates.take(options), _binary(options.pop("benchmark_binary"), options.pop("benchmark_sha256"))
    rounds, top = options.pop("rounds") or min(len(bundles), 2), options.pop("top")
    wanted = BenchOptions(**{**options, "delegate": options["delegate"] or "cpu"})
    opened = [Bundle.open(bundle) for bundle in bundles]
    Plan(tuple(opened), wanted, rounds).check()
    program = {"path": str(binary.path), "sha256": binary.sha256} if binary else None
    told = Orders(asdict(wanted), rounds, top, program, **gates.to_dict())
    with begin(Task.of("profile", opened, select(names), options=asdict(told), jobs=jobs)) as journal:
        show(ctx, journal, as_json)


def show(ctx: click.Context, journal: Journal, as_json: bool) -> None:
    """Measure what is left of a run, and print what came of it; the budget is held against the whole run."""
    from edgeferry_devices.foreign.binary import check_binary
    from edgeferry_devices.profiling import measure
    from edgeferry_devices.series import Plan
    from edgeferry_runtime.benchmark import BenchOptions

    told, left = journal.run.options(Orders), journal.run.left
    wanted, gates = journal.run.options(BenchOptions, "bench"), told.gates
    binary = check_binary(Path(told.binary["path"]), told.binary["sha256"]) if told.binary else None
    plan = Plan(tuple(journal.run.bundles()), wanted, told.rounds, journal.run.id, binary)
    with performing(journal):
        series = measure(plan, left, journal.pace, say, terminal())
    done = [device for device in journal.run.task.devices if device not in left]
    suites = [*earlier_suites(plan.run, done, gates), *series_suites(series, gates)]
    _tell(series, suites, None if as_json else told.top)
    gates.report(suites)
    conclude(ctx, series.outcomes, [*series.errors, *gates.failures(suites)])


def _binary(path: Path | None, sha256: str | None) -> Binary | None:
    from edgeferry_devices.foreign.binary import check_binary

    if path is None and sha256 is not None:
        raise UsageError("--benchmark-sha256", "is of no program", "give the program too: --benchmark-binary FILE")
    return None if path is None else check_binary(path.absolute(), sha256)


def _no_device(bundles: tuple[Path, ...]) -> UsageError:
    """Say how a device is named; it once stood behind the bundle."""
    names = [str(bundle) for bundle in bundles]
    paths = [name for name in names if Path(name).exists()] or names[:1]
    others = [name for name in names if name not in paths] or ["DEVICE"]
    words = [*paths, *(word for name in others for word in ("--on", name))]
    return UsageError("ferry profile", "was told no device", f"name it with --on: ferry profile {shlex.join(words)}")


def _json(series: Series, suites: Sequence[Suite]) -> dict[str, object]:
    from edgeferry_runtime.benchmark import compare_profiles, has_samples

    compared = []
    for side in series.sides():
        if reference := series.reference(side):
            if not has_samples((*reference, *side)):
                continue
            found = compare_profiles(reference, side).to_dict()
            of, to = side[0].artifact["bundle"], reference[0].artifact["bundle"]
            compared.append({"device": side[0].device, "bundle_id": of, "against_id": to, **found})
    attempts = [attempt.to_dict() for attempt in series.attempts]
    budget = [verdict.to_dict() for suite in suites for verdict in suite.verdicts]
    return {"run": series.plan.run, "profiles": attempts, "comparisons": compared, "budget": budget}


def _tell(series: Series, suites: Sequence[Suite], top: int | None) -> None:
    """Show the figures, as JSON or with so many operators, then on stderr what they are worth and where they are."""
    from edgeferry_devices import history
    from edgeferry_devices.commands.series_text import series_text, series_warnings

    if top is None:
        emit(_json(series, suites))
    elif series.profiles:
        click.echo("\n".join([series_text(series, top), *verdict_lines(suites)]))
    for warning in series_warnings(series):
        say(warning)
    if kept := sum(attempt.path is not None for attempt in series.attempts):
        say(f"kept {kept} {'profile' if kept == 1 else 'profiles'} of run {series.plan.run} in {history.folder()}")
