"""Scatters."""

from __future__ import annotations

from itertools import combinations

from edgeferry_devices.report.tradeoffs import LETTER, LINE, SERIES, against_accuracy, against_size

TOP1 = {"metric": "top1", "artifact": 90.0, "drop": 0.5}


def test_points_lie_by_size_and_median(measure, sides) -> None:
    measure("pi", "small", 1, artifact={"size_bytes": 1 << 20})
    measure("pi", "large", 50, artifact={"size_bytes": 8 << 20}, warnings=("busy: yes",))
    chart = against_size(sides())
    assert chart
    large, small = chart.points
    assert large.x > small.x
    assert large.y < small.y
    assert (large.trusted, small.trusted) == (False, True)
    assert large.told.startswith("large on pi, cpu: median ")
    assert large.told.endswith(", 8 MiB")
    assert [guide.text for guide in chart.guides] == ["small", "large"]


def test_a_device_has_the_same_mark_in_every_chart(measure, sides) -> None:
    measure("a", "x")
    measure("b", "x", artifact={"accuracy": TOP1})
    measure("b", "y", artifact={"accuracy": {"metric": "mse", "artifact": 0.5, "drop": 0.0}})
    size, charts = against_size(sides()), against_accuracy(sides())
    assert size
    series = {point.told.partition(":")[0]: point.series for point in size.points}
    assert series == {"x on a, cpu": 0, "x on b, cpu": 1, "y on b, cpu": 1}
    assert [(chart.caption, [point.series for point in chart.points]) for chart in charts] == [
        ("mse", [1]),
        ("top1, %", [1]),
    ]


def test_of_many_devices_the_fastest_and_the_slowest_are_named(measure, sides) -> None:
    for i in range(SERIES + 4):
        measure(f"board-{i}", factor=1 + i)
    chart = against_size(sides())
    assert chart
    assert chart.many
    assert {label.text for label in chart.labels} == {"board-0", f"board-{SERIES + 3}"}
    assert {point.series for point in chart.points} == {0}


def test_no_name_lies_upon_another(measure, sides) -> None:
    for i in range(SERIES):
        for bundle in ("a-bundle-with-a-long-name", "another-bundle-with-a-name", "short"):
            measure(f"board-{i}", bundle, 1 + i / 1000)
    chart = against_size(sides())
    assert chart
    assert len(chart.labels) == SERIES
    for one, other in combinations(chart.labels, 2):
        assert abs(one.y - other.y) >= LINE - 0.2
    for one, other in combinations(chart.guides, 2):
        apart = abs(one.x - other.x) >= LETTER * (len(one.text) + len(other.text)) / 2
        assert apart or abs(one.y - other.y) >= LINE - 0.2
    assert all(0 < label.y < chart.plane.height for label in (*chart.labels, *chart.guides))


def test_what_is_not_known_is_not_drawn(measure, sides) -> None:
    measure(artifact={"size_bytes": None})
    assert against_size(sides()) is None
    assert against_accuracy(sides()) == []
