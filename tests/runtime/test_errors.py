"""Errors: a tree that says what it says it is, in one line each, whole after a pickle."""

from __future__ import annotations

import inspect
import pickle

import pytest

from edgeferry_runtime import errors
from edgeferry_runtime.errors import EdgeferryError

LEAVES = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, EdgeferryError)]
ARGUMENTS = {
    errors.UnknownNameError: ("--to", "onxn", ("tflite", "onnx")),
    errors.MissingExtraError: ("model.onnx", "onnx", "onnxruntime"),
    errors.RemoteCommandError: ("pi", ("ls", "-l"), 2, "", "no such file\n"),
}


def make(kind: type[EdgeferryError]) -> EdgeferryError:
    return kind(*ARGUMENTS.get(kind, ("model.tflite", "is truncated", "copy it again")))


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_pickle_keeps_everything(kind: type[EdgeferryError]) -> None:
    error = make(kind)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_docstring_tree_lists_every_class_with_its_builtin(kind: type[EdgeferryError]) -> None:
    tree = errors.__doc__ or ""
    line = next(line for line in tree.splitlines() if f" {kind.__name__}" in f" {line.strip('│├└─ ')}")
    for base in kind.__bases__:
        if not issubclass(base, EdgeferryError) and base is not Exception:
            assert f"({base.__name__})" in line


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_message_is_one_line_of_subject_reason_and_fix(kind: type[EdgeferryError]) -> None:
    error = make(kind)
    assert str(error) == f"{error.subject}: {error.reason}; {error.fix}"
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.UsageError, 2),
        (errors.UnknownNameError, 2),
        (errors.DataError, 1),
        (errors.EngineCrashError, 1),
        (errors.VerificationError, 3),
        (errors.UnreachableError, 4),
        (errors.RemoteCommandError, 4),
    ],
)
def test_exit_codes(kind: type[EdgeferryError], code: int) -> None:
    assert make(kind).exit_code == code


def test_unknown_name_lists_valid_ones_and_the_nearest() -> None:
    error = make(errors.UnknownNameError)
    assert "did you mean 'onnx'?" in str(error)
    assert "tflite, onnx" in str(error)


def test_unknown_name_far_from_all_names_none() -> None:
    assert "did you mean" not in str(errors.UnknownNameError("--to", "zzz", ("tflite", "onnx")))


def test_missing_extra_prints_the_pip_line() -> None:
    assert "pip install 'edgeferry[onnx]'" in str(make(errors.MissingExtraError))


def test_remote_command_carries_its_facts() -> None:
    error = make(errors.RemoteCommandError)
    assert isinstance(error, errors.RemoteCommandError)
    assert (error.host, error.command, error.exit_status, error.stderr) == ("pi", ("ls", "-l"), 2, "no such file\n")
    assert "no such file" in str(error)


def test_callers_catch_the_builtin_they_expect() -> None:
    with pytest.raises(FileNotFoundError):
        raise make(errors.MissingFileError)
    with pytest.raises(ValueError, match="truncated"):
        raise make(errors.CorruptFileError)
    with pytest.raises(ConnectionError):
        raise make(errors.UnreachableError)
