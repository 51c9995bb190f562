"""``ferry compare``: which of two is faster, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeferry_runtime.cli import resolve
from edgeferry_runtime.commands.bench_options import run_options
from edgeferry_runtime.commands.delegate_option import delegate_options
from edgeferry_runtime.commands.history_options import history_options, take_history
from edgeferry_runtime.commands.output import emit, json_option, say, table
from edgeferry_runtime.errors import GateError, UsageError
from edgeferry_runtime.quantities import duration

if TYPE_CHECKING:
    from edgeferry_runtime.measurement.compare import Comparison, Side
    from edgeferry_runtime.profile import Profile

HEAD = ("", "artifact", "median", "95 % interval", "processes", "runs")


def read_percent(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Read ``5%`` or ``5`` as 0.05."""
    if value is None:
        return None
    try:
        number = float(value.removesuffix("%"))
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise UsageError(param.opts[0], f"{value!r} is no percentage", "give one such as 5%")
    return number / 100


@click.command("compare")
@click.argument("a", required=False)
@click.argument("b", required=False)
@run_options
@delegate_options
@click.option("--blocks", type=click.IntRange(min=1), default=3, show_default=True, help="Blocks of A, B, B, A.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the inputs and of the bootstrap.")
@history_options
@click.option(
    "--max-slowdown",
    metavar="PERCENT",
    callback=read_percent,
    help="Fail with status 3 where B is slower than A by more, and surely slower.",
)
@json_option
@click.pass_context
def compare(ctx: click.Context, /, a: str | None, b: str | None, max_slowdown: float | None, **options: Any) -> None:
    """Say whether B is faster or slower than A, or whether there is no difference.

    A and B are bundles or artifacts, which are measured in turn in fresh processes (A, B, B, A in each block); or
    profiles that ferry bench --json printed; or runs that ferry profile kept, DEVICE:BUNDLE[@DATE]: the newest one,
    or the newest that is not after the date.

    Without A and B it shows the history: the newest run of each bundle on each device, and what changed since the
    run before. --max-slowdown then is of these changes.
    """
    history = take_history(ctx, options)
    as_csv, as_json = options.pop("as_csv"), options.pop("as_json")
    if a is None:
        show = resolve("edgeferry_devices.commands.history_table", "show")
        show(history, "json" if as_json else "csv" if as_csv else "text", max_slowdown)
    elif b is None:
        raise UsageError("ferry compare", f"was given {a} alone", "give two, or none to see the history")
    else:
        found = _pair(a, b, options)
        _report(found, as_json)
        if max_slowdown is not None:
            _gate(found, max_slowdown)


def _pair(a: str, b: str, options: dict[str, Any]) -> Comparison:
    kinds = [_kind(text) for text in (a, b)]
    if "artifact" in kinds and kinds[0] != kinds[1]:
        other = next(kind for kind in kinds if kind != "artifact")
        raise UsageError("ferry compare", f"was given a {other} and an artifact", "give two of one kind")
    measured = kinds[0] != "artifact"
    return _profiles(a, b, options["seed"]) if measured else _artifacts(Path(a), Path(b), options)


def _kind(text: str) -> str:
    """Tell what a side is; what exists is never a run of the history."""
    from edgeferry_runtime.profile import is_profile

    path = Path(text)
    if ":" in text and not path.exists():
        return "run"
    return "profile" if is_profile(path) else "artifact"


def _profiles(a: str, b: str, seed: int) -> Comparison:
    from edgeferry_runtime.measurement.compare import compare_profiles

    return compare_profiles(_measured(a), _measured(b), seed)


def _measured(text: str) -> Sequence[Profile]:
    """Return the profiles of one side: that of a file, or those of the processes of a run."""
    from edgeferry_runtime.profile import read_profile

    if _kind(text) == "profile":
        return [read_profile(Path(text))]
    profiles: Sequence[Profile] = resolve("edgeferry_devices.comparing", "recall")(text, say).profiles
    return profiles


def _artifacts(a: Path, b: Path, options: dict[str, Any]) -> Comparison:
    from edgeferry_runtime.commands.target import check_target
    from edgeferry_runtime.measurement.compare import compare as perform
    from edgeferry_runtime.measurement.options import BenchOptions

    blocks, delegate = options.pop("blocks"), options.pop("delegate") or "cpu"
    wanted = BenchOptions(delegate=delegate, **options)
    for path in (a, b):
        check_target(path, delegate)
    return perform(a, b, wanted, blocks=blocks, say=say)


def _report(found: Comparison, as_json: bool) -> None:
    if as_json:
        emit(found.to_dict())
    else:
        click.echo(_text(found))
    for warning in found.warnings:
        say(f"warning: {warning}")


def _text(found: Comparison) -> str:
    rows = [HEAD, _row("A", found.a), _row("B", found.b)]
    differs = [f"differs  {line}" for line in found.differs]
    return "\n".join([table(rows), "", *differs, *([""] if differs else []), _sentence(found)])


def _row(label: str, side: Side) -> tuple[str, ...]:
    low, high = side.median_ms_ci95
    where = "" if side.device == "local" else f" on {side.device}"
    interval = f"{duration(low)} to {duration(high)}"
    return label, side.name + where, duration(side.median_ms), interval, str(side.processes), str(side.runs)


def _sentence(found: Comparison) -> str:
    low, high = found.ratio_ci95
    sure = f"B takes {found.ratio:.3f} times as long as A (95 % sure between {low:.3f} and {high:.3f})"
    if found.verdict == "no difference":
        return f"no difference: {sure}"
    return f"B is {found.verdict}: {sure}"


def _gate(found: Comparison, slowdown: float) -> None:
    if found.exceeds(slowdown):
        reason = f"takes {found.ratio:.3f} times as long as {found.a.name}, and {1 + slowdown:.3g} is the limit"
        raise GateError(found.b.name, reason, "make it faster, or raise --max-slowdown")
    if found.ratio_ci95[1] > 1 + slowdown:
        say("warning: a slowdown above --max-slowdown cannot be ruled out; measure more, with --blocks or --rounds")
