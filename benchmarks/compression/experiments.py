"""One experiment for each aim: what it does with one seed, and what it finds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from compression import models
from compression.data import Split, clips, mnist
from compression.training import (
    Trained,
    artifact_score,
    as_table,
    fit,
    keras_network,
    saved,
    score,
    torch_trained,
)
from edgeferry_converter import Override, Recipe, convert
from edgeferry_converter.compress.recipe import Train
from edgeferry_runtime import load

Figures = dict[str, float]
Experiment = Callable[[Path, int, Path], Figures]
"""Takes the zoo, a seed and an empty folder."""

LEARNED = Train(epochs=5, batch_size=64, learning_rate=3e-3)
"""How the networks were trained before they are made smaller."""
LONG = Train(epochs=10, batch_size=64, learning_rate=5e-3)
"""How the network was trained that shall have few bits."""
AGAIN = Train(epochs=5, batch_size=64, learning_rate=1e-3)
"""How a step trains."""
FEW = Train(epochs=20, batch_size=32, learning_rate=3e-3)
"""How students train on few samples."""
WORDS = Train(epochs=10, batch_size=32, learning_rate=3e-4)
"""How the keyword spotter trains on half of its clips."""
ROUNDS, RUNS = 9, 60


def unstructured(zoo: Path, seed: int, folder: Path) -> Figures:
    """Make 80 % of the weights of a Keras CNN zero; both models become bundles, float32 and int8."""
    from edgeferry_converter.compress.measuring import deflated_bundle

    data = mnist(zoo, 7000, seed)
    trained = saved(fit(keras_network(seed, models.keras_cnn, 16), data, LEARNED, seed), data, folder)
    done = trained.compress(
        folder / "out", {"method": "prune-weights", "sparsity": 0.8, "train": as_table(AGAIN)}, seed
    )
    entry, samples = done.history.steps[0], _samples(data, folder)
    found = {"float": done.history.start.score, "pruned": entry.standing.score, "drop": entry.drop}
    found["sparsity"] = 100 * entry.standing.sparsity
    for name, options in {"smaller": {}, "smaller int8": {"quantize": "int8", "calibrate": samples}}.items():
        sizes = [
            deflated_bundle(convert(source, folder / f"bundle{i}", **options).path)
            for i, source in enumerate((trained.source, done.model))
        ]
        found[name] = sizes[0] / sizes[1]
    return found


def structured(zoo: Path, seed: int, folder: Path) -> Figures:
    """Remove channels of a PyTorch CNN until half of its MACs are left; both artifacts are timed in turns."""
    trained = torch_trained(mnist(zoo, 7000, seed).channels_first(), LEARNED, seed, folder)
    done = trained.compress(folder / "out", {"method": "prune-channels", "macs": 0.5, "train": as_table(AGAIN)}, seed)
    entry, start = done.history.steps[0], done.history.start
    before = convert(trained.source, folder / "before", **trained.options)
    after = convert(done.model, folder / "after")
    times = in_turns(before.artifact, after.artifact)
    found = {"float": start.score, "pruned": entry.standing.score, "drop": entry.drop}
    found["macs"] = 100 * (entry.standing.macs or 0) / (start.macs or 1)
    return found | {"ms before": times[0], "ms after": times[1], "faster": times[0] / times[1]}


def distilled(zoo: Path, seed: int, folder: Path) -> Figures:
    """Let a teacher teach a student of a tenth of its parameters with 1,000 labelled pictures, beside one alone."""
    data = mnist(zoo, 7000, seed).first(1000)
    teacher = fit(keras_network(seed, models.teacher), data.shifted(4, seed), Train(epochs=8), seed)
    student = keras_network(seed, models.student)
    alone = score(fit(student.clone(), data, FEW, seed), data)
    teach = {"teacher": saved(teacher, data, folder / "teacher").source, "soft": 0.9, "temperature": 4.0}
    step = {"method": "distill", "train": as_table(FEW), "teach": teach}
    done = saved(student, data, folder / "student").compress(folder / "out", step, seed)
    found = {"teacher": score(teacher, data), "alone": alone, "taught": done.history.steps[0].standing.score}
    found["gained"] = found["taught"] - alone
    found["gap"] = found["teacher"] - alone
    return found | {"parameters": 100 * student.parameters() / teacher.parameters()}


def quantized(zoo: Path, seed: int, folder: Path) -> Figures:
    """Train a Keras CNN for int8, and for int4 weights wherever TFLite has them, beside quantizing it afterwards."""
    data = mnist(zoo, 7000, seed)
    network = fit(keras_network(seed, models.narrow_cnn), data, LONG, seed)
    as_long = score(fit(network.clone(), data, AGAIN, seed), data)
    return _precisions(saved(network, data, folder), data, AGAIN, seed) | {"float, as long": as_long}


def spotted(zoo: Path, seed: int, folder: Path) -> Figures:
    """Do the same with MLPerf Tiny's keyword spotter: half of the clips train, half judge."""
    data = clips(zoo, seed)
    network = keras_network(seed, models.spotter, zoo)
    as_long = score(fit(network.clone(), data, WORDS, seed), data)
    return _precisions(saved(network, data, folder), data, WORDS, seed) | {"float, as long": as_long}


