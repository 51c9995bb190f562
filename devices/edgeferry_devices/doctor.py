"""Says what will not work on a device, and what to do, before anything is pushed. Checks are functions of facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgeferry_devices.facts import Facts
from edgeferry_devices.knowing import machine_checks, python_checks
from edgeferry_devices.knowing.finding import Finding

Check = Callable[[Facts], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    python_checks.python,
    python_checks.engines,
    python_checks.imports,
    python_checks.numpy,
    python_checks.serve,
    machine_checks.instructions,
    machine_checks.page_size,
    machine_checks.folder,
    machine_checks.space,
    machine_checks.memory,
    machine_checks.clock,
    machine_checks.power,
    machine_checks.heat,
    machine_checks.governor,
    machine_checks.accelerators,
)


@dataclass(frozen=True)
class Diagnosis:
    """What was found on one device.

    Attributes:
        facts: What the device told.
        findings: One or more for each thing that could be looked at, in the order of the checks.
    """

    facts: Facts
    findings: Sequence[Finding]

    @property
    def failures(self) -> list[Finding]:
        """What will not work."""
        return [finding for finding in self.findings if finding.verdict == "failure"]

    def to_dict(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "device": self.facts.device,
            "address": self.facts.address,
            "ready": not self.failures,
            "findings": [vars(finding) for finding in self.findings],
        }


def examine(facts: Facts) -> Diagnosis:
    """Look at the facts of a device; nothing is asked of it again."""
    return Diagnosis(facts, [finding for check in CHECKS for finding in check(facts)])
