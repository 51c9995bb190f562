"""The program that the user gives is the one that was meant, or goes nowhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edgeferry_devices.foreign.binary import check_binary
from edgeferry_runtime.errors import MissingFileError, UnsafeFileError, UsageError


def test_the_right_hash_in_either_case(tmp_path: Path) -> None:
    program = tmp_path / "benchmark_model"
    program.write_bytes(b"\x7fELF")
    digest = hashlib.sha256(b"\x7fELF").hexdigest()
    assert check_binary(program, digest.upper()).sha256 == check_binary(program, digest).sha256 == digest


def test_another_hash_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "benchmark_model"
    program.write_bytes(b"\x7fELF")
    with pytest.raises(UnsafeFileError, match=f"not {64 * '0'}; do not run it"):
        check_binary(program, 64 * "0")


def test_no_hash_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "benchmark_model"
    program.touch()
    with pytest.raises(UsageError, match="give --benchmark-sha256 HEX"):
        check_binary(program, None)


@pytest.mark.parametrize("text", ["", "abc", "g" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n"])
def test_what_is_no_hash(tmp_path: Path, text: str) -> None:
    program = tmp_path / "benchmark_model"
    program.touch()
    with pytest.raises(UsageError, match="is no SHA-256"):
        check_binary(program, text)


def test_no_such_program(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="--benchmark-binary"):
        check_binary(tmp_path, "a" * 64)
