"""What a conversion costs over a bare script that makes the same library calls: whole processes, interleaved.

    python benchmarks/convert.py [--runs 5]

Each line: the median seconds of `ferry convert` and of the bare script, and the median ratio of the pairs.
Aims: at most 1.15 for Keras and PyTorch to int8 TFLite; 1.5 s for a 4 MB `.tflite` to dynamic int8.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

SAMPLES = Path(__file__).parents[1] / "samples"

QUANTIZE = """
import numpy as np
from ai_edge_quantizer import quantizer, recipe
tool = quantizer.Quantizer("float.tflite", recipe.static_wi8_ai8())
ranges = tool.calibrate({"serving_default": [{NAME: x[None]} for x in np.load(DATA)]})
open("int8.tflite", "wb").write(tool.quantize(ranges).quantized_model)
"""

BARE_KERAS = """
import keras, tensorflow as tf
model = keras.saving.load_model("digits.keras", compile=False)
model.export("saved", verbose=False)
open("float.tflite", "wb").write(tf.lite.TFLiteConverter.from_saved_model("saved").convert())
NAME, DATA = "image", "calibration_nhwc.npy"
"""

BARE_TORCH = """
import torch, litert_torch
from digits_torch import DigitNet
model = DigitNet()
model.load_state_dict(torch.load("digits.pt", weights_only=True))
litert_torch.convert(model.eval(), sample_kwargs={"image": torch.rand(1, 1, 8, 8)}).export("float.tflite")
NAME, DATA = "image", "calibration_nchw.npy"
"""

BARE_DYNAMIC = """
from ai_edge_quantizer import quantizer, recipe
tool = quantizer.Quantizer("large.tflite", recipe.dynamic_wi8_afp32())
open("dynamic.tflite", "wb").write(tool.quantize().quantized_model)
"""

MAKE_LARGE = """
import keras, tensorflow as tf
keras.utils.set_random_seed(0)
wide = [keras.layers.Dense(700, "relu") for _ in range(2)]
model = keras.Sequential([keras.Input((512,)), *wide, keras.layers.Dense(10)])
model.export("large", verbose=False)
open("large.tflite", "wb").write(tf.lite.TFLiteConverter.from_saved_model("large").convert())
"""


def run(folder: Path, argv: Sequence[str]) -> float:
    """Run a process in `folder` and return its seconds."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *argv], cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - begin


def prepare(folder: Path) -> None:
    """Train the digit networks and make a `.tflite` of about 4 MB."""
    save = "import digits, pathlib; digits.save_calibration(pathlib.Path('.'))"
    train = ["import digits_keras as d; d.train('digits.keras')", "import digits_torch as d; d.train('digits.pt')"]
    for script in (save, *train):
        run(folder, ["-c", f"import sys; sys.path.insert(0, {str(SAMPLES)!r}); {script}"])
    run(folder, ["-c", MAKE_LARGE])


def compare(folder: Path, title: str, ferry: Sequence[str], bare: str, runs: int) -> None:
    """Run both in turn and print one line."""
    script = f"import sys; sys.path.insert(0, {str(SAMPLES)!r})\n{bare}"
    ours, theirs = ["-m", "edgeferry_runtime", "convert", *ferry, "-o", "bundle"], ["-c", script]
    run(folder, ours), run(folder, theirs)
    pairs = [(run(folder, ours), run(folder, theirs)) for _ in range(runs)]
    a, b = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(x / y for x, y in pairs)
    print(f"{title:32} ferry {a:6.2f} s   bare {b:6.2f} s   ratio {ratio:.2f}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        int8 = ["--quantize", "int8", "--calibrate"]
        keras = ["digits.keras", *int8, "calibration_nhwc.npy"]
        torch = [f"{SAMPLES / 'digits_torch.py'}:DigitNet", "--weights", "digits.pt", *int8, "calibration_nchw.npy"]
        compare(folder, "Keras to int8 TFLite", keras, BARE_KERAS + QUANTIZE, runs)
        compare(folder, "PyTorch to int8 TFLite", torch, BARE_TORCH + QUANTIZE, runs)
        large = (folder / "large.tflite").stat().st_size / 1e6
        dynamic = ["large.tflite", "--quantize", "dynamic"]
        compare(folder, f"{large:.1f} MB .tflite to dynamic int8", dynamic, BARE_DYNAMIC, runs)


if __name__ == "__main__":
    main()
