"""What the runtime costs over the parts it stands on. Each pair is measured interleaved, in one run.

    python benchmarks/runtime.py [--quick] [calls] [bench] [pool] [memory] [starts]

Targets: a call of a model at most 5 us and 1 % over the engine's own calls; the median of `ferry bench` within 3 % of a
bare loop's; two threads through a pool of two at least 1.8 times one, where two cores are idle; from nothing to the
first result at most 30 ms over the bare engine, `import edgeferry_runtime` at most 10 ms over `import numpy`, and
`ferry --help` at most 150 ms over bare Python. Ends with status 1 where one is missed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from edgeferry_runtime import ModelPool, load

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "runtime"))
import tiny_models

QUICK = "--quick" in sys.argv[1:]
CALLS, STARTS, ROUNDS = (2_000, 5, 3) if QUICK else (20_000, 25, 9)
LARGE = 12_500_000
"""Floats of an input of 50 MB."""


def interleave(
    first: Callable[[], object], second: Callable[[], object], times: int, block: int = 1
) -> tuple[float, float, float]:
    """Return the median seconds of both, and of the difference of each pair.

    Calls of microseconds come in blocks, of which the medians are paired: called in turn, each would find its weights
    pushed out of the cache by the other.
    """
    pairs = []
    for i in range(times // block):
        taken = [median_seconds(run, block) for run in ((first, second) if i % 2 else (second, first))]
        pairs.append(taken if i % 2 else taken[::-1])
    a, b = (statistics.median(side) for side in zip(*pairs, strict=True))
    return a, b, statistics.median(y - x for x, y in pairs)


def median_seconds(run: Callable[[], object], times: int) -> float:
    """Return the median of so many calls."""
    taken = []
    for _ in range(times):
        start = time.perf_counter_ns()
        run()
        taken.append(time.perf_counter_ns() - start)
    return statistics.median(taken) / 1e9


def litert_calls(path: Path, x: np.ndarray, threads: int | None = None) -> Callable[[], object]:
    """Return the interpreter's own set, invoke and get."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def calls() -> object:
        interpreter.set_tensor(source, x)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return calls


def litert_scaled_calls(path: Path, x: np.ndarray) -> Callable[[], object]:
    """Return the same with the scaling of int8 written out, as a caller would."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    (scale_in, zero_in), (scale_out, zero_out) = source["quantization"], target["quantization"]

    def calls() -> object:
        stored = np.clip(np.round(x / scale_in) + zero_in, -128, 127).astype(np.int8)
        interpreter.set_tensor(source["index"], stored)
        interpreter.invoke()
        return (interpreter.get_tensor(target["index"]).astype(np.float32) - zero_out) * scale_out

    return calls


def onnxruntime_calls(path: Path, x: np.ndarray, threads: int | None = None) -> Callable[[], object]:
    """Return the session's own run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})


def start(*arguments: str) -> Callable[[], object]:
    """Return a fresh Python process."""
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def report(what: str, against: str, figures: tuple[float, float, float], target: float | None) -> bool:
    """Print one line, in microseconds or milliseconds, and tell whether the target is met."""
    unit, factor = ("us", 1e6) if figures[0] < 1e-3 else ("ms", 1e3)
    base, ours, over = (f * factor for f in figures)
    met = target is None or figures[2] <= target
    aim = "" if target is None else f"target {target * factor:.3g}: {'met' if met else 'MISSED'}"
    print(
        f"{what:28} {ours:8.2f} {unit}   {against:28} {base:8.2f} {unit}   over {over:+8.2f} {unit}   {aim}", flush=True
    )
    return met


def write(folder: Path, name: str, data: bytes) -> Path:
    """Write a model's file."""
    path = folder / name
    path.write_bytes(data)
    return path


