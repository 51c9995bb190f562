"""``[step.teach]`` of a recipe."""

from pathlib import Path
from typing import Any

import pytest

from edgeferry_converter.compress.methods.teaching import Match, Teach
from edgeferry_converter.compress.recipe import CompressRecipe
from edgeferry_runtime.errors import UnknownNameError, UsageError


def test_is_read() -> None:
    table = {
        "teacher": "big.py:make",
        "weights": "big.safetensors",
        "soft": 0.9,
        "temperature": 3,
        "hints": [{"student": "a", "teacher": "b", "weight": 2}],
        "attention": [{"student": "a", "teacher": "b"}],
    }
    found = Teach.from_dict(table, Path("here"))
    expected = ("here/big.py:make", "here/big.safetensors", 0.9, 3, (Match("a", "b", 2),), (Match("a", "b"),))
    assert found == Teach(*expected)
    assert Teach.from_dict({"teacher": "source"}, Path("here")) == Teach()


def test_a_step_that_only_distills_learns_from_the_source() -> None:
    steps = CompressRecipe.from_dict(
        {"step": [{"method": "distill"}, {"method": "distill", "teach": {"soft": 1}}]}
    ).step
    assert (steps[0].teach, steps[1].teach) == (Teach(), Teach(soft=1))


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ({"soft": 2}, UsageError, "teach.soft: 2 is out of range"),
        ({"temperature": 0}, UsageError, "teach.temperature: 0 is out of range"),
        ({"heat": 2}, UnknownNameError, "unknown name 'heat'"),
        ({"teacher": 3}, UsageError, "teach.teacher: 3 is no path"),
        ({"weights": "w.pt"}, UsageError, "teach.weights: the teacher source brings its own"),
        ({"soft": 0}, UsageError, "nothing is taught; raise soft"),
        ({"hints": {"student": "a"}}, UsageError, "is no list; write hints = "),
        ({"hints": ["a"]}, UsageError, "'a' is no table; write hints = "),
        ({"attention": [{"student": "a"}]}, UsageError, "does not name a layer of each side"),
        ({"hints": [{"student": "a", "teacher": "b", "wait": 1}]}, UnknownNameError, "did you mean 'weight'"),
        ({"hints": [{"student": "a", "teacher": "b", "weight": -1}]}, UsageError, "-1 is out of range"),
        ({"hints": [{"student": "a", "teacher": b} for b in "bc"]}, UsageError, "'a' is there twice"),
    ],
)
def test_what_does_not_fit_is_refused(table: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Teach.from_dict(table, Path())


def test_a_teacher_that_is_no_table_is_refused() -> None:
    with pytest.raises(UsageError, match=r"recipe key 'teach': is no table; write it as \[step\.teach\]"):
        CompressRecipe.from_dict({"step": [{"method": "distill", "teach": "big.keras"}]})
