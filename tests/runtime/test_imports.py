"""What an import of the runtime costs, and what it must not bring along."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edgeferry_runtime

PACKAGE = Path(edgeferry_runtime.__file__).parent
FOREIGN = ("tensorflow", "torch", "onnx", "onnxruntime", "paramiko", "ai_edge_litert", "PIL", "numpy", "click")
SLOW = {
    "click",
    "hashlib",
    "importlib.metadata",
    "json",
    "numpy.typing",
    "subprocess",
    "tempfile",
    "asyncio",
    "zipfile",
}


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_package_imports_nothing_foreign() -> None:
    assert loaded_by("import edgeferry_runtime").isdisjoint(FOREIGN)


def test_load_imports_numpy_and_no_framework() -> None:
    modules = loaded_by("from edgeferry_runtime import Bundle, Model, Profile, bench, load")
    assert "numpy" in modules
    assert modules.isdisjoint(set(FOREIGN) - {"numpy"})


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_a_first_result_needs_nothing_that_takes_long_to_import(artifacts, suffix: str) -> None:
    """What an engine imports itself does not count; an ONNX file keeps its quantization as JSON."""
    engine = {"tflite": "ai_edge_litert.interpreter", "onnx": "onnxruntime"}[suffix]
    pytest.importorskip(engine)
    path = str(artifacts[f"double.{suffix}"])
    call = f"load({path!r})(numpy.ones((1, 4), numpy.float32))"
    ours = loaded_by(f"import numpy; from edgeferry_runtime import load; {call}")
    assert (ours - loaded_by(f"import numpy, {engine}")).isdisjoint(SLOW - ({"json"} if suffix == "onnx" else set()))


@pytest.mark.parametrize("name", edgeferry_runtime.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(edgeferry_runtime, name) is not None
    assert name in (*dir(edgeferry_runtime), "__version__")


def test_unknown_public_name() -> None:
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = edgeferry_runtime.nothing_here


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_source_is_python_3_10_and_keeps_the_walls(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    tops = {name.split(".")[0] for name in imported}
    assert tops.isdisjoint({"edgeferry_converter", "edgeferry_devices", "tomllib"})
    if "commands" not in path.parts and path.name not in ("cli.py", "agent.py"):
        assert "click" not in tops