def calls(folder: Path) -> list[bool]:
    """Measure a model's call against the engine's own calls."""
    tiny = tiny_models
    cases = (
        ("TFLite float", "set, invoke, get", tiny.tflite_dense(96, 24), litert_calls, CALLS),
        ("ONNX float", "session.run", tiny.onnx_dense(96, 12), onnxruntime_calls, CALLS),
        ("TFLite int8 raw", "set, invoke, get", tiny.tflite_logistic_int8(), litert_calls, CALLS),
        ("TFLite int8", "the same, scaled by hand", tiny.tflite_logistic_int8(), litert_scaled_calls, CALLS),
        ("TFLite float, 5 ms", "set, invoke, get", tiny.tflite_dense(256, 24, 256), litert_calls, CALLS // 20),
        ("ONNX float, 5 ms", "session.run", tiny.onnx_dense(256, 24, 256), onnxruntime_calls, CALLS // 20),
        ("TFLite, input of 50 MB", "set, invoke, get", tiny.tflite_double(width=LARGE), litert_calls, 15),
        ("ONNX, input of 50 MB", "session.run", tiny.onnx_double(width=LARGE), onnxruntime_calls, 15),
    )
    met = []
    for what, against, data, baseline, times in cases:
        path = write(folder, f"model.{'onnx' if 'ONNX' in what else 'tflite'}", data)
        with load(path) as model:
            raw = what.endswith("raw")
            x = np.random.default_rng(0).random(model.inputs[0].shape, np.float32)
            x = x.astype(np.int8) if raw else x
            block = 200 if times == CALLS else 1
            figures = interleave(baseline(path, x), lambda model=model, x=x, raw=raw: model(x, raw=raw), times, block)
        met.append(report(f"Model, {what}", against, figures, 5e-6 + 0.01 * figures[0]))
    return met


BARE_LOOP = """
import sys, time, pathlib, numpy as np
sys.path.insert(0, sys.argv[1])
import runtime
path = pathlib.Path(sys.argv[2])
side = runtime.onnxruntime_calls if path.suffix == ".onnx" else runtime.litert_calls
call, taken = side(path, np.random.default_rng(0).random((256, 256), np.float32)), []
for _ in range(100): call()
begin = time.perf_counter()
while time.perf_counter() - begin < 1:
    start = time.perf_counter_ns()
    call()
    taken.append(time.perf_counter_ns() - start)
print(np.median(taken) / 1e9)
"""


def bench(folder: Path) -> list[bool]:
    """Compare the median of `ferry bench` with that of a bare loop, each in a process of its own, in turn."""
    met = []
    for suffix, make in (("tflite", tiny_models.tflite_dense), ("onnx", tiny_models.onnx_dense)):
        path = write(folder, f"bench.{suffix}", make(256, 24, 256))
        bare = [sys.executable, "-c", BARE_LOOP, str(Path(__file__).parent), str(path)]
        ferry = [sys.executable, "-m", "edgeferry_runtime", "bench", str(path), "--json"]
        pairs = []
        for _ in range(ROUNDS):
            told = json.loads(subprocess.run(ferry, check=True, capture_output=True).stdout)["median_ms"] / 1e3
            pairs.append((float(subprocess.run(bare, check=True, capture_output=True).stdout), told))
        ratio = statistics.median(told / loop for loop, told in pairs)
        loop, told = (statistics.median(side) * 1e3 for side in zip(*pairs, strict=True))
        met.append(abs(ratio - 1) <= 0.03)
        sides = f"ferry bench, {suffix:6} {told:7.3f} ms   bare loop {loop:7.3f} ms"
        print(f"{sides}   ratio {ratio:.3f}   target 3 %: {'met' if met[-1] else 'MISSED'}", flush=True)
    return met


def processor_seconds() -> tuple[float, float]:
    """Return the seconds that this process and the whole machine have computed."""
    busy = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    ticks = os.sysconf("SC_CLK_TCK")
    return time.process_time(), (sum(busy) - busy[3] - busy[4]) / ticks


def repeat(call: Callable[[], object], times: int) -> None:
    """Call so many times."""
    for _ in range(times):
        call()


def pool(folder: Path) -> list[bool]:
    """Measure two threads against one, through a pool and on bare engines, and what else computed meanwhile."""
    met, times = [], 40
    for suffix, make, bare in (
        ("tflite", tiny_models.tflite_dense, litert_calls),
        ("onnx", tiny_models.onnx_dense, onnxruntime_calls),
    ):
        path = write(folder, f"pool.{suffix}", make(256, 24, 256))
        x = np.random.default_rng(0).random((256, 256), np.float32)
        with ModelPool(path, 2) as models, ThreadPoolExecutor(2) as threads:
            sides = {"pool": [lambda models=models, x=x: models(x)] * 2, "bare": [bare(path, x, 1), bare(path, x, 1)]}
            speeds: dict[str, list[float]] = {name: [] for name in sides}
            own, whole, begin = *processor_seconds(), time.perf_counter()
            for _ in range(3 * ROUNDS):
                for name, (first, second) in sides.items():
                    one = elapsed(lambda first=first: repeat(first, times))
                    two = elapsed(
                        lambda pair=(first, second): list(threads.map(lambda call: repeat(call, times), pair))
                    )
                    speeds[name].append(2 * one / two)
            (own_after, whole_after), seconds = processor_seconds(), time.perf_counter() - begin
        others = max(0.0, (whole_after - whole) - (own_after - own)) / seconds
        through, plain = (statistics.median(speeds[name]) for name in ("pool", "bare"))
        idle = others < 0.1 and (os.cpu_count() or 1) > 1
        met.append(through >= 1.8 or not idle)
        verdict = ("met" if through >= 1.8 else "MISSED") if idle else "cores not idle"
        print(
            f"two threads, {suffix:6}  pool of 2: {through:.2f} times one thread   two bare engines: {plain:.2f}   "
            f"others kept {others:.2f} cores busy, load {os.getloadavg()[0]:.1f}   target 1.8: {verdict}",
            flush=True,
        )
    return met


def elapsed(run: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


POOL = """
import sys, pathlib, numpy as np
from edgeferry_runtime import ModelPool
pool = ModelPool(sys.argv[1], int(sys.argv[2]))
for model in pool._models: model(np.ones((1, 2048), np.float32))
rollup = pathlib.Path("/proc/self/smaps_rollup").read_text()
print(next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")))
"""


def memory(folder: Path) -> list[bool]:
    """Print the memory (proportional set size) of pools of 1, 2 and 4 on weights of 100 MB."""
    for suffix, data in (("tflite", tiny_models.tflite_dense(2048, 6)), ("onnx", onnx_of_weights(2048, 6))):
        path = write(folder, f"large.{suffix}", data)
        sizes = []
        for size in (1, 2, 4):
            command = [sys.executable, "-c", POOL, str(path), str(size)]
            sizes.append(int(subprocess.run(command, check=True, capture_output=True).stdout) / 1024)
        told = ", ".join(f"{size:.0f}" for size in sizes)
        print(f"pool of 1, 2 and 4, {suffix}, {path.stat().st_size / 1e6:.0f} MB of weights: {told} MiB", flush=True)
    return []


def onnx_of_weights(width: int, layers: int) -> bytes:
    """Return dense layers whose weights are each its own."""
    import onnx

    model = onnx.load_from_string(tiny_models.onnx_dense(width, layers))
    for i, node in enumerate(model.graph.node[1:]):
        copy = model.graph.initializer.add()
        copy.CopyFrom(model.graph.initializer[0])
        copy.name = node.input[1] = f"w{i}"
    return model.SerializeToString()


BARE_START = {
    "tflite": """
import sys, numpy as np
from ai_edge_litert.interpreter import Interpreter
i = Interpreter(sys.argv[1])
i.allocate_tensors()
i.set_tensor(i.get_input_details()[0]["index"], np.ones((1, 96), np.float32))
i.invoke()
i.get_tensor(i.get_output_details()[0]["index"])
""",
    "onnx": """
import sys, numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, {"x": np.ones((1, 96), np.float32)})
""",
}
OUR_START = """
import sys, numpy as np
from edgeferry_runtime import load
load(sys.argv[1])(np.ones((1, 96), np.float32))
"""


def starts(folder: Path) -> list[bool]:
    """Measure what a fresh process pays."""
    met = []
    for suffix, make in (("tflite", tiny_models.tflite_dense), ("onnx", tiny_models.onnx_dense)):
        path = str(write(folder, f"start.{suffix}", make(96, 12)))
        figures = interleave(start("-c", BARE_START[suffix], path), start("-c", OUR_START, path), STARTS)
        met.append(report(f"to the first result, {suffix}", "the bare engine", figures, 30e-3))
    imports = interleave(start("-c", "import numpy"), start("-c", "import edgeferry_runtime, numpy"), STARTS)
    loads = interleave(start("-c", "import numpy"), start("-c", "from edgeferry_runtime import load"), STARTS)
    helps = interleave(start("-c", "pass"), start("-m", "edgeferry_runtime", "--help"), STARTS)
    return [
        *met,
        report("import edgeferry_runtime", "import numpy", imports, 10e-3),
        report("from ... import load", "import numpy", loads, None),
        report("ferry --help", "python -c pass", helps, 150e-3),
    ]


PARTS = {"calls": calls, "bench": bench, "pool": pool, "memory": memory, "starts": starts}

if __name__ == "__main__":
    wanted = [PARTS[name] for name in sys.argv[1:] if name in PARTS] or list(PARTS.values())
    with tempfile.TemporaryDirectory() as name:
        results = [met for part in wanted for met in part(Path(name))]
    sys.exit(not all(results))
