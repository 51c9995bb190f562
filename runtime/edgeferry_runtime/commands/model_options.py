"""What ``ferry serve`` is told about models: which, from where, and how they run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.commands.delegate_option import FORMS
from edgeferry_runtime.errors import BundleError, MissingFileError, UsageError
from edgeferry_runtime.serving.settings import Execution, Placed, Settings
from edgeferry_runtime.store import CURRENT, check_name

Command = TypeVar("Command", bound=Callable[..., Any])

VERSION = re.compile(r"([0-9]{1,18})(\.0)?")
"""A version as users write it; TorchServe's have a fraction."""

OPTIONS = (
    click.argument("bundles", nargs=-1, metavar="[NAME[@VERSION]=]BUNDLE..."),
    click.option(
        "--repository",
        type=click.Path(path_type=Path),
        metavar="FOLDER",
        help="Serve every bundle of a folder, and those that appear there; clients may load and unload them.",
    ),
    click.option(
        "--keep-versions",
        type=click.IntRange(min=1),
        default=Settings.keep_versions,
        show_default=True,
        help="Versions from one folder that go on answering when a new release appears there.",
    ),
    click.option("--delegate", default=Execution.delegate, show_default=True, help=f"Where to execute: {FORMS}."),
    click.option(
        "--workers",
        type=click.IntRange(1, 64),
        help="Calls of one model at the same time.  [default: cores, at most 4]",
    ),
    click.option(
        "--queue",
        type=click.IntRange(min=1),
        default=Execution.queue,
        show_default=True,
        help="Requests to one model that may wait or run.",
    ),
    click.option(
        "--max-batch",
        type=click.IntRange(min=1),
        default=Execution.max_batch,
        show_default=True,
        help="Rows of several requests to run together; 1 runs each alone.",
    ),
    click.option(
        "--max-delay-ms",
        type=click.FloatRange(min=0),
        default=Execution.max_delay_ms,
        show_default=True,
        help="Milliseconds that the first of a batch waits for others.",
    ),
)


def model_options(command: Command) -> Command:
    """Add which models to serve, and how they run."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def take_models(options: dict[str, Any]) -> dict[str, Any]:
    """Take the options of `model_options` out of others, as what `Settings` calls them.

    Raises:
        UsageError: If there is nothing to serve, or what was given cannot be.
        MissingFileError, BundleError: If a bundle that gives its own name is none.
    """
    bundles, repository = options.pop("bundles"), options.pop("repository")
    if not bundles and repository is None:
        raise UsageError("ferry serve", "was given nothing to serve", "name a bundle's folder, or a --repository")
    if repository is not None and not repository.is_dir():
        raise MissingFileError(f"--repository {repository}", "no such folder", "check the path, or create it")
    workers = options.pop("workers")
    execution = {key: options.pop(key) for key in ("delegate", "queue", "max_batch", "max_delay_ms")}
    return {
        "placed": tuple(map(read_placed, bundles)),
        "repository": repository,
        "keep_versions": options.pop("keep_versions"),
        "execution": Execution(**execution, **({"workers": workers} if workers else {})),
    }


def read_placed(text: str) -> Placed:
    """Read ``[NAME[@VERSION]=]BUNDLE``; without a name, the bundle's own is taken.

    Raises:
        UsageError: If the name cannot be one, or the version is no positive number of at most 18 digits.
        MissingFileError, BundleError: If a bundle that gives its own name is none.
    """
    head, equals, path = text.partition("=")
    if not equals or "/" in head:
        folder = Path(text)
        linked = (folder / CURRENT).is_symlink()
        return Placed(Bundle.open(folder / CURRENT if linked else folder).manifest.name, folder)
    name, at, version = head.partition("@")
    try:
        check_name(name)
    except BundleError as error:
        raise UsageError(f"name {name!r}", "cannot be a model's", "give another NAME=BUNDLE") from error
    return Placed(name, Path(path), _read_version(version, name) if at else None)


def _read_version(text: str, name: str) -> int:
    found = VERSION.fullmatch(text)
    if found is None or not int(found[1]):
        reason = "is no positive number of at most 18 digits"
        raise UsageError(f"version {text[:40]!r} of {name}", reason, "give one, such as NAME@2=BUNDLE")
    return int(found[1])
