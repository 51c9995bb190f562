"""Which units go, on graphs that are written by hand."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_converter.compress.structure.graph import HEAD, MODEL_OUTPUT, ChannelGraph, Cost, Use
from edgeferry_converter.compress.structure.ledger import Ledger
from edgeferry_converter.compress.structure.selection import Choice, Wish, choose
from edgeferry_converter.compress.structure.units import Units, cut
from edgeferry_runtime.errors import TrainingError, UnknownNameError


def chain(*widths: int) -> Units:
    """Return dense layers ``d0``, ``d1``, ...; the last one is the model's output."""
    graph, sizes = ChannelGraph(), {}
    before = graph.new(3)
    for i, width in enumerate(widths):
        ids = graph.new(width)
        graph.uses += [Use(f"d{i}/kernel", 0, before, "input"), Use(f"d{i}/kernel", 1, ids, "output")]
        graph.uses.append(Use(f"d{i}/bias", 0, ids, "other"))
        graph.costs.append(Cost(f"d{i}", len(before) * width, before, ids))
        sizes |= {f"d{i}/kernel": len(before) * width, f"d{i}/bias": width}
        graph.layers[f"d{i}"] = before = ids
    graph.freeze(before, MODEL_OUTPUT)
    return Units(graph, sizes)


def important(units: Units, seed: int = 0) -> Any:
    return np.random.default_rng(seed).random(len(units))


def left(units: Units, choice: Choice) -> dict[str, int]:
    gone = list(choice.removed)
    return {name: int((~np.isin(ids, gone)).sum()) for name, ids in units.layers.items()}


def share(ledger: Ledger, choice: Choice) -> float:
    ledger.remove(choice.removed)
    return ledger.share


@pytest.mark.slow
@given(st.lists(st.integers(1, 12), min_size=2, max_size=5), st.randoms())
def test_a_ledger_counts_what_the_arrays_have(widths: list[int], random: Any) -> None:
    units = chain(*widths)
    removed = [unit for unit in range(len(units)) if random.random() < 0.4]
    state = {name: np.zeros(size) for name, size in units.sizes.items()}
    state = {f"d{i}/bias": np.zeros(n) for i, n in enumerate(widths)}
    state |= {f"d{i}/kernel": np.zeros((a, b)) for i, (a, b) in enumerate(zip([3, *widths], widths, strict=False))}
    ledger = units.parameters()
    ledger.remove(removed)
    assert round(ledger.total) == sum(v.size for v in cut(units, state, frozenset(removed)).values())
    ledger.put_back(removed)
    assert ledger.total == pytest.approx(ledger.before)


@pytest.mark.slow
@given(st.floats(0.35, 1), st.sampled_from(["macs", "parameters", "channels"]), st.sampled_from(["global", "uniform"]))
def test_the_target_holds_and_no_block_goes_for_nothing(wanted: float, target: str, scope: str) -> None:
    units = chain(32, 48, 32, 10)
    wish = Wish(target, wanted, scope=scope, multiple_of=1)
    choice = choose(units, important(units), wish, "m")
    ledgers = {"macs": units.macs, "parameters": units.parameters}
    ledger = ledgers[target]() if target in ledgers else units.channels(p for p in units.pools if not p.frozen)
    reached = share(ledger, choice)
    assert wanted - 0.05 <= reached <= wanted + 1e-9


def test_the_least_important_go_first() -> None:
    units = chain(16, 16, 10)
    importance = important(units)
    choice = choose(units, importance, Wish("macs", 0.5, multiple_of=1, least=0), "m")
    for ids in list(units.layers.values())[:2]:
        gone = np.isin(ids, list(choice.removed))
        assert gone.any()
        assert importance[ids[gone]].max() < importance[ids[~gone]].min()


@pytest.mark.parametrize("multiple", [2, 4, 8])
def test_what_remains_is_a_multiple(multiple: int) -> None:
    units = chain(30, 43, 64, 10)
    sizes = left(units, choose(units, important(units), Wish("macs", 0.5, multiple_of=multiple), "m"))
    assert all(
        sizes[name] % multiple == 0 or sizes[name] == before
        for name, before in zip(sizes, (30, 43, 64, 10), strict=True)
    )


