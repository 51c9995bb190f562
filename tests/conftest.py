"""Fixtures that every test folder shares."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def missing() -> Callable[[str], None]:
    """Skip for want of a tool or data, with the reason; in CI that is a failure."""

    def skip(reason: str) -> None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must provide it: {reason}")
        pytest.skip(reason)

    return skip


@pytest.fixture(scope="session")
def zoo(pytestconfig: pytest.Config, missing: Callable[[str], None]) -> Path:
    """The folder of trained models made by others."""
    named = os.environ.get("EDGEFERRY_ZOO", "")
    if not named:
        missing("EDGEFERRY_ZOO is not set: it points to the folder of trained models")
    folder = (pytestconfig.rootpath / named).resolve()
    if not folder.is_dir():
        missing(f"EDGEFERRY_ZOO={named} is no folder")
    return folder


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C reach what the tests start, even where they run behind a shell's back, which ignores it for all."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the switch that writes golden transcripts anew."""
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden transcripts of the command line anew"
    )
