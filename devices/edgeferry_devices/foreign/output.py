"""Reads what ``benchmark_model`` prints.

Source: benchmark_model.cc and benchmark_tflite_model.cc of TensorFlow 2.16 to 2.20 and of LiteRT 2.1, tflite/tools, and
stats_calculator.h, which prints the figures of the runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgeferry_runtime.errors import EngineError

MIB = 1 << 20
NUMBER = r"(-?[\d.]+(?:e[+-]?\d+)?)"

_SUMMARY = re.compile(rf"Inference timings in us: Init: {NUMBER}, First inference: {NUMBER}, Warmup \(avg\): {NUMBER}")
_RUNS = re.compile(r"\bcount=(\d+)(?: (?=first=|curr=)([^\n]*))?")
_MEMORY = re.compile(rf"emory footprint(?: delta from the start of the tool)? \(MB\): init={NUMBER} overall={NUMBER}")
_NODES = re.compile(
    r"Replacing (\d+) out of (\d+) node\(s\) with delegate \(([^)]*)\) node, yielding (\d+) partitions?"
)
_IGNORED = re.compile(r"Unconsumed cmdline flags: (.+)")
_SHARE = re.compile(r"the model graph will (not be|be completely|be partially) +executed by the delegate")
SHARES = {"not be": "none", "be completely": "all", "be partially": "part"}


@dataclass(frozen=True)
class Delegated:
    """What a delegate took: its name, nodes, of how many, in how many parts."""

    name: str
    nodes: int
    of: int
    partitions: int


@dataclass(frozen=True)
class Told:
    """What was printed; all times are milliseconds.

    Attributes:
        init_ms: Loading.
        first_ms: The first run.
        warmup_ms: Mean of the warm-up.
        warmup_runs: How many runs that were.
        num_runs: Measured runs.
        figures: ``mean``, ``stddev``, ``min``, ``max``, ``p5``, ``median`` and ``p95`` of these.
        memory_bytes: ``init`` and ``overall``: by how much the peak of its memory grew, where the system tells.
        delegated: What each delegate took, XNNPACK among them.
        share: How much of the graph the delegate took that was asked for: ``all``, ``part`` or ``none``; None where it
            is not told.
    """

    init_ms: float
    first_ms: float
    warmup_ms: float
    warmup_runs: int
    num_runs: int
    figures: Mapping[str, float]
    memory_bytes: Mapping[str, int]
    delegated: tuple[Delegated, ...] = ()
    share: str | None = None


def parse(program: str, text: str) -> Told:
    """Read all of it.

    Args:
        program: The program, for the error.
        text: What it printed, on both streams.

    Raises:
        EngineError: If the figures are not there, or not all of them.
    """
    summary, runs = _SUMMARY.search(text), _RUNS.findall(text)
    if summary is None or len(runs) < 2:
        fix = "give a benchmark_model of TensorFlow Lite or LiteRT"
        raise EngineError(program, "ended well, and printed no 'Inference timings'", fix)
    init, first, warmup = (_milliseconds(each) for each in summary.groups())
    memory, share = _MEMORY.search(text), _SHARE.search(text)
    return Told(
        init_ms=init,
        first_ms=first,
        warmup_ms=warmup,
        warmup_runs=int(runs[0][0]),
        num_runs=int(runs[1][0]),
        figures=_figures(program, runs[1][1]),
        memory_bytes={k: round(float(v) * MIB) for k, v in zip(("init", "overall"), memory.groups(), strict=True)}
        if memory
        else {},
        delegated=tuple(Delegated(name, int(n), int(of), int(parts)) for n, of, name, parts in _NODES.findall(text)),
        share=SHARES[share[1]] if share else None,
    )


def ignored(text: str) -> tuple[str, ...]:
    """Return the flags that it did not know, and went on without."""
    found = _IGNORED.search(text)
    return tuple(found[1].split()) if found else ()


def _figures(program: str, text: str) -> dict[str, float]:
    """Read the figures of the measured runs; where all took the same time it is told once."""
    told = {key: float(value) for key, value in re.findall(rf"\b(\w+)={NUMBER}(?![\w.])", text)}
    if "avg" not in told and "curr" in told:
        told.update(avg=told["curr"], min=told["curr"], max=told["curr"], std=0.0)
    names = {"mean": "avg", "stddev": "std", **{key: key for key in ("min", "max", "p5", "median", "p95")}}
    missing = [key for key in names.values() if key not in told]
    if missing:
        fix = "give one that was built from newer sources: TensorFlow 2.16 or LiteRT"
        raise EngineError(program, f"does not tell {', '.join(missing)} of its runs", fix)
    return {name: told[key] / 1e3 for name, key in names.items()}


def _milliseconds(microseconds: str) -> float:
    return float(microseconds) / 1e3
