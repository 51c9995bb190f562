"""How to measure."""

from __future__ import annotations

from dataclasses import dataclass

from edgeferry_runtime.engines import parse_delegates
from edgeferry_runtime.errors import UsageError

LEAST = {
    **{"num_runs": 1, "warmup_runs": 1, "min_secs": 0, "max_secs": 0, "max_warmup_secs": 0, "seed": 0},
    **{"sustained_secs": 0, "cool_to": 0, "max_load": 0, "max_wait_secs": 0},
}


@dataclass(frozen=True)
class BenchOptions:
    """How to measure; the names are those of LiteRT's ``benchmark_model``.

    Attributes:
        num_runs: Runs to measure at least.
        warmup_runs: Runs before them at least, the first one among them.
        min_secs: Seconds to measure at least.
        max_secs: Seconds after which to stop, even before `num_runs`.
        delegate: Where to execute; several, joined by commas, are an order of preference.
        seed: Of the inputs, where there is no probe, and of the confidence interval.
        signature: Which of the artifact's signatures to measure; None takes the primary one.
        require_full_delegation: Refuse a delegate that does not take every node.
        max_warmup_secs: Seconds to wait at most until the runs are steady; 0 makes exactly `warmup_runs`.
        sustained_secs: Seconds to go on for, in place of `num_runs`, `min_secs` and `max_secs`; 0 for none.
        cool_to: Degrees Celsius to wait for before anything is loaded; None does not wait.
        max_load: Load of the last minute to wait for as well; None does not wait.
        max_wait_secs: Seconds to wait for both at most.
        ops: Measure time per operator as well, in a process of its own, before.
    """

    num_runs: int = 50
    warmup_runs: int = 10
    min_secs: float = 1.0
    max_secs: float = 150.0
    delegate: str = "cpu"
    seed: int = 0
    signature: str | None = None
    require_full_delegation: bool = False
    max_warmup_secs: float = 10.0
    sustained_secs: float = 0.0
    cool_to: float | None = None
    max_load: float | None = None
    max_wait_secs: float = 600.0
    ops: bool = False

    def __post_init__(self) -> None:
        parse_delegates(self.delegate)
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < float("inf"):
                option = f"--{name.removesuffix('_secs') if name == 'sustained_secs' else name}".replace("_", "-")
                raise UsageError(option, f"is {value}", f"give {least} or more")
        if self.min_secs > self.max_secs:
            raise UsageError("--min-secs", f"is {self.min_secs}, above --max-secs {self.max_secs}", "lower it")

    @property
    def longest_secs(self) -> float:
        """Seconds that all of it may take, beside loading and the one run that is under way when time is up."""
        waiting = 0.0 if self.cool_to is None and self.max_load is None else self.max_wait_secs
        return waiting + max(self.max_secs, self.max_warmup_secs) + max(self.max_secs, self.sustained_secs)


DEFAULTS = BenchOptions()