def scanned(zoo: Path, seed: int, folder: Path) -> Figures:
    """Scan a Keras ResNet with 20 layers of kernels by the pictures that judge."""
    from edgeferry_converter.compress import CompressRecipe, Given
    from edgeferry_converter.compress.scanning import scan_source

    data = mnist(zoo, 2000, seed)
    network = fit(keras_network(seed, models.keras_resnet20), data, Train(epochs=1), seed)
    trained = saved(network, data, folder)
    begin = time.perf_counter()
    found = scan_source(trained.source, CompressRecipe(), Given(trained.train, trained.test), lambda *_: None)
    return {"layers": len(found.scores), "samples": found.samples, "seconds": time.perf_counter() - begin}


EXPERIMENTS: Mapping[str, Experiment] = {
    "unstructured": unstructured,
    "structured": structured,
    "distilled": distilled,
    "quantized": quantized,
    "spotted": spotted,
    "scanned": scanned,
}


def _precisions(trained: Trained, data: Split, train: Train, seed: int) -> Figures:
    """Return the accuracy of artifacts: quantized afterwards, and trained for it."""
    folder = Path(trained.train).parent
    found = {"float": artifact_score(convert(trained.source, folder / "float").artifact, data)}
    int8 = {"precision": "int8"}
    int4 = {"precision": "weight-only-int4", "convolutions": "int4"}
    everywhere = {"quantize": "weight-only-int4", "override": (Override("weight-only-int4", operator="CONV_2D"),)}
    afterwards = {"int8": {"quantize": "int8", "calibrate": _samples(data, folder)}, "int4": everywhere}
    for name, step in {"int8": int8, "int4": int4}.items():
        after = convert(trained.source, folder / f"{name} after", **afterwards[name])
        done = trained.compress(folder / name, {"method": "quantize", **step, "train": as_table(train)}, seed)
        bundle = convert(done.model, folder / f"{name} bundle", Recipe.from_toml(done.path / "convert.toml"))
        found[f"{name} after"] = artifact_score(after.artifact, data)
        found[f"{name} trained"] = artifact_score(bundle.artifact, data)
    return found


def _samples(data: Split, folder: Path) -> Path:
    path = folder / "samples.npy"
    np.save(path, data.train_x[:200])
    return path


def in_turns(*artifacts: Path) -> list[float]:
    """Return the median time of a run of each artifact in ms, on one thread, in rounds that take turns."""
    models = [load(artifact, delegate="cpu:1") for artifact in artifacts]
    feeds = [np.zeros(model.inputs[0].shape, np.float32) for model in models]
    samples: list[list[float]] = [[] for _ in models]
    for _ in range(ROUNDS):
        for model, feed, kept in zip(models, feeds, samples, strict=True):
            times = []
            for _ in range(RUNS):
                begin = time.perf_counter()
                model(feed)
                times.append(time.perf_counter() - begin)
            kept.append(1e3 * statistics.median(times))
    return [statistics.median(kept) for kept in samples]
