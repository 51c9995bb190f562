"""The command ``ferry convert``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from edgeferry_converter.commands.accuracy_text import accuracy_line
from edgeferry_converter.commands.plan_text import plan_dict, plan_text
from edgeferry_converter.commands.source_options import read_tables, source_options
from edgeferry_converter.conversion import Step, perform, plan
from edgeferry_converter.metrics import METRICS
from edgeferry_converter.overrides import Override
from edgeferry_converter.quantize.calibration.methods import AUTO, METHODS
from edgeferry_converter.quantize.rounding import ROUNDINGS
from edgeferry_converter.quantize.support import ACTIVATIONS, IO_DTYPES
from edgeferry_converter.quiet import loud
from edgeferry_converter.recipe import FORMATS, PRECISIONS, Recipe
from edgeferry_converter.repro import reporting
from edgeferry_runtime.artifact_files import artifact_size
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.commands.figures_text import decibels, figures_table
from edgeferry_runtime.commands.output import emit, json_option, say
from edgeferry_runtime.numerics import Tolerance

TOLERANCE = tuple(f.name for f in fields(Tolerance))


@click.command()
@click.argument("source")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder of the bundle.")
@click.option(
    "--recipe", "recipe_file", type=click.Path(path_type=Path), help="TOML file, or JSON of ai-edge-quantizer."
)
@click.option("--to", metavar="|".join(FORMATS), help="Format of the artifact. [default: tflite]")
@click.option("--quantize", metavar="|".join(PRECISIONS), help="Precision of the artifact. [default: none]")
@click.option("--block-size", type=int, metavar="0|32|64", help="Of int4 matrices. [default: 0, per channel]")
@click.option("--override", multiple=True, metavar="LAYER=PRECISION", help="Other precision of layers; * is any text.")
@click.option("--calibrate", metavar="DATA", type=click.Path(path_type=Path), help="Typical samples, for int8.")
@click.option("--calibration", metavar="|".join((*METHODS, AUTO)), help="How ranges are found. [default: min-max]")
@click.option("--ranges", metavar="ranges.npz", type=click.Path(path_type=Path), help="Trained, of ferry compress.")
@click.option("--rounding", metavar="|".join(ROUNDINGS), help="Of weights, for TFLite. [default: nearest]")
@click.option("--io-dtype", metavar="|".join(IO_DTYPES), help="Inputs and outputs of int8. [default: float32]")
@click.option("--activations", metavar="|".join(ACTIVATIONS), help="Of int8 on ONNX. [default: int8]")
@click.option("--signature", multiple=True, metavar="NAME", help="Of a SavedModel or .tflite. [default: all]")
@source_options
@click.option("--probe", metavar="DATA", type=click.Path(path_type=Path), help="Samples to verify with.")
@click.option("--samples", type=int, help="Most samples to verify with. [default: 32]")
@click.option("--seed", type=int, help="Seed of random samples. [default: 0]")
@click.option("--labels", metavar="FILE", type=click.Path(path_type=Path), help="Text file, one class name a line.")
@click.option("--evaluate", metavar="LABELLED.npz", type=click.Path(path_type=Path), help="Measure accuracy on these.")
@click.option("--metric", metavar="|".join(METRICS), help="Of accuracy. [default: top1]")
@click.option("--metric-output", metavar="NAME", help="The output that --metric is taken of.")
@click.option("--max-drop", type=float, help="Most accuracy that may be lost, in points (of mse: in percent).")
@click.option("--name", help="Name of the bundle. [default: the folder's]")
@click.option("--max-abs", type=float, help="Largest absolute error that passes.")
@click.option("--min-cosine", type=float, help="Lowest cosine similarity that passes.")
@click.option("--min-snr-db", type=float, help="Lowest signal-to-noise ratio that passes, in dB.")
@click.option("--min-top1", type=float, help="Lowest top-1 agreement that passes, 0 to 1.")
@click.option("--repro", metavar="FILE.zip", type=click.Path(path_type=Path), help="Bug report, weights as noise.")
@click.option("--dry-run", is_flag=True, help="Print the plan and do nothing.")
@click.option("-v", "--verbose", is_flag=True, help="Show what the frameworks say.")
@json_option
def convert(source: str, output: Path, recipe_file: Path | None, verbose: bool, as_json: bool, **flags: Any) -> None:
    """Make a verified bundle from a trained model.

    SOURCE is a .keras, .h5 or .hdf5 file, a SavedModel folder, a .pt2 or TorchScript file, FILE.py:FACTORY with
    --weights, or an .onnx or .tflite file. DATA is an .npz with the input names, an .npy for the only input, a folder
    of .npy files, or a folder of images, which the recipe's [preprocess] turns into inputs.
    """
    repro, dry_run = flags.pop("repro"), flags.pop("dry_run")
    recipe = _recipe(recipe_file, flags)
    if dry_run:
        planned = plan(source, output, recipe)
        emit(plan_dict(planned)) if as_json else click.echo(plan_text(planned))
        return
    begin = time.perf_counter()
    said = loud() if verbose else contextlib.nullcontext()
    with reporting(repro, source, recipe), said, _progress(verbose) as show:
        bundle = perform(plan(source, output, recipe), show)
    if as_json:
        emit({"bundle": str(bundle.path), **bundle.manifest.to_dict(), "seconds": time.perf_counter() - begin})
    else:
        _report(bundle)


def _recipe(file: Path | None, flags: dict[str, Any]) -> Recipe:
    """Read the recipe's file, and let flags replace what it says."""
    recipe = Recipe.from_file(file) if file else Recipe()
    tables = read_tables(flags)
    given = {key: value for key, value in flags.items() if value not in (None, ())}
    given |= {key: {**getattr(recipe, key), **table} for key, table in tables.items() if table}
    limits = {key: given.pop(key) for key in TOLERANCE if key in given}
    if "override" in given:
        given["override"] = (*recipe.override, *map(Override.parse, given["override"]))
    return replace(recipe, tolerance=replace(recipe.tolerance, **limits), **given)


