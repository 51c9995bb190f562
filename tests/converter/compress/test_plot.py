"""The picture of a compression: what is in it, and that the same history gives the same file."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeferry_converter.compress.history import Entry, History, Standing
from edgeferry_converter.compress.plot import panels, plot
from edgeferry_runtime.errors import MissingExtraError, MissingFileError, UnknownNameError

pytest.importorskip("matplotlib")

MEASURED = Standing(97.6, 100_000, 0.01, 1_000_000, 200_000, 180_000, 0.5)
PRUNED = replace(MEASURED, score=97.1, sparsity=0.8, compressed_bytes=50_000)
STORED = replace(PRUNED, score=95.9, artifact_bytes=60_000, compressed_bytes=20_000, median_ms=0.2, precision="int8")


def history(**changes: object) -> History:
    steps = (
        Entry("1-prune-weights", "prune-weights", PRUNED, 0.5, 1.0),
        Entry("small", "quantize", STORED, 1.7, 1.0),
    )
    whole = History("models/digits.keras", "keras", "top1", 1347, 450, 0, MEASURED, steps, "lost", "1-prune-weights")
    return replace(whole, **changes)  # type: ignore[arg-type]


def texts(path: Path) -> list[str]:
    """What an SVG says: matplotlib leaves each text as a comment beside its shapes."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    tree = ElementTree.parse(path, parser)
    return [(e.text or "").strip() for e in tree.iter() if e.tag is ElementTree.Comment]


def said(path: Path) -> str:
    return "\n".join(texts(path))


@pytest.mark.slow
def test_every_step_is_named_and_the_gate_is_drawn(tmp_path: Path) -> None:
    plot(history(), tmp_path / "h.svg")
    found = texts(tmp_path / "h.svg")
    assert found.count("S") == found.count("1") == found.count("2") == 3
    assert found.count("gate: 1 lost") == 3
    assert "digits.keras (keras), judged by 450 samples; stopped: lost" in found
    assert "S  source: 97.60 %" in said(tmp_path / "h.svg")
    assert "1  prune-weights (kept): 97.10 %" in said(tmp_path / "h.svg")
    assert "2  small (quantize) (not passed: 1.70 lost, 1 allowed): 95.90 %, int8" in said(tmp_path / "h.svg")
    for label in ("zeros in kernels, %", "size of the compressed artifact, KiB", "time of one run on one core, ms"):
        assert label in found


@pytest.mark.slow
def test_without_artifacts_the_size_is_in_parameters_and_no_time_is_said(tmp_path: Path) -> None:
    bare = Standing(0.5, 4000, 0.0)
    steps = (Entry("a", "distill", replace(bare, score=0.4), -20.0),)
    plot(history(metric="mse", start=bare, steps=steps, best="", stopped=""), tmp_path / "h.svg")
    found = texts(tmp_path / "h.svg")
    assert "parameters, thousands" in found
    assert "mean squared error" in found
    assert "No time was measured:" in said(tmp_path / "h.svg")
    assert not any(text.startswith("gate") for text in found)


def test_the_size_is_one_that_every_point_has() -> None:
    def label(*standings: Standing) -> str:
        from edgeferry_converter.compress.plot import Point

        return panels([Point("S", "", standing, "", "") for standing in standings])[1].label

    assert label(MEASURED, PRUNED) == "size of the compressed artifact, KiB"
    assert label(MEASURED, replace(PRUNED, compressed_bytes=None)) == "size of the artifact, KiB"
    assert label(MEASURED, replace(PRUNED, compressed_bytes=None, artifact_bytes=None)) == "parameters, thousands"


@pytest.mark.slow
@pytest.mark.parametrize("score", [float("nan"), float("inf"), 1.7e308])
def test_a_step_without_a_figure_is_said(tmp_path: Path, score: float) -> None:
    steps = (Entry("a", "distill", replace(PRUNED, score=score), 0.0),)
    plot(history(steps=steps, best=""), tmp_path / "h.svg")
    assert texts(tmp_path / "h.svg").count("without a figure: 1") == 3


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".svg", ".png", ".PNG"])
def test_the_same_history_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    files = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for file in files:
        plot(history(), file)
    content = files[0].read_bytes()
    assert content == files[1].read_bytes()
    assert content.startswith(b"<?xml" if suffix == ".svg" else b"\x89PNG")
    assert sorted(tmp_path.iterdir()) == files


NAME = st.text(min_size=1, max_size=60)
NUMBER = st.none() | st.floats(0, 1e12)
SIZE = st.none() | st.integers(0, 10**12)
STANDING = st.builds(
    Standing,
    score=st.floats(),
    parameters=st.integers(0, 10**12),
    sparsity=st.floats(0, 1),
    artifact_bytes=SIZE,
    compressed_bytes=SIZE,
    median_ms=NUMBER,
)
STEP = st.builds(Entry, name=NAME, method=NAME, standing=STANDING, drop=st.floats(), max_drop=NUMBER)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.builds(history, start=STANDING, steps=st.lists(STEP, max_size=5).map(tuple), source=NAME, stopped=NAME))
def test_any_history_is_drawn(tmp_path_factory: pytest.TempPathFactory, whole: History) -> None:
    """Property: whatever happened and whatever steps are called, the file is well-formed."""
    file = tmp_path_factory.mktemp("plot") / "h.svg"
    plot(whole, file)
    ElementTree.parse(file)


def test_what_cannot_be_drawn_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match=r"h\.pgn: suffix: unknown name '\.pgn'; did you mean '\.png'\? valid"):
        plot(history(), tmp_path / "h.pgn")
    with pytest.raises(MissingFileError, match="no such folder; create it"):
        plot(history(), tmp_path / "none" / "h.svg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # type: ignore[arg-type]
    with pytest.raises(MissingExtraError, match=r"needs matplotlib, .* pip install 'edgeferry\[plot\]'"):
        plot(history(), tmp_path / "h.svg")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_nothing_of_the_process_is_changed(tmp_path: Path) -> None:
    """No pyplot is loaded, and the settings are what they were."""
    code = f"""
import logging, sys, matplotlib
logging.getLogger("matplotlib.font_manager").setLevel("ERROR")  # it tells when building its cache takes long
from pathlib import Path
from test_plot import history
from edgeferry_converter.compress.plot import plot
settings = lambda: {{key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}}
before = settings()
plot(history(), Path({str(tmp_path / "h.svg")!r}))
assert settings() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
