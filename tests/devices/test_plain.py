"""What devices tell cannot drive a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeferry_devices.plain import plain


@given(st.text())
def test_nothing_is_left_that_a_terminal_obeys(text: str) -> None:
    shown = plain(text)
    assert len(shown) == len(text)
    assert shown.isprintable()
    assert plain(shown) == shown


def test_letters_stay_as_they_are() -> None:
    assert plain("größer 12 °C\x1b[2J\r\n") == "größer 12 °C?[2J??"
