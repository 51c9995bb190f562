"""Children import what is installed, whatever lies in the working folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgeferry_runtime.child import child_command


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_arguments_reach_the_function_and_its_answer_is_the_status(tmp_path: Path) -> None:
    assert run(tmp_path, *child_command("operator", "contains", "a -- 'b'\n", "b'\n")).returncode == 1
    assert run(tmp_path, *child_command("operator", "eq", "a b", "a c")).returncode == 0


@pytest.mark.parametrize("name", ["numpy", "edgeferry_runtime", "json"])
def test_nothing_is_imported_from_the_working_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("raise SystemExit('company')")
    done = run(tmp_path, *child_command("edgeferry_runtime.guard", "check_artifact", "none.onnx"))
    assert "company" not in done.stderr
    assert "MissingFileError" in done.stderr


def test_the_children_of_an_isolated_python_are_isolated(tmp_path: Path) -> None:
    path = [folder for folder in sys.path if folder]
    load = f"import sys; sys.path[:0] = {path!r}; from edgeferry_runtime.child import child_command"
    ask = f"{load}; print(*child_command('a', 'b'))"
    assert " -I -c " in run(tmp_path, sys.executable, "-I", "-c", ask).stdout
    assert " -I " not in run(tmp_path, sys.executable, "-c", ask).stdout
