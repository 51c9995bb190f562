"""A series of measurements held against a budget, device by device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeferry_devices.series import Series
    from edgeferry_runtime.commands.budget_options import Gates
    from edgeferry_runtime.junit import Suite


def series_suites(series: Series, gates: Gates) -> list[Suite]:
    """Hold what was measured on each device against the budget; what failed is an error there, named by its bundle."""
    found = {attempt.device: [a for a in series.attempts if a.device == attempt.device] for attempt in series.attempts}
    return [
        gates.suite(
            device,
            [a.profile for a in attempts if a.profile],
            [(a.bundle.manifest.name if a.bundle else device, a.error) for a in attempts if a.error],
        )
        for device, attempts in found.items()
    ]


def earlier_suites(run: str, devices: Sequence[str], gates: Gates) -> list[Suite]:
    """Hold what was measured before a run was cut, which the history has, against the budget.

    Args:
        run: What the history calls it.
        devices: Those that had succeeded.
        gates: The budget.
    """
    from edgeferry_devices.history import Query, read

    found = [m for m in read(Query(tuple(devices))) if m.run == run] if devices else []
    return [gates.suite(device, [m.profile for m in found if m.device == device]) for device in devices]
