"""``ferry run``: run a bundle or an artifact once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from edgeferry_runtime.cli import resolve
from edgeferry_runtime.commands.delegate_option import delegate_options, execution_lines
from edgeferry_runtime.commands.output import check_file, emit, json_option, say
from edgeferry_runtime.commands.tensors_text import outputs_json, outputs_text
from edgeferry_runtime.errors import BundleError, UsageError

if TYPE_CHECKING:
    from edgeferry_runtime.bundle import Bundle
    from edgeferry_runtime.engines import Execution
    from edgeferry_runtime.tensors import Array


Answer: TypeAlias = "tuple[tuple[str, ...], dict[str, Array], Execution | None]"
"""Labels, outputs by name, and what executed; None where the device does not tell."""


@dataclass(frozen=True)
class Request:
    """What is to be run; the attributes are the command's options."""

    target: Path
    inputs: tuple[str, ...]
    raw: bool
    device: str | None
    delegate: str | None
    signature: str | None
    require_full_delegation: bool


@click.command("run")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="[NAME=]FILE",
    help="An .npy, an .npz or a picture; once per input. Without it, the probe's first sample.",
)
@click.option("--raw", is_flag=True, help="Feed and print stored integers instead of real values.")
@click.option("--device", metavar="NAME", help="Run on a device instead of here.")
@delegate_options
@click.option("--signature", metavar="NAME", help="Which of several signatures.  [default: the primary one]")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="How many classes to print.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE.npz", help="Write the outputs there as well.")
@json_option
def run(top: int, output: Path | None, as_json: bool, **request: object) -> None:
    """Run a bundle or artifact on an input.

    TARGET is a bundle's folder, or a .tflite or .onnx file. Prints each output: its name, dtype, shape and values,
    or the top classes where it is a distribution.
    """
    if output is not None:
        _check_npz(output)
    asked = Request(**request)  # type: ignore[arg-type]
    labels, outputs, execution = (_run_here if asked.device is None else _run_there)(asked)
    if output is not None:
        from edgeferry_runtime.arrays import save_arrays

        save_arrays(output, outputs)
    if as_json:
        told = {"execution": execution.to_dict()} if execution else {}
        emit({"target": str(asked.target), **told, "outputs": outputs_json(outputs, labels, top)})
    else:
        click.echo(outputs_text(outputs, labels, top))


def _run_here(asked: Request) -> Answer:
    from edgeferry_runtime.bundle import Bundle
    from edgeferry_runtime.confined import Run, run_confined
    from edgeferry_runtime.engines import parse_delegates
    from edgeferry_runtime.guard import check_artifact
    from edgeferry_runtime.labels import artifact_labels

    delegate = asked.delegate or "cpu"
    parse_delegates(delegate)
    bundle = Bundle.open(asked.target) if asked.target.is_dir() else None
    if bundle:
        bundle.check()
    format_name = check_artifact(bundle.artifact if bundle else asked.target)
    _say_probe(asked, bundle)
    full = asked.require_full_delegation
    answer = run_confined(Run(str(asked.target), asked.inputs, asked.raw, delegate, full, asked.signature))
    if answer.said:
        say(answer.said.rstrip())
    ran, *others = answer.signatures
    if others and asked.signature is None:
        say(f"ran the signature {ran}; others: {', '.join(others)}")
    if asked.delegate:
        say("\n".join(execution_lines(answer.execution)))
    return bundle.labels if bundle else artifact_labels(asked.target, format_name), answer.outputs, answer.execution


def _run_there(asked: Request) -> Answer:
    from edgeferry_runtime.bundle import Bundle
    from edgeferry_runtime.input_files import Target, choose_feeds

    if asked.delegate or asked.require_full_delegation:
        raise UsageError("--delegate", "works on this machine only", "leave out --delegate or --device")
    if asked.target.is_file():
        raise BundleError(asked.target, "is no bundle, and only bundles go to a device", "make one with: ferry convert")
    run_on_device = resolve("edgeferry_devices.running", "run_on_device")
    open_device = resolve("edgeferry_devices.device", "open_device")
    terminal = resolve("edgeferry_devices.commands.asking", "terminal")
    bundle = Bundle.open(asked.target)
    bundle.check()
    _say_probe(asked, bundle)
    target = Target(asked.target, bundle, asked.signature)
    feeds = choose_feeds(target, asked.inputs, bundle.manifest.at(asked.signature).inputs, raw=asked.raw)
    with open_device(asked.device, terminal()) as there:
        return bundle.labels, run_on_device(asked.target, there, feeds, asked.raw, say, asked.signature), None


def _say_probe(asked: Request, bundle: Bundle | None) -> None:
    if bundle and not asked.inputs:
        say("no --input: running the first sample of the bundle's probe")


def _check_npz(path: Path) -> None:
    if path.suffix != ".npz":
        raise UsageError(f"--output {path}", "does not end in .npz", "name it so")
    check_file(path, "--output")
