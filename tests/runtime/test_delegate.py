"""The grammar of ``--delegate``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_runtime.engines import Delegate, parse_delegates
from edgeferry_runtime.errors import UnknownNameError, UsageError

LIBRARY = Delegate("library", name="./libfoo.so", options=(("device", "usb:0"), ("level", "")))


@pytest.mark.parametrize(
    ("text", "delegate"),
    [
        ("cpu", Delegate("cpu")),
        ("cpu:4", Delegate("cpu", threads=4)),
        ("cpu:openvino", Delegate("cpu", name="openvino")),
        ("gpu", Delegate("gpu")),
        ("gpu:webgpu", Delegate("gpu", name="webgpu")),
        ("npu", Delegate("npu")),
        ("npu:openvino", Delegate("npu", name="openvino")),
        ("edgetpu", Delegate("edgetpu")),
        ("edgetpu:usb", Delegate("edgetpu", name="usb")),
        ("edgetpu:pci:1", Delegate("edgetpu", name="pci:1")),
        ("libfoo.so", Delegate("library", name="libfoo.so")),
        ("/opt/foo/libfoo", Delegate("library", name="/opt/foo/libfoo")),
        ("./libfoo.so?device=usb:0&level=", LIBRARY),
    ],
)
def test_the_grammar(text: str, delegate: Delegate) -> None:
    assert Delegate.parse(text) == delegate
    assert str(delegate) == text


@pytest.mark.parametrize("text", ["cpu:", "cpu:0", "cpu:-1", "cpu:x", "cpu:1.5", "cpu:9999", "cpu:1:2", "cpu:²"])
def test_wrong_thread_counts(text: str) -> None:
    with pytest.raises(UsageError, match="is no thread count"):
        Delegate.parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gppu", "did you mean 'gpu'"),
        ("", "valid are cpu, gpu, npu, edgetpu"),
        ("gpu,", "valid are cpu, gpu, npu, edgetpu"),
        ("gpu:webgl", "did you mean 'webgpu'"),
        ("npu:", "valid are"),
        ("edgetpu:ubs", "did you mean 'usb'"),
    ],
)
def test_unknown_names_list_the_valid_ones_and_the_nearest(text: str, said: str) -> None:
    with pytest.raises(UnknownNameError, match=said):
        parse_delegates(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("edgetpu:usb:", "is no unit number"),
        ("edgetpu:pci:x", "is no unit number"),
        ("./libfoo.so?a", "'a' is no option"),
        ("./libfoo.so?a=1&", "'' is no option"),
        ("./libfoo.so?=1", "'=1' is no option"),
        ("gpu,cpu,gpu", "names gpu twice"),
    ],
)
def test_what_is_outside_the_grammar(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_delegates(text)


def test_an_order_of_preference() -> None:
    assert parse_delegates("gpu, ./libfoo.so?a=b,cpu:2") == (
        Delegate("gpu"),
        Delegate("library", name="./libfoo.so", options=(("a", "b"),)),
        Delegate("cpu", threads=2),
    )


@pytest.mark.slow
@given(st.text(max_size=30))
def test_any_text_is_a_delegate_or_a_usage_error(text: str) -> None:
    try:
        delegate = Delegate.parse(text)
    except UsageError:
        return
    assert Delegate.parse(str(delegate)) == delegate
