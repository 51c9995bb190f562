"""What ``ferry serve`` is told about models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.commands.model_options import model_options, read_placed, take_models
from edgeferry_runtime.errors import BundleError, MissingFileError, UsageError
from edgeferry_runtime.serving.settings import Execution, Placed, Settings


def read(*arguments: str) -> Settings:
    """Read a command line."""

    @click.command()
    @model_options
    def command(**options: Any) -> Settings:
        found = Settings(**take_models(options))
        assert not options
        return found

    done = CliRunner().invoke(command, arguments, standalone_mode=False)
    if done.exception:
        raise done.exception
    settings: Settings = done.return_value
    return settings


@pytest.mark.parametrize(
    ("text", "placed"),
    [
        ("kws=out", Placed("kws", Path("out"))),
        ("kws@2=out", Placed("kws", Path("out"), 2)),
        ("kws@1.0=out", Placed("kws", Path("out"), 1)),
        ("a b=x=y", Placed("a b", Path("x=y"))),
    ],
)
def test_a_name_and_a_version(text: str, placed: Placed) -> None:
    assert read_placed(text) == placed


def test_a_bundle_may_give_its_own_name(
    tmp_path: Path, make: Callable[..., Bundle], release: Callable[..., Path]
) -> None:
    path = make(tmp_path / "x=1", 1).path
    assert read_placed(str(path)) == Placed("plus", path)
    assert read_placed(str(release(1))) == Placed("plus", tmp_path / "device/bundles/plus")
    with pytest.raises(MissingFileError, match="no such bundle"):
        read_placed(str(tmp_path / "nowhere"))
    with pytest.raises(BundleError, match="is no bundle"):
        read_placed(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("=out", "name '': cannot be a model's"),
        ("-x=out", "name '-x': cannot be a model's"),
        ("x@=out", "version '' of x: is no positive number"),
        ("x@0=out", "version '0' of x: is no positive number"),
        ("x@0.0=out", "version '0.0' of x: is no positive number"),
        ("x@1234567890123456789=out", "is no positive number of at most 18 digits"),
        (f"x@{'9' * 5000}=out", "is no positive number of at most 18 digits"),
        ("x@1.5=out", "give one, such as NAME@2=BUNDLE"),
    ],
)
def test_what_is_no_name_or_version_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_placed(text)


def test_options_become_settings(tmp_path: Path) -> None:
    settings = read("--repository", str(tmp_path), "--keep-versions=2", "--workers=3", "--max-batch=8", "a=b")
    assert settings == Settings(
        (Placed("a", Path("b")),), tmp_path, keep_versions=2, execution=Execution(workers=3, max_batch=8)
    )
    assert read("a=b").execution == Execution()


def test_there_has_to_be_something_to_serve(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="was given nothing to serve"):
        read()
    with pytest.raises(MissingFileError, match="no such folder"):
        read("--repository", str(tmp_path / "nowhere"))
