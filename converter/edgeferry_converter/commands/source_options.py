"""What a source is told besides its path: the options that every command which opens one has in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgeferry_converter.commands.shape_option import parse_shape
from edgeferry_converter.sources.constants import parse_constant

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS = (
    click.option("--weights", metavar="FILE", type=click.Path(path_type=Path), help="Weights for FILE.py:FACTORY."),
    click.option("--weights-key", metavar="KEY", help="Where in a checkpoint the weights lie; dots lead deeper."),
    click.option("--custom-objects", metavar="FILE.py:NAME,NAME", help="Python classes of a Keras file; executes it."),
    click.option("--submodule", metavar="NAME", help="Part of a TorchScript module that is the model."),
    click.option("--constant", multiple=True, metavar="NAME=16000", help="Value of an input that is no data."),
    click.option("--shape", multiple=True, metavar="NAME=1,3,32,32", help="Shape of one input; may be repeated."),
)
"""In the order in which help shows them."""


def source_options(command: F) -> F:
    """Add the options to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def read_tables(flags: dict[str, Any]) -> dict[str, Any]:
    """Take ``shape`` and ``constant`` out of a command's flags, as tables by input name; those not given are empty.

    Raises:
        UsageError: If one is not NAME=VALUE.
    """
    shape, constant = flags.pop("shape", ()), flags.pop("constant", ())
    return {"shape": dict(map(parse_shape, shape)), "constant": dict(map(parse_constant, constant))}
