"""Time per operator on LiteRT, from the profiler of its own library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgeferry_runtime.engines import Engine
from edgeferry_runtime.engines.delegate import Delegate
from edgeferry_runtime.engines.litert_native import Event, NativeError, Profiled, open_library, open_profiled
from edgeferry_runtime.engines.litert_nodes import operators
from edgeferry_runtime.engines.recording import Recording, Timed
from edgeferry_runtime.errors import EngineError
from edgeferry_runtime.flatbuffer import Table, map_file
from edgeferry_runtime.quiet_stderr import capture_output
from edgeferry_runtime.tensors import Array
from edgeferry_runtime.tflite_file import read_tflite

DEFAULT, OPERATOR, DELEGATE, TELEMETRY = 1, 2, 8, 32
"""Kinds of events: a span of the runtime, an operator, an operator inside a delegate, a notice."""
INVOKE = "Invoke"
BODIES = ("WHILE", "IF", "CALL", "CALL_ONCE")
METHOD = "the profiler of libLiteRt.so, ai-edge-litert {}"
RESOLUTION = "LiteRT tells whole microseconds, cut off: operators below 1 us count as nothing"
ROUNDS = "the own time of {} is mostly the profiler's, which reads the memory whenever another graph begins or ends"

WEIGHTED = ("Convolution", "Fully Connected", "Deconvolution")
SAME: Mapping[tuple[str, ...], tuple[str, ...]] = {
    WEIGHTED: ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"),
    ("Add (",): ("ADD",),
    ("Subtract (",): ("SUB",),
    ("Multiply (",): ("MUL",),
    ("Divide (",): ("DIV",),
    ("Softmax",): ("SOFTMAX",),
    ("Sigmoid",): ("LOGISTIC",),
    ("TanH",): ("TANH",),
    ("Max Pooling",): ("MAX_POOL_2D",),
    ("Average Pooling",): ("AVERAGE_POOL_2D",),
    ("Resize Bilinear",): ("RESIZE_BILINEAR",),
    ("Batch Matrix Multiply",): ("BATCH_MATMUL",),
}
"""XNNPACK's operators by the beginnings of their names, and the nodes that they come from. XNNPACK keeps no names, but
keeps the order within a partition: where there are as many of the one as of the other, they belong together."""


@dataclass(frozen=True)
class Graph:
    """What the file says of its nodes.

    Attributes:
        names: Of each subgraph: the name of each node's first output.
        operators: Of each node of the main graph.
    """

    names: tuple[tuple[str, ...], ...]
    operators: tuple[str, ...]

    def name(self, subgraph: int, node: int) -> str:
        """Name a node; empty where the file does not."""
        known = self.names[subgraph] if subgraph < len(self.names) else ()
        return known[node] if node < len(known) else ""


@dataclass(frozen=True)
class Target:
    """What is to be profiled.

    Attributes:
        path: A verified ``.tflite`` file.
        version: Of ai-edge-litert.
        graph: What the file says of its nodes.
        signature: The number of the signature that is run; None where the file has none.
    """

    path: Path
    version: str
    graph: Graph
    signature: int | None


def describe(path: Path, engine: Engine) -> Target:
    """Describe a file that the interpreter has loaded.

    Raises:
        EngineError: If the interpreter is not that of ai-edge-litert.
    """
    if engine.name != "ai_edge_litert":
        reason = f"{engine.name} has no profiler that tells time per operator"
        raise EngineError(path, reason, "install ai-edge-litert, or leave out --ops")
    with map_file(path) as data:
        file = read_tflite(data)
        names = tuple(_names(subgraph) for subgraph in Table.root(data).tables(2))
    number = file.keys.index(engine.signature) if engine.signature else None
    return Target(path, engine.version, Graph(names, operators(engine._interpreter)[: file.nodes]), number)  # type: ignore[attr-defined]


def _names(subgraph: Table) -> tuple[str, ...]:
    tensors = subgraph.tables(0)
    outputs = [operator.ints(2) for operator in subgraph.tables(3)]
    return tuple(tensors[ids[0]].text(3) if ids and ids[0] >= 0 else "" for ids in outputs)


def record(
    target: Target, delegate: Delegate, feeds: Mapping[str, Array], measure: Callable[[Callable[[], None]], Array]
) -> Recording:
    """Run a model without and with LiteRT's profiler.

    The process dies on cores that lack instructions which the library uses.

    Args:
        target: From `describe`.
        delegate: ``cpu``, with its threads.
        feeds: Stored inputs by name, in the engine's order.
        measure: Calls what it is given often enough, and returns milliseconds of each call.

    Raises:
        EngineError: If this version has no profiler, or it cannot run the model.
    """
    library = open_library(target.path, target.version)
    given = list(feeds.values()) if target.signature is None else feeds
    threads = delegate.threads or 1
    runs: list[tuple[Timed, ...]] = []
    try:
        with (
            capture_output() as said,
            open_profiled(library, target.path, target.signature or 0, given, threads) as model,
        ):
            plain = measure(model.run)
            profiled = [_profile(model, target.graph, runs) for _ in plain]
    except NativeError as error:
        complaints = [f" ({line[:300]})" for line in said.text.splitlines() if line.startswith("ERROR:")]
        reason = f"LiteRT's profiler cannot be used on it: {error}{''.join(complaints[-1:])}"
        raise EngineError(target.path, reason, "leave out --ops, or use another version of ai-edge-litert") from error
    loops = sorted({timed.type for run in runs for timed in run if timed.type in BODIES})
    notes = (RESOLUTION, *(ROUNDS.format(kind) for kind in loops))
    ms = tuple(plain.tolist()), tuple(profiled)
    return Recording(METHOD.format(target.version), *ms, tuple(runs), Counter(target.graph.operators), notes)


def _profile(model: Profiled, graph: Graph, runs: list[tuple[Timed, ...]]) -> float:
    """Run once under the profiler, keep what it tells, and return the run's milliseconds."""
    with model.recording():
        model.run()
    events = model.events()
    runs.append(tuple(named(read_run(events, graph), graph)))
    return _wall_us(events) / 1e3


