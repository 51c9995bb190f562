"""What a network weighs and how fast it is: as an artifact, through the same conversion and benchmark as any other."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeferry_converter.compress.grid import Ranges
from edgeferry_converter.compress.history import Standing
from edgeferry_converter.compress.network import Network
from edgeferry_converter.compress.ranges_file import save
from edgeferry_converter.conversion import convert as make_bundle
from edgeferry_converter.exhibits import needs_ranges
from edgeferry_converter.inspection import inspect
from edgeferry_converter.recipe import Recipe
from edgeferry_runtime.artifact_files import artifact_size, companions
from edgeferry_runtime.benchmark import BenchOptions, bench_fresh
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import DataError
from edgeferry_runtime.scratch import scratch

ONE_CORE = BenchOptions(num_runs=50, warmup_runs=10, min_secs=0.5, max_secs=20.0, delegate="cpu:1", max_warmup_secs=3.0)
"""How a step is timed: at least 50 runs and half a second, one thread, in a fresh process. To tell which of two
artifacts is faster, give it to `edgeferry_runtime.benchmark.compare`, which measures both in turn."""

BUNDLE, RANGES = "bundle", "ranges.npz"
"""What `stand` leaves in its folder."""

OF_THE_SOURCE = ("weights", "weights_key", "signature", "submodule", "constant")
"""What a recipe says of the file that a network was opened from, and its own file does not need."""

OF_INTEGERS = (
    *("quantize", "block_size", "override", "aeq_recipe", "calibration", "ranges", "rounding", "io_dtype"),
    *("activations", "tolerance", "evaluate", "metric", "metric_output", "max_drop"),
)
"""What a float artifact has not: limits and accuracy among them, which are those of the quantized one."""


def stand(
    network: Network, score: float, convert: Recipe | None, ranges: Ranges | None, folder: Path
) -> tuple[Standing, Path | None]:
    """Make a network an artifact and measure that.

    Args:
        network: Any plain one; it is not changed.
        score: Its metric, which is passed on.
        convert: How it becomes an artifact; None makes none, and leaves the figures of one out.
        ranges: What a step that trains for integers has settled, perhaps nothing (``Ranges()``): the artifact has the
            recipe's precision, and trained ranges where that has any. None makes a float32 artifact, whatever
            precision the recipe has.
        folder: An existing folder. ``bundle`` in it is replaced; ``ranges.npz`` is written beside it where the
            artifact took trained ranges.

    Returns:
        The figures, and the bundle. `Standing.compressed_bytes` is `deflated` of the artifact's files; multiply-
        accumulates are those of the artifact, else of the model's file; `Standing.median_ms` is measured with
        `ONE_CORE` on this machine.

    Raises:
        VerificationError: If the artifact computes something else than the network.
        UsageError: If the recipe does not fit.
        DataError: If a static precision has neither trained ranges nor calibration data.
        ConversionError: If a framework's converter refuses the network.
        EngineError: If the engine refuses the artifact.
    """
    plain = Standing(score, network.parameters(), sparsity(network))
    with scratch() as place:
        file = network.save(place)
        if convert is None:
            return replace(plain, macs=inspect(file).macs), None
        bundle = make_bundle(file, folder / BUNDLE, _recipe(network, convert, ranges, folder))
    return _measured(plain, bundle), bundle.path


def _measured(standing: Standing, bundle: Bundle) -> Standing:
    return replace(
        standing,
        macs=inspect(bundle.artifact).macs,
        artifact_bytes=artifact_size(bundle.artifact),
        compressed_bytes=deflated((bundle.artifact, *companions(bundle.artifact))),
        median_ms=bench_fresh(bundle.path, ONE_CORE).median_ms,
        precision=bundle.manifest.precision,
    )


def _recipe(network: Network, convert: Recipe, ranges: Ranges | None, folder: Path) -> Recipe:
    """Return the recipe for a network's own file."""
    default = Recipe()
    dropped = (*OF_THE_SOURCE, *(() if network.framework == "keras" else ("custom_objects",)))
    recipe = replace(convert, **{key: getattr(default, key) for key in dropped})
    if ranges is None:
        return replace(recipe, **{key: getattr(default, key) for key in OF_INTEGERS})
    if not needs_ranges(recipe) or not ranges.ranges:
        return recipe
    if not ranges.samples:
        raise DataError("trained ranges", "hold no samples to know tensors by", "let the step keep some of its data")
    save(ranges, folder / RANGES)
    return replace(recipe, ranges=folder / RANGES)


def sparsity(network: Network) -> float:
    """Return the share of zeros among the values of all kernels, 0 to 1; 0 where there is no kernel."""
    kernels = [network.read(weight.name) for weight in network.weights()]
    total = sum(kernel.size for kernel in kernels)
    return sum(kernel.size - int(np.count_nonzero(kernel)) for kernel in kernels) / total if total else 0.0


def deflated(files: Iterable[Path]) -> int:
    """Return the bytes that files take when each is compressed by itself with zlib's DEFLATE at level 9."""
    return sum(map(_deflated, files))


def deflated_bundle(bundle: Path, *, probe: bool = False) -> int:
    """Return `deflated` of the files of a bundle: what a zip of it takes, without the zip's own headers.

    Args:
        bundle: Its folder.
        probe: Whether the golden inputs and outputs count, which are samples and no part of the model.
    """
    files = (file for file in sorted(bundle.rglob("*")) if file.is_file())
    return deflated(file for file in files if probe or not file.name.startswith("probe"))


def _deflated(file: Path) -> int:
    packer, size = zlib.compressobj(9), 0
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            size += len(packer.compress(chunk))
    return size + len(packer.flush())
