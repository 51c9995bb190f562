"""The table of the newest runs."""

from __future__ import annotations

import pytest

from edgeferry_devices.report.summary import HEAD, accuracy_text, by_bundle, summary


def test_bundles_keep_their_devices_together(measure, sides) -> None:
    for bundle in ("b", "a"):
        for device in ("pi", "jetson"):
            measure(device, bundle)
    ordered = sorted(sides(), key=lambda side: side.key.bundle)
    assert [(bundle, len(found)) for bundle, found in by_bundle(ordered)] == [("a", 2), ("b", 2)]


def test_a_row_has_the_figures_of_its_side(measure, sides, real) -> None:
    measure(factor=100 / real.median_ms, artifact={"size_bytes": 3 << 20}, peak_rss_bytes=64 << 20)
    ((row,),) = (group.rows for group in summary(sides()))
    median, p95, first, init, size, accuracy, peak = row.cells
    assert len(row.cells) == len(HEAD)
    assert median.text == "100"
    low, high = row.side.median[1]
    assert median.beside == f"{low:.0f} to {high:.0f}"
    assert p95.text == f"{row.side.last.p95_ms:,.0f}"
    assert first.text.replace(",", "") == f"{row.side.last.first_inference_ms:.0f}"
    assert init.text.replace(",", "") == f"{row.side.last.init_ms:.0f}"
    assert (size.text, peak.text, accuracy.text) == ("3.00", "64.0", "\N{EN DASH}")
    assert row.engine == f"onnxruntime {real.engine['version']}"
    assert row.date == "2026-05-04 12:00"


def test_a_column_has_as_many_decimals_in_every_row(measure, sides, real) -> None:
    for device, median in (("fast", 0.5), ("slow", 250.0)):
        measure(device, factor=median / real.median_ms)
    (group,) = summary(sides())
    assert [row.cells[0].text for row in group.rows] == ["0.500", "250.000"]


def test_processes_of_one_run_are_one_side(measure, sides, real) -> None:
    for factor in (1.0, 3.0, 2.0):
        measure(factor=factor, run="one")
    ((row,),) = (group.rows for group in summary(sides()))
    assert row.side.median_ms == pytest.approx(2 * real.median_ms)
    assert row.side.runs == 3 * real.num_runs


@pytest.mark.parametrize(
    ("told", "texts"),
    [
        ({}, ("\N{EN DASH}", "")),
        ({"metric": "top1", "artifact": 71.25, "drop": 0.5}, ("71.2 %", "top1, drop 0.50")),
        ({"metric": "mse", "artifact": 0.00123456, "drop": 2.0}, ("0.001235", "mse, drop 2.00 %")),
        ({"metric": "mse", "artifact": 0.5, "drop": None}, ("0.5", "mse, drop inf %")),
        ({"metric": "auc", "artifact": 99.0}, ("99.0 %", "auc")),
        ({"metric": "top1", "artifact": None}, ("\N{EN DASH}", "")),
    ],
)
def test_accuracy_has_its_metric_and_what_was_lost(told: dict[str, object], texts: tuple[str, str]) -> None:
    assert accuracy_text(told) == texts
