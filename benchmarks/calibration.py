"""Peak memory of a conversion with calibration on 100 and on 10,000 samples, for both formats.

    python benchmarks/calibration.py [--quick]

Each conversion runs in a process of its own. 10,000 samples of 4 KiB would take 39 MiB more if they were held. Target:
the peak resident memory grows by at most 5 %. Ends with status 1 where it is missed.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "runtime"))

QUICK = "--quick" in sys.argv[1:]
FEW, MANY = 100, 2_000 if QUICK else 10_000
WIDTH = 1024
METHODS = ("min-max", "entropy") if QUICK else ("min-max", "entropy", "auto")
GPTQ = "gptq"
"""Stands for min-max with rounding by GPTQ, on TFLite."""
LIMIT = 0.05


def convert_once(folder: Path, to: str, method: str, samples: int) -> None:
    """Convert and print the seconds that it took and the peak resident memory of this process, in KiB."""
    from edgeferry_converter import convert

    begin = time.perf_counter()
    convert(
        folder / f"model.{to}",
        folder / "bundle",
        to=to,
        quantize="int8",
        calibrate=folder / f"{samples}.npy",
        calibration="min-max" if method == GPTQ else method,
        rounding=GPTQ if method == GPTQ else "nearest",
    )
    print(time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def measure(folder: Path, to: str, method: str, samples: int) -> tuple[float, int]:
    """Run one conversion in a child process."""
    command = [sys.executable, __file__, "--child", str(folder), to, method, str(samples)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(said[0]), int(said[1])


def write_inputs(folder: Path) -> None:
    """Write two dense layers in each format, and the calibration sets."""
    import tiny_models

    (folder / "model.tflite").write_bytes(tiny_models.tflite_dense(WIDTH, 2))
    (folder / "model.onnx").write_bytes(tiny_models.onnx_dense(WIDTH, 2))
    random = np.random.default_rng(0)
    for samples in (FEW, MANY):
        np.save(folder / f"{samples}.npy", random.standard_normal((samples, WIDTH), np.float32))


def main() -> int:
    """Print a table of both sizes for each format and method."""
    missed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)
        print(f"{'format':8}{'method':10}{'samples':>8}{'peak MiB':>10}{'seconds':>9}{'growth':>9}")
        for to in ("tflite", "onnx"):
            for method in (*METHODS, *((GPTQ,) if to == "tflite" else ())):
                few, many = (measure(folder, to, method, samples) for samples in (FEW, MANY))
                growth = many[1] / few[1] - 1
                missed |= growth > LIMIT
                print(f"{to:8}{method:10}{FEW:8}{few[1] / 1024:10.1f}{few[0]:9.1f}")
                print(f"{to:8}{method:10}{MANY:8}{many[1] / 1024:10.1f}{many[0]:9.1f}{growth:9.1%}", flush=True)
    print(f"target: at most {LIMIT:.0%}: {'MISSED' if missed else 'met'}")
    return int(missed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        convert_once(Path(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
    else:
        sys.exit(main())
