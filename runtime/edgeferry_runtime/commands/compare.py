"""``ferry compare``: which of two is faster, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeferry_runtime.commands.bench_options import run_options
from edgeferry_runtime.commands.delegate_option import delegate_options
from edgeferry_runtime.commands.output import emit, json_option, say, table
from edgeferry_runtime.commands.profile_text import duration
from edgeferry_runtime.errors import GateError, UsageError

if TYPE_CHECKING:
    from edgeferry_runtime.measurement.compare import Comparison, Side

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
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@run_options
@delegate_options
@click.option("--blocks", type=click.IntRange(min=1), default=3, show_default=True, help="Blocks of A, B, B, A.")
@click.option(
    "--max-slowdown",
    metavar="PERCENT",
    callback=read_percent,
    help="Fail with status 3 where B is slower than A by more, and surely slower.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the inputs and of the bootstrap.")
@json_option
def compare(a: Path, b: Path, as_json: bool, max_slowdown: float | None, **options: Any) -> None:
    """Say whether B is faster or slower than A, or whether there is no difference.

    A and B are bundles or artifacts, which are measured in turn in fresh processes (A, B, B, A in each block), or two
    profiles that ferry bench --json printed.
    """
    found = _profiles(a, b, options) if _are_profiles(a, b) else _artifacts(a, b, options)
    if as_json:
        emit(found.to_dict())
    else:
        click.echo(_text(found))
    for warning in found.warnings:
        say(f"warning: {warning}")
    if max_slowdown is not None:
        _gate(found, max_slowdown)


def _are_profiles(a: Path, b: Path) -> bool:
    from edgeferry_runtime.profile import is_profile

    kinds = [is_profile(path) for path in (a, b)]
    if kinds[0] != kinds[1]:
        raise UsageError("ferry compare", "was given a profile and an artifact", "give two of one kind")
    return kinds[0]


def _profiles(a: Path, b: Path, options: dict[str, Any]) -> Comparison:
    from edgeferry_runtime.measurement.compare import compare_profiles
    from edgeferry_runtime.profile import read_profile

    return compare_profiles([read_profile(a)], [read_profile(b)], options["seed"])


def _artifacts(a: Path, b: Path, options: dict[str, Any]) -> Comparison:
    from edgeferry_runtime.commands.target import check_target
    from edgeferry_runtime.measurement.compare import compare as perform
    from edgeferry_runtime.measurement.options import BenchOptions

    blocks, delegate = options.pop("blocks"), options.pop("delegate") or "cpu"
    wanted = BenchOptions(delegate=delegate, **options)
    for path in (a, b):
        check_target(path, delegate)
    return perform(a, b, wanted, blocks=blocks, say=say)


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
        say("warning: a slowdown above --max-slowdown cannot be ruled out; measure more with --blocks")
