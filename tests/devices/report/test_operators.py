"""Bars for operators."""

from __future__ import annotations

import pytest

from edgeferry_devices.report.operators import LONGEST, PER_BUNDLE, TOP, operators


def several(count: int, name: str = "node") -> tuple[dict[str, object], ...]:
    total = count * (count + 1) / 2
    return tuple(
        {
            **{"name": f"{name}/{i}", "type": "Conv" if i % 2 else "Add", "provider": "cpu", "mean_us": 2.0 * i},
            **{"median_us": 2.0 * i, "share": i / total, "calls": 1.0},
        }
        for i in range(1, count + 1)
    )


def test_real_operators_are_drawn_the_slowest_first(measure, sides, real) -> None:
    measure()
    (card,) = operators(sides()).drawn
    assert {bar.kind for bar in card.bars} == {op["type"] for op in real.operators} == {"MatMul", "Softmax"}
    assert card.bars[0].length == 1
    assert sum(float(bar.share) for bar in card.bars) == pytest.approx(100, abs=0.2)
    assert card.rest == ""
    assert real.operators_run["method"] in card.coverage
    assert f"{real.operators_run['coverage']:.0%} of the" in card.coverage


def test_what_is_not_drawn_is_summed_up(measure, sides) -> None:
    measure(operators=several(20, "a" * 99))
    (card,) = operators(sides()).drawn
    assert len(card.bars) == TOP
    assert card.rest == f"{20 - TOP} more operators, {100 * sum(range(1, 21 - TOP)) / 210:.1f} % together"
    assert all(len(bar.name) == LONGEST and bar.name.startswith("…") for bar in card.bars)
    assert card.kinds.startswith("Add 52.4 %, Conv 47.6 %")
    assert card.bars[1].length == pytest.approx(19 / 20)


def test_of_many_devices_the_fastest_and_the_slowest_are_drawn(measure, sides) -> None:
    for i in range(9):
        measure(f"board-{i}", factor=1 + i)
    told = operators(sorted(sides(), key=lambda side: side.median_ms))
    assert [card.side.key.device for card in told.drawn] == ["board-0", "board-1", "board-7", "board-8"]
    assert told.left == 9 - PER_BUNDLE


def test_without_operators_there_is_nothing(measure, sides) -> None:
    measure(operators=(), operators_run={})
    assert operators(sides()).drawn == ()
