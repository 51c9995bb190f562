"""Overrides: what they match, and what they say where they match nothing."""

from __future__ import annotations

import pytest

from edgeferry_converter.overrides import Layer, Override, resolve
from edgeferry_runtime.errors import UnknownNameError, UsageError

LAYERS = [
    Layer(("net/conv_1/Relu;net/conv_1/Conv", "net/conv_1/Relu;net/conv_1/Conv"), "CONV_2D"),
    Layer(("net/conv_2/Relu", "net/conv_2/Relu"), "CONV_2D"),
    Layer(("net/dense", "net/dense:0"), "FULLY_CONNECTED"),
    Layer(("odd[1]",), "SOFTMAX"),
]


@pytest.mark.parametrize(
    ("layer", "operator", "found"),
    [
        ("net/dense", None, [2]),
        ("net/dense:0", None, [2]),
        ("*conv*", None, [0, 1]),
        ("*conv_?/Relu", None, [1]),
        ("odd[1]", None, [3]),
        (None, "CONV_2D", [0, 1]),
        ("*_2*", "CONV_2D", [1]),
        ("*", None, [0, 1, 2, 3]),
    ],
)
def test_a_pattern_finds_its_layers(layer: str | None, operator: str | None, found: list[int]) -> None:
    assert sorted(resolve([Override("none", layer, operator)], LAYERS)) == found


def test_the_last_match_holds() -> None:
    first, last = Override("none", "*conv*"), Override("int8", "*conv_2*")
    assert resolve([first, last], LAYERS) == {0: first, 1: last}
    assert resolve([last, first], LAYERS) == {0: first, 1: first}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (Override("none", "*cnv_2*"), "--override .*none: matches none of the 4 layers; .*'net/conv_2/Relu'"),
        (Override("none", "DENSE"), "'net/dense'"),
        (Override("none", "conv_1"), "nearest are 'net/conv_1/Relu;net/conv_1/Conv'"),
        (Override("none", "*dense*", "SOFTMAX"), "matches none of the 1 layers"),
        (Override("none", None, "CONV_2"), "did you mean 'CONV_2D'"),
    ],
)
def test_a_pattern_that_matches_nothing_names_the_nearest(override: Override, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        resolve([override], LAYERS)


def test_the_flag_has_a_layer_and_a_precision() -> None:
    assert Override.parse("*dense*=none") == Override("none", "*dense*")
    assert Override.parse("a=b=int8") == Override("int8", "a=b")
    for text in ("dense", "=none"):
        with pytest.raises(UsageError, match="is not LAYER=PRECISION"):
            Override.parse(text)
    with pytest.raises(UnknownNameError, match="did you mean 'int8'"):
        Override.parse("dense=int9")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"layer": "x"}, "says no precision"),
        ({"precision": "none"}, "names neither"),
        ({"precision": "none", "layr": "x"}, "did you mean 'layer'"),
        ({"precision": "none", "layer": 3}, "is no name"),
        ({"precision": ["none"], "layer": "x"}, "is no name"),
    ],
)
def test_a_wrong_table_is_refused(table: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Override.from_dict(table)
