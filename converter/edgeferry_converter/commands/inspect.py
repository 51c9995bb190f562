"""The command ``ferry inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from edgeferry_runtime.commands.output import emit, json_option


@click.command("inspect")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--all", "every", is_flag=True, help="Show every layer instead of the largest.")
@json_option
def inspect(target: Path, every: bool, as_json: bool) -> None:
    """Show what a model file tells about itself.

    TARGET is a bundle's folder, a .tflite, .onnx, .keras, .h5 or .pt2 file, a SavedModel folder, or TorchScript. Shows
    inputs and outputs, operators with parameters, multiply-accumulates (MACs) and bytes, the precision of each layer,
    stray transposes, custom and Flex operators, metadata, and an estimate of the tensor arena. No engine and no
    training framework is loaded; only TorchScript needs PyTorch.
    """
    from edgeferry_converter.inspection import inspect as look
    from edgeferry_converter.inspection.text import render

    found = look(target)
    if as_json:
        emit(found.to_dict())
    else:
        click.echo(render(found, every=every))
