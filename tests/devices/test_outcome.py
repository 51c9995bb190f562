"""What came of devices, and of the whole."""

from __future__ import annotations

import pytest

from edgeferry_devices.outcome import KINDS, Outcome, exit_code, summary
from edgeferry_runtime import errors
from edgeferry_runtime.errors import EdgeferryError, NotTriedError, UnreachableError, UsageError, VerificationError


def failed(name: str, kind: type[EdgeferryError] = UnreachableError) -> Outcome[int]:
    return Outcome(name, error=kind(name, "is so", "do that"))


LEFT: Outcome[int] = Outcome("left", error=NotTriedError("left", "was not tried", "mend"))


def test_result_is_the_value_or_the_error() -> None:
    assert Outcome("pi", 3).result() == 3
    with pytest.raises(UnreachableError):
        failed("pi").result()
    with pytest.raises(NotTriedError):
        LEFT.result()


@pytest.mark.parametrize(
    ("outcomes", "line", "code"),
    [
        ([], "0 of 0 succeeded", 0),
        ([Outcome("a", 1), Outcome("b", 2)], "2 of 2 succeeded", 0),
        ([Outcome("a", 1), failed("b")], "1 of 2 succeeded; failed: 1 (unreachable: b)", 4),
        (
            [failed("a", VerificationError), failed("b"), Outcome("c", 0), failed("d", VerificationError)],
            "1 of 4 succeeded; failed: 3 (probe failed: a, d; unreachable: b)",
            3,
        ),
        ([failed("a", UsageError), LEFT], "0 of 2 succeeded; failed: 1 (failed: a); not tried: 1 (left)", 2),
        ([LEFT], "0 of 1 succeeded; not tried: 1 (left)", 0),
    ],
)
def test_summary_and_exit_code(outcomes: list[Outcome[int]], line: str, code: int) -> None:
    assert (summary(outcomes), exit_code(outcomes)) == (line, code)


def test_every_device_error_has_words_of_its_own() -> None:
    leaves = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.DeviceError)]
    words = [next(words for kind, words in KINDS if issubclass(leaf, kind)) for leaf in leaves]
    assert len(set(words)) == len(leaves) > 5


def test_json_form() -> None:
    assert Outcome("pi", 3).error_dict() is None
    assert failed("pi").error_dict() == {"kind": "unreachable", "reason": "is so", "fix": "do that", "exit_code": 4}
    assert LEFT.error_dict() == {"kind": "not tried", "reason": "was not tried", "fix": "mend", "exit_code": 0}
