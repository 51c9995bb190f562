"""What the runtime costs over the parts it stands on. Each pair is measured interleaved, in one run.

    python benchmarks/runtime.py [--quick]

Targets: a call of a model at most 5 us over the engine's own calls; `import edgeferry_runtime` at most 10 ms over
`import numpy`; `ferry --help` at most 150 ms over bare Python. Ends with status 1 where one is missed.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgeferry_runtime import load

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "runtime"))
import tiny_models

QUICK = "--quick" in sys.argv[1:]
CALLS, STARTS = (2_000, 5) if QUICK else (20_000, 25)


def interleave(first: Callable[[], object], second: Callable[[], object], times: int) -> tuple[float, float, float]:
    """Return the median seconds of both, and of the difference of each pair."""
    pairs = []
    for i in range(times):
        taken = []
        for run in (first, second) if i % 2 else (second, first):
            start = time.perf_counter_ns()
            run()
            taken.append(time.perf_counter_ns() - start)
        pairs.append(taken if i % 2 else taken[::-1])
    a, b = (statistics.median(side) for side in zip(*pairs, strict=True))
    return a / 1e9, b / 1e9, statistics.median(y - x for x, y in pairs) / 1e9


def litert_calls(path: Path, x: np.ndarray) -> Callable[[], object]:
    """Return the interpreter's own set, invoke and get."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
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


def onnxruntime_calls(path: Path, x: np.ndarray) -> Callable[[], object]:
    """Return the session's own run."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})


def start(*arguments: str) -> Callable[[], object]:
    """Return a fresh Python process."""
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def report(what: str, against: str, figures: tuple[float, float, float], target: float | None) -> bool:
    """Print one line, in microseconds or milliseconds, and tell whether the target is met."""
    unit, factor = ("us", 1e6) if figures[0] < 1e-3 else ("ms", 1e3)
    base, ours, over = (f * factor for f in figures)
    met = target is None or figures[2] <= target
    aim = "" if target is None else f"target {target * factor:g}: {'met' if met else 'MISSED'}"
    print(f"{what:28} {ours:8.2f} {unit}   {against:28} {base:8.2f} {unit}   over {over:+8.2f} {unit}   {aim}")
    return met


def calls(folder: Path) -> list[bool]:
    """Measure a model's call against the engine's own calls."""
    cases = (
        ("Model, TFLite float", "set, invoke, get", tiny_models.tflite_dense(96, 24), litert_calls, 5e-6),
        ("Model, ONNX float", "session.run", tiny_models.onnx_dense(96, 12), onnxruntime_calls, 5e-6),
        ("Model, TFLite int8 raw", "set, invoke, get", tiny_models.tflite_logistic_int8(), litert_calls, 5e-6),
        (
            "Model, TFLite int8",
            "the same, scaled by hand",
            tiny_models.tflite_logistic_int8(),
            litert_scaled_calls,
            5e-6,
        ),
    )
    met = []
    for what, against, data, baseline, target in cases:
        path = folder / f"model.{'onnx' if 'ONNX' in what else 'tflite'}"
        path.write_bytes(data)
        model = load(path)
        raw = what.endswith("raw")
        x = np.random.default_rng(0).random(model.inputs[0].shape, np.float32)
        x = x.astype(np.int8) if raw else x
        figures = interleave(baseline(path, x), lambda model=model, x=x, raw=raw: model(x, raw=raw), CALLS)
        met.append(report(what, against, figures, target))
    return met


def starts() -> list[bool]:
    """Measure what a fresh process pays."""
    imports = interleave(start("-c", "import numpy"), start("-c", "import edgeferry_runtime, numpy"), STARTS)
    loads = interleave(start("-c", "import numpy"), start("-c", "from edgeferry_runtime import load"), STARTS)
    helps = interleave(start("-c", "pass"), start("-m", "edgeferry_runtime", "--help"), STARTS)
    return [
        report("import edgeferry_runtime", "import numpy", imports, 10e-3),
        report("from ... import load", "import numpy", loads, None),
        report("ferry --help", "python -c pass", helps, 150e-3),
    ]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        results = calls(Path(name)) + starts()
    sys.exit(not all(results))
