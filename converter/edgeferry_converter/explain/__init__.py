"""Where quantization lost how much, why, and what repairs it: an artifact against the float one that it was made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeferry_converter.explain.measure import Measures, Seen, first_below
from edgeferry_converter.explain.network import open_network
from edgeferry_converter.explain.rules import Facts, Reason, reasons
from edgeferry_runtime import toml
from edgeferry_runtime.bundle import Probe
from edgeferry_runtime.errors import DataError

GOOD_DB = 30.0
"""A layer whose own error is below this is asked for a reason."""


@dataclass(frozen=True)
class LayerError:
    """What quantization did to one layer.

    Attributes:
        name: The tensor that the layer writes.
        operator: What it does.
        own_db: SNR of what the layer itself adds: fed with the inputs of the float run, rounded as it stores them;
            None where the engine could not run it alone.
        snr_db: SNR of the quantized run against the float run, with all that was lost before.
        cosine: Cosine similarity of the two runs.
        reasons: Why, where that is known.
    """

    name: str
    operator: str
    own_db: float | None
    snr_db: float
    cosine: float
    reasons: tuple[Reason, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, in which an infinite ratio is None."""
        return {
            "name": self.name,
            "operator": self.operator,
            "own_db": _finite(self.own_db),
            "snr_db": _finite(self.snr_db),
            "cosine": self.cosine,
            "reasons": [{"rule": r.rule, "text": r.text, "advice": r.advice} for r in self.reasons],
        }


@dataclass(frozen=True)
class Explanation:
    """Where quantization lost how much.

    Attributes:
        layers: The layers that were compared, the one that adds the most error first.
        first_below: The tensor at which the accumulated SNR falls below the threshold; None where it never does.
        min_snr_db: The threshold.
        samples: How many samples were run.
        uncompared: How many activations of the float model are not in the artifact: they were fused or renamed.
        keep_float: The layers which repair the known reasons when they stay in float.
    """

    layers: tuple[LayerError, ...]
    first_below: str | None
    min_snr_db: float
    samples: int
    uncompared: int
    keep_float: tuple[str, ...] = ()

    def override_toml(self) -> str:
        """Return the overrides as tables that can be pasted at the end of a recipe; empty where there are none."""
        tables = (toml.dump(override) for override in self._overrides())
        return "\n".join(f"[[quantize.override]]\n{table}" for table in tables)

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Return the JSON form, with at most `top` layers."""
        return {
            "samples": self.samples,
            "min_snr_db": self.min_snr_db,
            "first_below": self.first_below,
            "uncompared": self.uncompared,
            "layers": [layer.to_dict() for layer in self.layers[:top]],
            "overrides": self._overrides(),
        }

    def _overrides(self) -> list[dict[str, str]]:
        return [{"layer": layer, "precision": "none"} for layer in self.keep_float]


def explain(
    artifact: Path, float_artifact: Path, probe: Probe, *, min_snr_db: float = 20.0, only_first: bool = False
) -> Explanation:
    """Compare every layer of an artifact with the float one that it was made of.

    Activations are held in groups of bounded size, so that big models fit into memory: each group is a run of both.

    Args:
        artifact: The quantized ``.tflite`` or ``.onnx`` file.
        float_artifact: The float file of the same format.
        probe: What both are fed.
        min_snr_db: The accumulated SNR below which a tensor counts as bad, in decibels.
        only_first: Find the first bad tensor by bisection, and measure no more than that needs.

    Raises:
        ArtifactError: If a file is damaged.
        DataError: If the two share no tensor.
        EngineError: If the engine refuses one.
    """
    before, after = open_network(float_artifact), open_network(artifact)
    axis = -1 if artifact.suffix == ".tflite" else 1
    measures = Measures(before, after, list(probe.feeds()), axis)
    if not measures.names:
        raise DataError(artifact, f"shares no tensor with {float_artifact}", "give the float model that it was made of")

    def below(name: str) -> bool:
        return not measures[name].accumulated.snr_db >= min_snr_db

    first = first_below(measures.names, below)
    if not only_first:
        first = next((name for name in measures.names if below(name)), None)
    seen = measures.measured()
    facts = Facts(before, after, {**measures.of_inputs(), **seen})
    errors = sorted((_layer(facts, name, found) for name, found in seen.items()), key=_badness)
    return Explanation(
        layers=tuple(errors),
        first_below=first,
        min_snr_db=min_snr_db,
        samples=len(probe),
        uncompared=len(before.activations()) - len(measures.names),
        keep_float=_keep_float(facts, errors, min_snr_db),
    )


def _layer(facts: Facts, name: str, seen: Seen) -> LayerError:
    maker = facts.maker(name)
    own = seen.own.snr_db if seen.own else None
    bad = (seen.accumulated.snr_db if own is None else own) < GOOD_DB
    return LayerError(
        name=name,
        operator=maker.kind if maker else "",
        own_db=own,
        snr_db=seen.accumulated.snr_db,
        cosine=seen.accumulated.cosine,
        reasons=tuple(reasons(facts, name)) if bad else (),
    )


def _badness(layer: LayerError) -> float:
    return layer.snr_db if layer.own_db is None else layer.own_db


def _keep_float(facts: Facts, layers: Sequence[LayerError], min_snr_db: float) -> tuple[str, ...]:
    """Name what the reasons name; without a reason the layers that alone fall below the threshold."""
    named = [name for layer in layers for reason in layer.reasons for name in reason.layers]
    bad = [facts.maker(layer.name) for layer in layers if _badness(layer) < min_snr_db] if not named else []
    named += [op.name for op in bad if op is not None]
    return tuple(dict.fromkeys(named))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
