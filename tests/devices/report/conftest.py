"""A real measurement, told again of other devices and days, and a real browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgeferry_devices import history
from edgeferry_devices.comparing import Row, Wanted, rows
from edgeferry_devices.sides import Side
from edgeferry_runtime.benchmark import BenchOptions, bench_fresh
from edgeferry_runtime.profile import Profile

START = datetime(2026, 5, 4, 12, 0, tzinfo=timezone.utc)
TIMES = (
    *("init_ms", "first_inference_ms", "mean_ms", "stddev_ms", "min_ms", "max_ms"),
    *("p5_ms", "median_ms", "p90_ms", "p95_ms", "p99_ms"),
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--enable-logging=stderr", "--dump-dom"),
)

Measure = Callable[..., None]


@pytest.fixture(scope="session")
def real(onnx_file: Path) -> Profile:
    """The tiny model, measured in a process of its own, with its operators."""
    quick = BenchOptions(num_runs=200, warmup_runs=5, min_secs=0, max_secs=10, max_warmup_secs=0, ops=True)
    return replace(bench_fresh(onnx_file, quick), warnings=(), marks=())


def slower(profile: Profile, factor: float) -> dict[str, Any]:
    """Return all times of a profile, so many times as long."""
    low, high = profile.median_ms_ci95
    return {
        **{name: getattr(profile, name) * factor for name in TIMES},
        "samples_ms": tuple(sample * factor for sample in profile.samples_ms),
        "median_ms_ci95": (low * factor, high * factor),
    }


@pytest.fixture
def measure(real: Profile) -> Measure:
    """Keep the measurement in the history as that of a device, a bundle and a day, with some facts changed."""

    def record(device: str = "pi", bundle: str = "tiny", factor: float = 1.0, day: int = 0, **changes: Any) -> None:
        artifact = {**real.artifact, "name": bundle, "bundle": "ab" * 32, **changes.pop("artifact", {})}
        run, told = changes.pop("run", f"run {day}"), {**slower(real, factor), **changes}
        told_again = replace(real, **{"device": device, "artifact": artifact, **told})
        history.record(told_again, run, START + timedelta(days=day))

    return record


def measured() -> list[Row]:
    """Return what the history holds."""
    return rows(Wanted())


def measured_sides() -> list[Side]:
    """Return the same without what was before."""
    return [row.side for row in measured()]


@pytest.fixture
def found() -> Callable[[], list[Row]]:
    return measured


@pytest.fixture
def sides() -> Callable[[], list[Side]]:
    return measured_sides


class Page(HTMLParser):
    """What a page is made of: its elements with their attributes, in order, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def parse() -> Callable[[str], Page]:
    return Page


@dataclass(frozen=True)
class Visit:
    """What a browser made of a page: the document, what it complained of, and what the page asked the network for."""

    dom: str
    console: tuple[str, ...]
    requests: tuple[str, ...]


@pytest.fixture
def visit(tmp_path: Path, missing: Callable[[str], None]) -> Callable[[Path], Visit]:
    """Open a page in Chromium from its file."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), "")
    if not browser:
        missing("no Chromium (packages chromium and fonts-dejavu-core)")

    def open_page(page: Path) -> Visit:
        log = tmp_path / "net.json"
        own = (f"--user-data-dir={tmp_path / 'browser'}", f"--log-net-log={log}")
        command = [browser, *FLAGS, *own, page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        console = tuple(line for line in done.stderr.splitlines() if ":CONSOLE:" in line)
        return Visit(done.stdout, console, tuple(asked_for(log)))

    return open_page


def asked_for(log: Path) -> list[str]:
    """Return the addresses that a page opened from a file asked for; Chromium's own errands are not among these."""
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    return [p["url"] for p in events if "url" in p and p.get("network_isolation_key", "").startswith("file://")]
