"""What happened in a compression, as data: what ``--json`` prints, ``history.json`` keeps and the plot draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA_VERSION = 1
ROUNDING = 1e-9
"""What a difference of two percentages may be off by, as a float."""


@dataclass(frozen=True)
class Standing:
    """What a model is, at the source or after a step.

    Attributes:
        score: The metric on the judging samples, in its unit.
        parameters: Values that are stored.
        sparsity: Share of zeros among the values of kernels, 0 to 1.
        macs: Multiply-accumulates for one sample; None where they cannot be counted.
        artifact_bytes: Size of its artifact; None where none was made.
        compressed_bytes: Size of that file after DEFLATE.
        median_ms: Measured time of one run of the artifact on this machine.
        precision: Of the artifact: ``none`` (float32), ``int8`` and so on.
    """

    score: float
    parameters: int
    sparsity: float
    macs: int | None = None
    artifact_bytes: int | None = None
    compressed_bytes: int | None = None
    median_ms: float | None = None
    precision: str = "none"


@dataclass(frozen=True)
class Epoch:
    """One pass over the data.

    Attributes:
        number: From 1.
        loss: The mean of its steps.
        score: The metric after it.
        seconds: How long it took.
    """

    number: int
    loss: float
    score: float
    seconds: float


@dataclass(frozen=True)
class Entry:
    """One step that was carried out.

    Attributes:
        name: Of the step.
        method: What was done.
        standing: What came out.
        drop: What the model has lost against the source: points of the metric, of ``mse`` percent.
        max_drop: The step's gate; None had none.
        epochs: Of its training.
        facts: What its method tells, such as the sparsity of each layer.
        kept: By layer, why the method left it alone.
        seconds: How long it took, measuring included.
    """

    name: str
    method: str
    standing: Standing
    drop: float
    max_drop: float | None = None
    epochs: tuple[Epoch, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the gate holds."""
        return self.max_drop is None or self.drop <= self.max_drop + ROUNDING


@dataclass(frozen=True)
class History:
    """A whole compression.

    Attributes:
        source: The model that it began with.
        framework: ``keras`` or ``torch``.
        metric: What it was judged by.
        trained: How many samples it was trained on.
        judged: How many samples it was judged by.
        seed: Of everything that is random.
        start: The source.
        steps: What was carried out, the last one perhaps without passing its gate.
        stopped: Why it ended early; empty where it did not.
        best: The name of the step whose model was kept; empty is the source.
    """

    source: str
    framework: str
    metric: str
    trained: int
    judged: int
    seed: int
    start: Standing
    steps: tuple[Entry, ...] = ()
    stopped: str = ""
    best: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        steps = [{**asdict(step), "passed": step.passed} for step in self.steps]
        return {"schema_version": SCHEMA_VERSION, **asdict(self), "steps": steps}
