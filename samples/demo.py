"""The whole way: train twice, convert to eight bundles, verify, push, profile, one table.

python demo.py [--device local] [--out build/demo]
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import digits
import numpy as np

from edgeferry_converter import convert
from edgeferry_devices import open_device, profile
from edgeferry_runtime import Bundle, EdgeferryError
from edgeferry_runtime.commands.output import table

HERE = Path(__file__).parent
HEADING = ("source", "artifact", "bytes", "accuracy %", "drop", "worst output error", "p50 ms")


def say(message: str) -> None:
    """Show progress on stderr."""
    print(message, file=sys.stderr, flush=True)


def train(out: Path) -> dict[str, tuple[str, dict[str, object], float]]:
    """Train both networks; return for each framework its source, its recipe fields and its test accuracy."""
    import digits_keras
    import digits_torch

    nhwc, nchw = digits.save_calibration(out)
    say("training with Keras ...")
    keras_accuracy = digits_keras.train(str(out / "digits.keras"))
    say("training with PyTorch ...")
    torch_accuracy = digits_torch.train(str(out / "digits.pt"))
    factory = f"{HERE / 'digits_torch.py'}:DigitNet"
    return {
        "keras": (str(out / "digits.keras"), {"calibrate": nhwc}, keras_accuracy),
        "torch": (factory, {"calibrate": nchw, "weights": out / "digits.pt"}, torch_accuracy),
    }


def accuracy(bundle: Bundle) -> float:
    """Return the share of the 450 test digits that the artifact names right (0 to 1)."""
    data = digits.load()
    with bundle.load() as model:
        pictures = data.test_x if model.inputs[0].shape[-1] == 1 else data.test_x.transpose(0, 3, 1, 2)
        right = [np.argmax(model(pictures[i : i + 1])) == data.test_y[i] for i in range(len(pictures))]
    return float(np.mean(right))


def demo(options: argparse.Namespace) -> None:
    """Do it all, and print the table."""
    with open_device(options.device) as there:
        there.exec(["true"])  # a device that cannot be reached is better known before the work
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [HEADING]
    sources = train(options.out)
    for framework, to, quantize in itertools.product(sources, ("tflite", "onnx"), ("none", "int8")):
        source, fields, source_accuracy = sources[framework]
        name = f"digits-{framework}-{to}-{'float' if quantize == 'none' else quantize}"
        say(f"{name}: convert, verify, push to {options.device}, profile ...")
        bundle = convert(source, options.out / name, to=to, quantize=quantize, **fields)
        measured = profile([bundle], [options.device]).check().profiles[0]
        score = accuracy(bundle)
        worst = max(o["max_abs"] for o in bundle.manifest.verification["outputs"])
        figures = (
            f"{score:.2%}"[:-1],
            f"{round((source_accuracy - score) * 100, 2) + 0.0:.2f}",
            f"{worst:.2g}",
            f"{measured.median_ms:.4f}",
        )
        rows.append((framework, f"{to} {quantize}", str(bundle.artifact.stat().st_size), *figures))
    print(table(rows))
    print(f"\nThe bundles lie in {options.out}. Try: ferry run {options.out}/digits-keras-tflite-int8")


def main() -> int:
    """Run the demo and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="local", help="local, or user@host[:port]")
    parser.add_argument("--out", type=Path, default=Path("build/demo"))
    try:
        demo(parser.parse_args())
    except EdgeferryError as error:
        say(f"demo: error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