def _wall_us(events: Iterable[tuple[str, Event]]) -> int:
    """Return how long the main graph took."""
    return next((event.elapsed_us for tag, event in events if tag == INVOKE and event.type == DEFAULT), 0)


@dataclass
class _Level:
    """A graph that is being executed.

    Attributes:
        owner: Where the operator that executes it stands among those found; None for the main graph.
        last: The same of its last operator.
        partition: How many parts of it a delegate has executed.
        previous: The index of the delegate's last operator; None after one that is no delegate's.
    """

    owner: int | None
    last: int | None = None
    partition: int = 0
    previous: int | None = None
    children: list[int] = field(default_factory=list)


def read_run(events: Iterable[tuple[str, Event]], graph: Graph) -> list[Timed]:
    """Turn the events of one run into operators, in the order of execution.

    An operator that executes another graph stands before that graph's ``Invoke``, whose time is taken off its own.

    Args:
        events: In the order in which they began.
        graph: What the file says of its nodes.
    """
    found: list[Timed] = []
    levels: list[_Level] = []
    for tag, event in events:
        if tag == INVOKE and event.type == DEFAULT:
            owner = levels[-1].last if levels else None
            if owner is not None:
                found[owner] = replace(found[owner], us=max(0.0, found[owner].us - event.elapsed_us))
            levels.append(_Level(owner))
        elif tag == INVOKE and event.type == TELEMETRY and levels:
            levels.pop()
        elif levels and event.type == OPERATOR:
            levels[-1].last, levels[-1].previous = len(found), None
            found.append(_own(tag, event, graph))
        elif levels and event.type == DELEGATE:
            found.append(_delegated(tag, event, levels[-1]))
    return found


def _own(tag: str, event: Event, graph: Graph) -> Timed:
    """Read an operator of TFLite's own kernels."""
    name = graph.name(event.subgraph, event.index) or f"{tag}:{event.subgraph}:{event.index}"
    return Timed((event.subgraph, event.index), name, tag, "TFLite", float(event.elapsed_us))


def _delegated(tag: str, event: Event, level: _Level) -> Timed:
    """Read an operator of XNNPACK, which numbers them from 0 in each partition."""
    if level.previous is None or event.index <= level.previous:
        level.partition += 1
    level.previous = event.index
    key = (event.subgraph, level.partition, event.index)
    return Timed(key, f"xnnpack:{':'.join(map(str, key))}", tag, "XNNPACK", float(event.elapsed_us))


def named(run: Sequence[Timed], graph: Graph) -> list[Timed]:
    """Give XNNPACK's operators of the main graph the names of their nodes, where `SAME` tells them."""
    own = {timed.key for timed in run if timed.provider == "TFLite"}
    nodes = [(i, operator) for i, operator in enumerate(graph.operators) if (0, i) not in own]
    names: dict[object, str] = {}
    for beginnings, kinds in SAME.items():
        theirs = [timed for timed in run if timed.type.startswith(beginnings) and timed.key[0] == 0]
        ours = [i for i, operator in nodes if operator in kinds]
        if len(theirs) == len(ours) and len({timed.key[1] for timed in theirs}) == 1:
            names.update({timed.key: graph.name(0, i) for timed, i in zip(theirs, ours, strict=True)})
    return [replace(timed, name=names.get(timed.key) or timed.name) for timed in run]
