"""The options of every command that measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from edgeferry_runtime.durations import parse_duration

Command = TypeVar("Command", bound=Callable[..., Any])


def read_duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Read an option such as ``30s``, ``5m`` or ``1h`` as seconds."""
    return None if value is None else parse_duration(value, param.opts[0])


RUNS = (
    click.option("--num-runs", type=int, default=50, show_default=True, help="Runs to measure at least."),
    click.option("--warmup-runs", type=int, default=10, show_default=True, help="Runs before them that do not count."),
    click.option("--min-secs", type=float, default=1.0, show_default=True, help="Seconds to measure at least."),
    click.option("--max-secs", type=float, default=150.0, show_default=True, help="Seconds after which to stop."),
    click.option(
        "--max-warmup-secs",
        type=float,
        default=10.0,
        show_default=True,
        help="Seconds to warm up at most until runs are steady; 0 makes exactly --warmup-runs.",
    ),
)
STATE = (
    click.option(
        "--sustained",
        "sustained_secs",
        default="0s",
        callback=read_duration,
        metavar="DURATION",
        help="Go on for so long (30s, 5m, 1h), and show how latency drifts as the machine heats.",
    ),
    click.option("--cool-to", type=float, metavar="CELSIUS", help="Wait until the machine is so cool before."),
    click.option("--max-load", type=float, metavar="LOAD", help="Wait until its load of a minute is so low before."),
    click.option(
        "--max-wait-secs", type=float, default=600.0, show_default=True, help="Seconds to wait for these at most."
    ),
)


OPS = (
    click.option("--ops", is_flag=True, help="Measure time per operator as well, with the engine's own profiler."),
    click.option(
        "--top", type=click.IntRange(min=1), default=10, show_default=True, help="Operators that --ops shows at most."
    ),
)


def run_options(command: Command) -> Command:
    """Add how often and how long to run."""
    return _with(command, RUNS)


def state_options(command: Command) -> Command:
    """Add ``--sustained``, and what is waited for before."""
    return _with(command, STATE)


def ops_options(command: Command) -> Command:
    """Add ``--ops`` and ``--top``."""
    return _with(command, OPS)


def _with(command: Command, options: tuple[Callable[[Command], Command], ...]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
