"""The command ``ferry compress``."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from edgeferry_converter.commands.compress_progress import bar, progress
from edgeferry_converter.commands.compress_text import plan_dict, plan_text, report
from edgeferry_converter.commands.source_options import read_tables, source_options
from edgeferry_converter.compress import checkpoints, output
from edgeferry_converter.compress.compression import Compressed, CompressPlan, perform, plan
from edgeferry_converter.compress.given import MODEL_OPTIONS, Given
from edgeferry_converter.compress.recipe import CompressRecipe
from edgeferry_converter.quiet import loud
from edgeferry_runtime.commands.output import emit, json_option, say
from edgeferry_runtime.errors import EdgeferryError, OutputExistsError, UsageError


@click.command()
@click.argument("model")
@click.option("--recipe", "recipe_file", metavar="FILE.toml", type=click.Path(path_type=Path), help="The steps.")
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="Folder of what comes out.")
@click.option("--data", metavar="DATA", help="Labelled samples to train on. [default: the recipe's]")
@click.option("--evaluate", metavar="DATA", help="What to judge by. [default: the recipe's, else a tenth of --data]")
@click.option("--teacher", metavar="MODEL", help="Teacher of the steps that have one. [default: the recipe's]")
@click.option("--seed", type=int, help="Of everything that is random. [default: the recipe's, else 0]")
@click.option("--strict", is_flag=True, help="Refuse a layer that a method cannot do, instead of keeping it.")
@click.option("--resume", is_flag=True, help="Go on from what an interrupted run has left.")
@click.option("--plot", metavar="FILE.svg|FILE.png", type=click.Path(path_type=Path), help="Draw what was reached.")
@click.option("--scan", is_flag=True, help="Only find how much each layer can lose; needs no recipe.")
@source_options
@click.option("--dry-run", is_flag=True, help="Print the plan and do nothing.")
@click.option("-v", "--verbose", is_flag=True, help="Show what the frameworks say.")
@json_option
def compress(model: str, recipe_file: Path | None, target: Path | None, as_json: bool, **flags: Any) -> None:
    """Prune, distill and quantize a trained model, training it along.

    MODEL is a .keras file, or FILE.py:FACTORY with --weights. DATA is an .npz with the input names and label, or
    FILE.py:FUNCTION, which is executed and returns (inputs, labels), a dict with label, or batches; one that takes
    predict judges instead. Python that only the recipe names is never executed.

    A step that loses more than its max_drop ends the chain with the best model so far, and exit code 3.
    """
    scan, dry_run, verbose = (flags.pop(key) for key in ("scan", "dry_run", "verbose"))
    recipe, given = _asked(recipe_file, flags)
    if scan:
        _check_scan(target, given)
        with loud() if verbose else contextlib.nullcontext():
            _scan(model, recipe, given, as_json)
        return
    if recipe_file is None or target is None:
        missing = "--recipe FILE.toml" if recipe_file is None else "-o FOLDER"
        raise UsageError("ferry compress", f"{missing} is missing", "add it, or --scan to only look at the model")
    planned = plan(model, target, recipe, given)
    if dry_run:
        emit(plan_dict(planned)) if as_json else click.echo(plan_text(planned))
        return
    with loud() if verbose else contextlib.nullcontext():
        compressed = _perform(planned)
    emit(_told(compressed)) if as_json else click.echo(report(compressed))
    compressed.check()


def _asked(recipe_file: Path | None, flags: dict[str, Any]) -> tuple[CompressRecipe, Given]:
    """Read the recipe's file, and take apart what the flags say."""
    recipe = CompressRecipe.from_toml(recipe_file) if recipe_file else CompressRecipe()
    seed = flags.pop("seed")
    flags |= read_tables(flags)
    model = {key: value for key in MODEL_OPTIONS if (value := flags.pop(key)) not in (None, {})}
    return recipe if seed is None else replace(recipe, seed=seed), Given(model=model, **flags)


def _perform(planned: CompressPlan) -> Compressed:
    """Carry out a plan; where it ends early, say how to go on."""
    try:
        with progress() as show:
            return perform(planned, show)
    except (EdgeferryError, OSError, KeyboardInterrupt) as error:
        told = isinstance(error, OutputExistsError) or getattr(error, "subject", "") == "--resume"
        if not told and checkpoints.folder_of(planned.output).is_dir():
            say(f"ferry: what was done lies in {checkpoints.folder_of(planned.output)}; go on with --resume")
        raise


def _check_scan(target: Path | None, given: Given) -> None:
    """Refuse flags that a scan has no use for."""
    flags: dict[str, object] = {"-o": target, "--plot": given.plot, "--teacher": given.teacher}
    flags |= {"--resume": given.resume, "--strict": given.strict}
    if useless := [flag for flag, value in flags.items() if value]:
        reason = f"only looks at the model, and has no use for {', '.join(useless)}"
        raise UsageError("--scan", reason, "leave one of them out")


def _scan(model: str, recipe: CompressRecipe, given: Given, as_json: bool) -> None:
    from edgeferry_converter.compress.scanning import scan_source

    with bar("scan") as show:
        found = scan_source(model, recipe, given, show)
    emit(output.plain(found.to_dict())) if as_json else click.echo(found.table())


def _told(compressed: Compressed) -> dict[str, Any]:
    bundle = None if compressed.bundle is None else str(compressed.bundle.path)
    head = {"output": str(compressed.path), "model": str(compressed.model), "bundle": bundle}
    told: dict[str, Any] = output.plain({**head, **compressed.history.to_dict()})
    return told
