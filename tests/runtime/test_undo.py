"""What is undone, and what then goes on."""

from __future__ import annotations

import pytest

from edgeferry_runtime.undo import undo_on_error


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_every_error_is_undone_and_goes_on(error: BaseException) -> None:
    undone: list[str] = []
    with pytest.raises(type(error)) as raised, undo_on_error(lambda: undone.append("once")):
        raise error
    assert raised.value is error
    assert undone == ["once"]


def test_what_ends_well_stays() -> None:
    def body() -> str:
        with undo_on_error(lambda: pytest.fail("undone")):
            return "kept"

    assert body() == "kept"


def test_the_last_is_undone_first() -> None:
    undone: list[int] = []
    outer, inner = (undo_on_error(lambda i=i: undone.append(i)) for i in (1, 2))
    with pytest.raises(OSError, match="full"), outer, inner:
        raise OSError("full")
    assert undone == [2, 1]
