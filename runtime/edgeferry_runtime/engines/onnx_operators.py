"""Time per operator on ONNX Runtime, from its own profiler."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeferry_runtime.engines import onnxruntime as engine
from edgeferry_runtime.engines.delegate import Delegate
from edgeferry_runtime.engines.recording import Recording, Timed
from edgeferry_runtime.flatbuffer import map_file
from edgeferry_runtime.onnx_wire import read_nodes
from edgeferry_runtime.quiet_stderr import quiet_stderr
from edgeferry_runtime.scratch import scratch
from edgeferry_runtime.tensors import Array

METHOD = "the profiler of ONNX Runtime {}"
RESOLUTION = "ONNX Runtime tells whole microseconds, and its profiler takes some microseconds of its own per operator"
BODIES = ("If", "Loop", "Scan")
"""Operators that execute other graphs, whose operators lie inside of their time."""
KERNEL = "_kernel_time"
RUN = "model_run"
MOST_EVENTS = 20_000
"""Events to record at most, each about a kilobyte of JSON; there are two runs at least."""


def record(
    path: Path, delegate: Delegate, feeds: Mapping[str, Array], measure: Callable[[Callable[[], object]], Array]
) -> Recording:
    """Run a model without and with ONNX Runtime's profiler.

    Args:
        path: A verified ``.onnx`` file.
        delegate: ``cpu``, with its threads.
        feeds: Stored inputs by name.
        measure: Calls what it is given often enough, and returns milliseconds of each call.

    Raises:
        EngineError: If ONNX Runtime refuses it.
    """
    runtime = engine.import_engine(path)
    try:
        session = _session(runtime, path, delegate, None)
        plain = measure(lambda: session.run(None, dict(feeds)))
        with scratch("edgeferry-ops-") as folder:
            warm = _profile(_session(runtime, path, delegate, folder / "first"), feeds, 2)
            count = max(2, min(len(plain), MOST_EVENTS // max(1, len(warm[-1].operators))))
            runs = _profile(_session(runtime, path, delegate, folder / "runs"), feeds, count + 1)[1:]
    except engine._refusals(runtime) as error:
        raise engine.refusal(path, error) from error
    ms = tuple(plain.tolist()), tuple(run.us / 1e3 for run in runs)
    operators = tuple(run.operators for run in runs)
    return Recording(METHOD.format(runtime.__version__), *ms, operators, _graph(path), (RESOLUTION,))


def _session(runtime: Any, path: Path, delegate: Delegate, profile: Path | None) -> Any:
    """Open a session, which writes its profile to files of that name."""
    options = engine._options(runtime, delegate)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    with quiet_stderr():
        return runtime.InferenceSession(str(path), options, providers=[engine.PROVIDER], enable_fallback=0)


def _graph(path: Path) -> Counter[str]:
    with map_file(path) as data:
        return Counter(node.operator for node in read_nodes(data))


@dataclass(frozen=True)
class Run:
    """One run under the profiler: its microseconds and its operators."""

    us: float
    operators: tuple[Timed, ...]


def _profile(session: Any, feeds: Mapping[str, Array], count: int) -> list[Run]:
    for _ in range(count):
        session.run(None, dict(feeds))
    file = Path(session.end_profiling())
    with file.open(encoding="utf-8") as lines:
        runs = list(read_runs(read_events(lines)))
    file.unlink()
    return runs


def read_events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Read a profile an event at a time, because it may be large: each has a line of its own."""
    for line in lines:
        text = line.strip().removesuffix(",")
        if text.startswith("{"):
            yield json.loads(text)


def read_runs(events: Iterable[Mapping[str, Any]]) -> Iterator[Run]:
    """Divide events, which are in the order in which they ended, into runs."""
    nodes: list[Mapping[str, Any]] = []
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(KERNEL):
            nodes.append(event)
        elif event["name"] == RUN:
            yield Run(event["dur"], tuple(own_times(nodes)))
            nodes = []


@dataclass
class _Body:
    """An operator that executes other graphs: its key, where it ends, and the time of what it executed."""

    key: tuple[object, ...]
    end: float
    inside: float = 0.0


def own_times(nodes: Sequence[Mapping[str, Any]]) -> list[Timed]:
    """Take what loops and branches execute off their own time.

    Args:
        nodes: The events of one run, in the order in which they ended.
    """
    order = sorted(range(len(nodes)), key=lambda i: (nodes[i]["ts"], -nodes[i]["dur"], -i))
    open_bodies: list[_Body] = []
    bodies: dict[int, _Body] = {}
    keys: dict[int, tuple[object, ...]] = {}
    for i in order:
        node, name = nodes[i], _name(nodes[i])
        while open_bodies and node["ts"] >= open_bodies[-1].end:
            open_bodies.pop()
        outer = open_bodies[-1] if open_bodies else None
        if outer:
            outer.inside += node["dur"]
        keys[i] = (*(outer.key if outer else ()), name, node["args"].get("node_index"), node["args"]["op_name"])
        if node["args"]["op_name"] in BODIES:
            bodies[i] = _Body(keys[i], node["ts"] + node["dur"])
            open_bodies.append(bodies[i])
    return [_timed(nodes[i], keys[i], bodies.get(i)) for i in order]


def _name(node: Mapping[str, Any]) -> str:
    """Name a node; one without a name by its operator and its place."""
    arguments = node["args"]
    return node["name"].removesuffix(KERNEL) or f"{arguments['op_name']}:{arguments.get('node_index', '')}"


def _timed(node: Mapping[str, Any], key: tuple[object, ...], body: _Body | None) -> Timed:
    own = max(0.0, float(node["dur"]) - (body.inside if body else 0.0))
    return Timed(key, _name(node), node["args"]["op_name"], node["args"].get("provider", "unknown"), own)
