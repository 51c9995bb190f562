"""One run in a process of its own: whatever a file does to its engine, the process that asked for it lives.

A file that passed every check can still corrupt an engine's memory, and one run that went well does not show that the
next one will. So a command that runs a file once never has it in its own process. A bundle is no exception: its hashes
tell that nothing was changed, and not who made it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeferry_runtime.child import child_command
from edgeferry_runtime.engines import Execution, parse_delegates
from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.guard import TIMEOUT_S, limit_memory, out_of_memory, raise_for, refuse_late
from edgeferry_runtime.scratch import scratch

if TYPE_CHECKING:
    from edgeferry_runtime.model import Model
    from edgeferry_runtime.tensors import Array


@dataclass(frozen=True)
class Run:
    """What is to be run.

    Attributes:
        path: A bundle's folder, or an artifact.
        inputs: Each ``FILE`` or ``NAME=FILE``; see `input_files.read_feeds`. Without any, the first sample of the
            bundle's probe.
        raw: Whether stored integers are fed and given.
        delegate: Where to execute.
        require_full_delegation: Whether a delegate that does not take every node is refused.
        signature: Which of its signatures; None takes the primary one.
    """

    path: str
    inputs: tuple[str, ...]
    raw: bool = False
    delegate: str = "cpu"
    require_full_delegation: bool = False
    signature: str | None = None


@dataclass(frozen=True)
class Answer:
    """What came of it.

    Attributes:
        outputs: By name.
        execution: What executed it.
        signatures: The names of its signatures, the one that ran first.
        said: What the engine left on stderr.
    """

    outputs: dict[str, Array]
    execution: Execution
    signatures: tuple[str, ...]
    said: str


def run_confined(run: Run, *, timeout_s: float = TIMEOUT_S) -> Answer:
    """Load, feed and run once, in a child process that may die of it.

    On the plain CPU the child lives with `guard.limit_memory`.

    Args:
        run: What is to be run.
        timeout_s: Seconds after which the child is ended.

    Raises:
        EngineCrashError: If the child dies.
        EngineError: If the engine refuses the artifact or the inputs, or does not answer in time.
        EdgeferryError: What `load` and `input_files.read_feeds` raise.
    """
    with scratch() as folder:
        outputs = folder / "outputs.npz"
        command = child_command(__name__, "child", json.dumps(asdict(run)), str(outputs))
        try:
            done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            refuse_late(run.path, run.delegate, timeout_s)
        if done.returncode:
            raise_for(run.path, done, run.delegate)
        told = json.loads(done.stdout)
        execution, signatures = Execution.from_dict(told["execution"]), tuple(told["signatures"])
        return Answer(_read(outputs), execution, signatures, done.stderr.decode(errors="replace"))


def child(request: str, outputs: str) -> int:
    """Be the child: write the outputs to a file, and print what executed, or an expected error, as JSON."""
    from edgeferry_runtime.wire import claim_stdout, encode_error

    fields = json.loads(request)
    run = Run(**{**fields, "inputs": tuple(fields["inputs"])})
    with claim_stdout() as answers:
        try:
            if all(delegate.is_plain_cpu for delegate in parse_delegates(run.delegate)):
                limit_memory(run.path)
            told = _run(run, Path(outputs))
        except EdgeferryError as error:
            answers.write(json.dumps(encode_error(error)).encode())
            return 1
        except MemoryError:
            answers.write(json.dumps(encode_error(out_of_memory(run.path))).encode())
            return 1
        answers.write(json.dumps(told).encode())
    return 0


def _run(run: Run, target: Path) -> dict[str, Any]:
    from edgeferry_runtime.model import load

    full = run.require_full_delegation
    with load(run.path, delegate=run.delegate, signature=run.signature, require_full_delegation=full) as model:
        _write(target, model.run(_feeds(run, model), raw=run.raw))
        others = [key for key in model.signatures if key != model.signature]
        return {"execution": model.execution.to_dict(), "signatures": [model.signature, *others]}


def _feeds(run: Run, model: Model) -> Mapping[str, Array]:
    from edgeferry_runtime.bundle import Bundle
    from edgeferry_runtime.input_files import Target, choose_feeds

    bundle = Bundle.open(run.path) if model.manifest else None
    return choose_feeds(Target(Path(run.path), bundle, run.signature), run.inputs, model.inputs, raw=run.raw)


def _write(target: Path, outputs: Mapping[str, Array]) -> None:
    """Write outputs without pickling: texts, which are Python objects, as arrays of fixed width."""
    from edgeferry_runtime.arrays import save_arrays

    save_arrays(target, {name: _plain(values) for name, values in outputs.items()})


def _plain(values: Array) -> Array:
    if values.dtype.kind != "O":
        return values
    return values.astype("S" if all(isinstance(value, bytes) for value in values.flat) else "U")


def _read(target: Path) -> dict[str, Array]:
    from edgeferry_runtime.arrays import load_arrays

    found = load_arrays(target)
    return {name: values.astype(object) if values.dtype.kind in "SU" else values for name, values in found.items()}
