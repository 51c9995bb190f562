"""Transcripts of the command line: what is typed, what is printed, which exit code."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"

STABLE = (
    (r"\d+(\.\d+)? (ms|s|dB|KiB|MiB|B)\b", r"# \2"),
    (r"-?\d+\.\d+(e[-+]?\d+)?|\binf\b", "#.#"),
    (r"\b[0-9a-f]{12,64}\b", "<hash>"),
    (r"SHA256:[A-Za-z0-9+/]{43}", "SHA256:<fingerprint>"),
    (r"(?<=127\.0\.0\.1:)\d+", "<port>"),
    (r"[ \t]+", " "),
)
"""What differs from run to run, and what stands in the transcript instead."""


@pytest.fixture()
def transcript(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., str]:
    """Run ``ferry`` lines in an empty folder and compare all that they print with a golden file."""

    def run(name: str, *lines: str, env: dict[str, str] | None = None) -> str:
        text = "".join(_perform(line, tmp_path, env or {}) for line in lines)
        golden = GOLDEN / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            GOLDEN.mkdir(exist_ok=True)
            golden.write_text(text, encoding="utf-8")
        assert text == golden.read_text(encoding="utf-8"), (
            f"read the difference; to accept it: pytest {request.node.nodeid} --update-golden"
        )
        return text

    return run


def _perform(line: str, folder: Path, env: dict[str, str]) -> str:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    base = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "SSH_", "EDGEFERRY_"))}
    done = subprocess.run(
        [sys.executable, "-m", "edgeferry_runtime", *shlex.split(line)[1:]],
        cwd=folder,
        env={**base, "HOME": str(home), "COLUMNS": "100", "TERM": "dumb", **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = "".join(f"  {x}\n" for x in done.stdout.splitlines()) + "".join(f"! {x}\n" for x in done.stderr.splitlines())
    said = said.replace(str(folder), "<folder>")
    for pattern, stable in STABLE:
        said = re.sub(pattern, stable, said)
    return f"$ {line}\n{said}exit {done.returncode}\n\n"