@contextlib.contextmanager
def _progress(verbose: bool) -> Iterator[Any]:
    """Show each step on stderr, with the time that it took; a step that fails ends its line."""
    running: list[str] = []

    def show(step: Step) -> None:
        if step.seconds is None:
            running.append(step.name)
            click.echo(f"{step.name} ... ", err=True, nl=verbose)
        else:
            running.clear()
            say(f"{step.seconds:.1f} s")
            for warning in step.warnings:
                say(f"ferry: warning: {warning}")

    try:
        yield show
    finally:
        if running:
            say("stopped")


def _report(bundle: Bundle) -> None:
    manifest = bundle.manifest
    click.echo(figures_table(_figures(manifest.verification)))
    size, whole = artifact_size(bundle.artifact), manifest.verification["float_bytes"]
    click.echo(f"\n{manifest.artifact}: {size:,} B, {size / whole:.0%} of the float artifact's {whole:,} B")
    for note in manifest.source.get("notes", ()):
        click.echo(f"note: {note}")
    if "layers" in manifest.verification:
        stored = ", ".join(f"{count} {kind}" for kind, count in manifest.verification["layers"].items())
        click.echo(f"layers with weights: {stored}")
    if "trained" in manifest.verification:
        trained = manifest.verification["trained"]
        found = f"{trained['found']} of {trained['layers']} layers found"
        click.echo(f"trained ranges: {found}, taken by {trained['activations']} activations")
    if "rounding" in manifest.verification:
        counts = ", ".join(f"{count} by {way}" for way, count in manifest.verification["rounding"].items())
        click.echo(f"layers with integer weights, rounded: {counts}")
    if "tried" in manifest.verification.get("calibration", {}):
        click.echo(f"calibrated by {_tried(manifest.verification['calibration'])}")
    if "accuracy" in manifest.verification:
        sides = {"source": "source", "artifact": "artifact"}
        click.echo(accuracy_line(manifest.verification["accuracy"], sides))
    for note in _notes(manifest.verification):
        click.echo(f"verified with {note}")
    click.echo(f"bundle {bundle.id[:12]} lies in {bundle.path}")
    click.echo(f"next: ferry bench {bundle.path}, or ferry push {bundle.path} DEVICE")


def _figures(verification: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Return the figures of every output, each named with its signature where there are several."""
    if "signatures" not in verification:
        yield from verification["outputs"]
    for key, found in verification.get("signatures", {}).items():
        yield from ({**figures, "name": f"{key}: {figures['name']}"} for figures in found["outputs"])


def _notes(verification: Mapping[str, Any]) -> Iterator[str]:
    signatures = {key: found for key, found in verification.get("signatures", {}).items() if "note" in found}
    yield from (f"{found['note']} (signature {key})" for key, found in signatures.items())
    if "note" in verification and not signatures:
        yield verification["note"]


def _tried(calibration: Mapping[str, Any]) -> str:
    figures = ", ".join(f"{name} {decibels(f['snr_db'])}" for name, f in calibration["tried"].items())
    return f"{calibration['method']} (SNR in dB: {figures})"
