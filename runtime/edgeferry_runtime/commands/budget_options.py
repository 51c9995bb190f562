"""``--budget`` and ``--junit``, the options of every command that measures and can be a gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeferry_runtime.commands.output import check_file
from edgeferry_runtime.errors import GateError, UsageError

if TYPE_CHECKING:
    from edgeferry_runtime.budget import Limit
    from edgeferry_runtime.errors import EdgeferryError
    from edgeferry_runtime.junit import Suite
    from edgeferry_runtime.profile import Profile

Command = TypeVar("Command", bound=Callable[..., Any])


def read_budget(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[Limit, ...]:
    """Read an option such as ``p50=15ms,size=4MB``; empty where it is not given."""
    from edgeferry_runtime.budget import parse_budget

    return () if value is None else parse_budget(value, param.opts[0])


def read_junit(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Refuse a file that cannot be written, before anything is measured."""
    if value is not None:
        check_file(value, param.opts[0])
    return value


BUDGET = (
    click.option(
        "--budget",
        metavar="LIMITS",
        callback=read_budget,
        help="Fail with status 3 where a limit is exceeded: p50=15ms,size=4MB,drop=0.5.",
    ),
    click.option(
        "--junit",
        metavar="FILE",
        type=click.Path(path_type=Path),
        callback=read_junit,
        help="Write what became of --budget as JUnit XML.",
    ),
)


def budget_options(command: Command) -> Command:
    """Add ``--budget`` (a tuple of limits) and ``--junit``."""
    for option in reversed(BUDGET):
        command = option(command)
    return command


@dataclass(frozen=True)
class Gates:
    """What must hold, and where it is reported.

    Attributes:
        limits: The budget; empty where there is none.
        junit: The file of JUnit XML, where one is asked for.
    """

    limits: tuple[Limit, ...] = ()
    junit: Path | None = None

    @classmethod
    def take(cls, options: dict[str, Any]) -> Gates:
        """Take both options out of a command's.

        Raises:
            UsageError: If there is a file and no budget.
        """
        gates = cls(options.pop("budget"), options.pop("junit"))
        if gates.junit is not None and not gates.limits:
            raise UsageError("--junit", "reports what became of a budget, and there is none", "add --budget LIMITS")
        return gates

    def to_dict(self) -> dict[str, str | None]:
        """Return the JSON form: both options as they were given, the file with its whole path."""
        budget = ",".join(limit.text for limit in self.limits) or None
        return {"budget": budget, "junit": None if self.junit is None else str(self.junit.absolute())}

    @classmethod
    def from_dict(cls, data: Mapping[str, str | None]) -> Gates:
        """Read the JSON form.

        Raises:
            UsageError: If it is none.
        """
        from edgeferry_runtime.budget import parse_budget

        budget, junit = data.get("budget"), data.get("junit")
        return cls(parse_budget(budget) if budget else (), Path(junit) if junit else None)

    def suite(
        self, device: str, profiles: Sequence[Profile] = (), errors: Sequence[tuple[str, EdgeferryError]] = ()
    ) -> Suite:
        """Hold what was measured on a device against the budget.

        Args:
            device: Its name.
            profiles: What was measured.
            errors: What kept something from being measured, and what that is.
        """
        from edgeferry_runtime.budget import check
        from edgeferry_runtime.junit import Suite

        return Suite(device, profiles, check(profiles, self.limits), errors)

    def report(self, suites: Sequence[Suite]) -> None:
        """Write the file, where one is asked for."""
        from edgeferry_runtime.junit import write_junit

        if self.junit is not None:
            write_junit(self.junit, suites)

    def failures(self, suites: Sequence[Suite]) -> list[EdgeferryError]:
        """Return the error that names what does not keep the budget, where anything does not."""
        from edgeferry_runtime.budget import enforce

        try:
            enforce([verdict for suite in suites for verdict in suite.verdicts])
        except GateError as error:
            return [error]
        return []


def verdict_lines(suites: Sequence[Suite]) -> list[str]:
    """Return a line for each limit, below an empty one."""
    lines = [f"{'passed' if v.passed else 'FAILED'}  {v}" for suite in suites for v in suite.verdicts]
    return ["", *lines] if lines else []
