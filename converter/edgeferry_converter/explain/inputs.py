"""What an explanation needs beside the artifact: the float artifact, and samples to run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeferry_converter.data import Samples, open_data, random_samples
from edgeferry_converter.explain import floats
from edgeferry_converter.recipe import Recipe
from edgeferry_converter.sources import SourceSpec, detect, open_source
from edgeferry_converter.sources.artifact import load_doubtful
from edgeferry_converter.sources.options import with_options
from edgeferry_runtime.bundle import RECIPE, Bundle, Probe
from edgeferry_runtime.errors import DataError, MissingFileError
from edgeferry_runtime.guard import check_artifact
from edgeferry_runtime.scratch import scratch

SAMPLES = 32
"""How many samples are run where a bundle does not bring its own."""


@dataclass(frozen=True)
class Wanted:
    """What the user gave.

    Attributes:
        target: A bundle or an artifact.
        float_file: The float artifact, where it was given.
        source: The model that the target was made of, where it was given.
        probe: Samples to run, where they were given.
    """

    target: Path
    float_file: Path | None = None
    source: str | None = None
    probe: Path | None = None


@dataclass(frozen=True)
class Pair:
    """A quantized artifact, the float one, and what both are fed."""

    artifact: Path
    float_artifact: Path
    probe: Probe
    precision: str | None = None


@contextlib.contextmanager
def pair(wanted: Wanted) -> Iterator[Pair]:
    """Find everything; a source is lowered into a temporary folder that is gone afterwards.

    Raises:
        MissingFileError: If there is no float artifact, and none was given.
        DataError: If nothing in the target was quantized.
        EdgeferryError: As opening a bundle, a source or data does.
    """
    bundle = Bundle.open(wanted.target) if wanted.target.is_dir() else None
    if bundle is not None:
        bundle.check()
        if bundle.manifest.precision == "none":
            raise DataError(bundle.path, "is float32: nothing in it was quantized", "give a quantized one")
    artifact = bundle.artifact if bundle else wanted.target
    form = check_artifact(artifact)
    with scratch() as folder:
        found = wanted.float_file or _lower(wanted, bundle, folder / f"float.{form}")
        found = found or (_kept(bundle) if bundle else None)
        if found is None:
            raise MissingFileError(
                wanted.target,
                "the float artifact that it was made of is not at hand",
                "give --float FILE, or --source MODEL to lower it again",
            )
        yield Pair(artifact, found, _probe(wanted, bundle, found), bundle.manifest.precision if bundle else None)


def _kept(bundle: Bundle) -> Path | None:
    sha256 = str(bundle.manifest.verification.get("float_sha256", ""))
    return floats.find(sha256, bundle.manifest.format)


def _lower(wanted: Wanted, bundle: Bundle | None, target: Path) -> Path | None:
    """Lower the source as the bundle's recipe says."""
    if wanted.source is None:
        return None
    known = bundle is not None and (bundle.path / RECIPE).is_file()
    recipe = Recipe.from_toml(bundle.path / RECIPE) if bundle and known else Recipe()
    spec = SourceSpec.parse(wanted.source, recipe.weights, recipe.shape)
    open_source(with_options(spec, detect(spec), recipe)).lower(target.suffix[1:], target)
    return target


def _probe(wanted: Wanted, bundle: Bundle | None, float_artifact: Path) -> Probe:
    if bundle is not None and wanted.probe is None:
        return bundle.probe()
    with load_doubtful(float_artifact) as model:
        specs = model.inputs
    if wanted.probe is None:
        samples: Samples = random_samples(specs, SAMPLES, 0, {})
    else:
        samples = open_data(wanted.probe).bind(specs).take(SAMPLES)
    return stack(samples)


def stack(samples: Samples) -> Probe:
    """Return samples as a probe without answers."""
    import numpy as np

    fed = list(samples)
    return Probe({name: np.stack([sample[name] for sample in fed]) for name in fed[0]}, {})
