"""Files of the user: each finds what lies beside it, and leaves the interpreter as it was."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgeferry_converter.sources.python_file import imported


def written(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / f"{name.replace('__in__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize("beside", ["layers_beside", "layers_beside__in____init__", "layers_beside__in__part"])
def test_each_file_imports_from_its_own_folder(tmp_path: Path, beside: str) -> None:
    asks = "from layers_beside.part import SIZE" if beside.endswith("part") else "from layers_beside import SIZE"
    for size in (1, 2, 1):
        folder = written(tmp_path / str(size), model=asks, **{beside: f"SIZE = {size}\n"})
        with imported(folder / "model.py") as python:
            assert size == python.SIZE


def test_modules_from_elsewhere_are_left_alone(tmp_path: Path) -> None:
    one = written(tmp_path / "one", model="import only_of_one", only_of_one="")
    two = written(tmp_path / "two", model="import json", json="")
    with imported(one / "model.py"):
        kept = sys.modules["only_of_one"]
    with imported(two / "model.py") as python:
        assert python.json.dumps([1]) == "[1]"
    assert sys.modules["only_of_one"] is kept


def test_the_interpreter_is_as_it_was(tmp_path: Path) -> None:
    paths, bytecode = list(sys.path), sys.dont_write_bytecode
    folder = written(tmp_path, fails="import beside_it\n1 / 0", beside_it="")
    with pytest.raises(ZeroDivisionError), imported(folder / "fails.py"):
        pass
    assert (sys.path, sys.dont_write_bytecode) == (paths, bytecode)
    assert not list(tmp_path.rglob("__pycache__"))