def test_small_layers_lose_smaller_blocks_where_nothing_is_said() -> None:
    units = chain(8, 12, 64, 10)
    sizes = left(units, choose(units, important(units), Wish("channels", 0.5, scope="uniform"), "m"))
    assert sizes == {"d0": 4, "d1": 4, "d2": 32, "d3": 10}


def test_least_stays_in_every_layer() -> None:
    units = chain(20, 40, 10)
    importance = important(units)
    importance[units.layers["d0"]] = 0
    sizes = left(units, choose(units, importance, Wish("macs", 0.4, least=0.25, multiple_of=1), "m"))
    assert sizes["d0"] == 5


def test_one_channel_always_stays() -> None:
    units = chain(4, 4, 2)
    sizes = left(
        units, choose(units, important(units), Wish("amounts", amounts={"*": 1.0}, least=0, multiple_of=1), "m")
    )
    assert sizes == {"d0": 1, "d1": 1, "d2": 2}


def test_of_amounts_the_last_pattern_holds() -> None:
    units = chain(20, 20, 10)
    wish = Wish("amounts", amounts={"d*": 0.5, "d1": 0.25}, multiple_of=1)
    assert left(units, choose(units, important(units), wish, "m")) == {"d0": 10, "d1": 15, "d2": 10}


def test_what_is_skipped_is_named_with_the_reason() -> None:
    units = chain(20, 20, 20, 10)
    choice = choose(units, important(units), Wish("macs", 0.9, skip=("d0",), layers=("d0", "d1", "d3")), "m")
    assert left(units, choice)["d0"] == 20
    assert choice.kept == {"d0": "skip names it", "d2": "layers does not name it", "d3": MODEL_OUTPUT}


def test_united_layers_are_kept_together() -> None:
    units = chain(16, 16, 10)
    units.graph.unite(units.graph.layers["d0"], units.graph.layers["d1"])
    choice = choose(units, important(units), Wish("channels", 1.0, skip=("d0",)), "m")
    assert choice.kept["d1"] == "its channels are one with those of 'd0', which stays (skip names it)"
    sizes = left(units, choose(units, important(units), Wish("macs", 0.6), "m"))
    assert sizes["d0"] == sizes["d1"] < 16


def test_a_layer_of_which_a_part_is_frozen_loses_of_the_rest() -> None:
    units = chain(16, 10)
    units.graph.freeze(units.graph.layers["d0"][:8], "it is sliced")
    choice = choose(units, important(units), Wish("channels", 0.5), "m")
    assert left(units, choice)["d0"] == 12
    assert choice.removed.isdisjoint(units.layers["d0"][:8])
    assert "d0" not in choice.kept


def test_heads_go_one_by_one_and_only_where_asked_for() -> None:
    units = chain(6, 32, 10)
    units.graph.kinds["d0"] = HEAD
    wish = Wish("amounts", amounts={"d0": 0.5})
    assert left(units, choose(units, important(units), wish, "m"))["d0"] == 3
    kept = choose(units, important(units), replace(wish, kinds=("channels",)), "m").kept
    assert kept["d0"] == "its heads were not asked for"


def test_without_importance_a_layer_is_kept() -> None:
    units = chain(8, 8, 10)
    importance = important(units)
    importance[units.layers["d0"]] = np.nan
    assert "no batch normalization" in choose(units, importance, Wish("channels", 1.0), "m").kept["d0"]


def test_a_target_that_cannot_be_reached_says_how_far_it_gets() -> None:
    units = chain(32, 32, 200)
    with pytest.raises(
        TrainingError, match=r"^m: macs = 0.01 cannot be reached: 0.\d+ of .*'d2' has .*output"
    ) as error:
        choose(units, important(units), Wish("macs", 0.01), "m")
    assert "lower least" in error.value.fix


@pytest.mark.parametrize("wish", [Wish("macs", 0.5, skip=("c*",)), Wish("amounts", amounts={"d9": 0.5})])
def test_a_pattern_that_matches_nothing_is_an_error(wish: Wish) -> None:
    units = chain(8, 10)
    with pytest.raises(UnknownNameError, match="d0"):
        choose(units, important(units), wish, "m")


@pytest.mark.slow
def test_thousands_of_units_take_a_moment() -> None:
    units = chain(*[512] * 12, 10)
    importance, begin = important(units), time.thread_time()
    choose(units, importance, Wish("macs", 0.5, multiple_of=1), "m")
    assert time.thread_time() - begin < 5
