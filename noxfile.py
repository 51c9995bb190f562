"""The runtime's suite where there is nothing but the runtime, numpy, click and one engine: ``nox -s runtime``."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from pathlib import Path

import nox

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
ENGINES = {"litert": ("ai-edge-litert",), "onnx": ("onnxruntime",), "tflite-runtime": ("tflite-runtime", "numpy<2")}
TOOLS = ("pytest", "pytest-xdist", "hypothesis")
RESULTS = "runtime-results"

nox.options.sessions = ["runtime"]
nox.options.error_on_missing_interpreters = False


def _find_interpreters() -> None:
    """Let nox find what pyenv has as well: its shims do not start a version that is not the chosen one."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    versions = sorted(root.glob("versions/3.*/bin"), key=lambda folder: folder.stat().st_mtime)
    path = [folder for folder in os.environ["PATH"].split(os.pathsep) if Path(folder) != root / "shims"]
    os.environ["PATH"] = os.pathsep.join([*path, *map(str, versions)])


_find_interpreters()


@nox.session(python=PYTHONS)
@nox.parametrize("engine", list(ENGINES), ids=list(ENGINES))
def runtime(session: nox.Session, engine: str) -> None:
    """Run tests/runtime on one Python with one engine."""
    if engine == "tflite-runtime" and session.python not in ("3.10", "3.11"):
        session.skip("tflite-runtime has no wheels for Python 3.12 and newer")
    session.notify("table")
    session.install(".", *ENGINES[engine], *TOOLS)
    results = _results(session) / f"{session.python} {engine}.xml"
    results.unlink(missing_ok=True)
    zoo = {"EDGEFERRY_ZOO": os.environ.get("EDGEFERRY_ZOO")}
    session.run(
        *("pytest", "-q", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider", f"--junit-xml={results}"),
        *(session.posargs or ["tests/runtime"]),
        env={**zoo, "CI": None, "PYTHONWARNINGS": None},
    )


@nox.session(python=False, default=False)
def table(session: nox.Session) -> None:
    """Print what passed and what was skipped in each environment."""
    session.log(f"{'Python, engine':<22} {'passed':>7} {'skipped':>8} {'failed':>7} {'seconds':>8}")
    for path in sorted(_results(session).glob("*.xml")):
        suite = ET.parse(path).getroot()[0]  # noqa: S314 (pytest wrote it)
        tests, skipped, failed, errors = (int(suite.attrib[key]) for key in ("tests", "skipped", "failures", "errors"))
        passed = tests - skipped - failed - errors
        seconds = float(suite.attrib["time"])
        session.log(f"{path.stem:<22} {passed:>7} {skipped:>8} {failed + errors:>7} {seconds:>8.0f}")


def _results(session: nox.Session) -> Path:
    folder = session.cache_dir / RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    return folder
