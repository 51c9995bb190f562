"""The documentation is what the code says: help pages, public names, and the commands of the README."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import click
import pytest

from edgeferry_runtime.cli import COMMANDS, ferry, resolve

ROOT = Path(__file__).parents[2]
PACKAGES = ("edgeferry_runtime", "edgeferry_converter", "edgeferry_converter.compress", "edgeferry_devices")


def help_pages() -> str:
    """Every help page of ``ferry``, as Markdown."""
    pages = ["# Commands\n\nWritten by `pytest tests/cli --update-golden` from `ferry --help`.\n"]
    pages += [_page(ferry, "ferry")]
    for name, entry in COMMANDS.items():
        command = resolve(entry.module, entry.attribute)
        pages += [_page(command, f"ferry {name}")]
        if isinstance(command, click.Group):
            pages += [_page(sub, f"ferry {name} {key}") for key, sub in command.commands.items()]
    return "\n".join(pages)


def _page(command: click.Command, title: str) -> str:
    names = ferry.context_settings["help_option_names"]
    context = click.Context(command, info_name=title, terminal_width=100, help_option_names=names)
    return f"## {title}\n\n```text\n{command.get_help(context)}\n```\n"


def test_the_help_pages_in_the_documentation_are_those_of_the_program(request: pytest.FixtureRequest) -> None:
    path = ROOT / "docs" / "commands.md"
    if request.config.getoption("--update-golden"):
        path.write_text(help_pages(), encoding="utf-8")
    assert path.read_text(encoding="utf-8") == help_pages(), "run: pytest tests/cli --update-golden"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_docstring_and_stands_in_the_reference(package: str) -> None:
    module = importlib.import_module(package)
    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    for name in module.__all__:
        if not name.startswith("__"):
            assert inspect.getdoc(getattr(module, name)), f"{package}.{name} has no docstring"
            assert f"`{package}.{name}`" in reference, f"{package}.{name} is not in docs/reference.md"


def test_every_command_has_a_line_in_the_table_and_a_page_of_its_own() -> None:
    for name, entry in COMMANDS.items():
        command = resolve(entry.module, entry.attribute)
        assert command.help, f"ferry {name} has no help"
        assert entry.help.endswith(".")


def test_every_dependency_has_a_reason() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = importlib.import_module("re").findall(r'"([a-z][a-z0-9-]+)(?:>=|==)[^"]*"', project)
    missing = {name for name in named if name not in text}
    assert not missing
