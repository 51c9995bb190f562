"""What a comparison found, and which gates held."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from edgeferry_converter.comparison.accuracy import Accuracy
from edgeferry_converter.metrics import UNITS
from edgeferry_runtime.engines import Execution
from edgeferry_runtime.errors import GateError
from edgeferry_runtime.numerics import OutputError


@dataclass(frozen=True)
class Verdict:
    """One gate, and the figure that it was held against.

    Attributes:
        gate: Its flag.
        subject: What was measured, in words, with the values of both sides where they are accuracies.
        value: What was found.
        limit: What was allowed.
        passed: Whether it held; a NaN never does.
    """

    gate: str
    subject: str
    value: float
    limit: float
    passed: bool

    def __str__(self) -> str:
        side = "below" if self.gate == "--min-snr" else "above"
        return f"{self.subject} {self.value:.4g} is {'not ' if self.passed else ''}{side} {self.gate} {self.limit:g}"


@dataclass(frozen=True)
class Gates:
    """What must hold; None leaves a figure unchecked.

    Attributes:
        max_drop: Most that B may lose of A's accuracy: points of percent, or percent of ``mse``.
        max_abs_error: Largest absolute difference of any output.
        min_snr: Lowest signal-to-noise ratio of any output, in dB.
    """

    max_drop: float | None = None
    max_abs_error: float | None = None
    min_snr: float | None = None

    def judge(self, errors: tuple[OutputError, ...], accuracy: Accuracy | None) -> tuple[Verdict, ...]:
        """Hold every figure against its gate."""
        found = []
        if self.max_drop is not None and accuracy is not None:
            found.append(_most("--max-drop", _accuracy_words(accuracy), accuracy.drop, self.max_drop))
        for error in errors:
            if self.max_abs_error is not None:
                found.append(
                    _most("--max-abs-error", f"{error.name}: max abs error", error.max_abs, self.max_abs_error)
                )
            if self.min_snr is not None:
                passed = error.snr_db >= self.min_snr
                found.append(Verdict("--min-snr", f"{error.name}: SNR dB", error.snr_db, self.min_snr, passed))
        return tuple(found)


def _most(gate: str, subject: str, value: float, limit: float) -> Verdict:
    return Verdict(gate, subject, value, limit, value <= limit)


def _accuracy_words(found: Accuracy) -> str:
    unit = UNITS[found.metric]
    return f"{found.output}: {found.metric} {found.a:.4g}{unit} of A, {found.b:.4g}{unit} of B, a drop of"


@dataclass(frozen=True)
class Comparison:
    """Two models side by side.

    Attributes:
        a: The reference.
        b: What was compared with it.
        origin: Where the samples of the numerics came from.
        samples: How many they were.
        errors: The distance of each output.
        accuracy: What labelled data say.
        verdicts: The gates.
        notes: Which tensors were paired in spite of other names, and which signatures were not compared.
        executions: What really executed A and B, where a delegate was asked for.
    """

    a: str
    b: str
    origin: str
    samples: int
    errors: tuple[OutputError, ...]
    accuracy: Accuracy | None = None
    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()
    executions: tuple[Execution | None, Execution | None] = (None, None)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        gates = [vars(v) | {"value": v.value if math.isfinite(v.value) else None} for v in self.verdicts]
        return {
            "a": self.a,
            "b": self.b,
            "probe": self.origin,
            "samples": self.samples,
            "outputs": [error.to_dict() for error in self.errors],
            "accuracy": self.accuracy.to_dict() if self.accuracy else None,
            "gates": gates,
            "notes": list(self.notes),
        } | {f"execution_{side}": found.to_dict() for side, found in zip("ab", self.executions, strict=True) if found}

    def check(self) -> None:
        """Refuse what a gate does not let pass.

        Raises:
            GateError: Naming every gate that failed, with its figures.
        """
        failed = [str(verdict) for verdict in self.verdicts if not verdict.passed]
        if failed:
            fix = "keep more precision in B, or loosen the gate"
            raise GateError(f"{self.b} against {self.a}", "; ".join(failed), fix)
