"""Where the token comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeferry_runtime.errors import EdgeferryError, MissingFileError
from edgeferry_runtime.serving.settings import Address
from edgeferry_runtime.serving.token import VARIABLE, find_token, permits

TOKEN = "0123456789abcdef-._~+/="


def private(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_private_file_holds_it(tmp_path: Path) -> None:
    assert find_token(private(tmp_path / "token", f"{TOKEN}\n"), {}) == TOKEN


def test_the_environment_holds_it_and_loses_it() -> None:
    environment = {VARIABLE: TOKEN, "HOME": "/"}
    assert find_token(None, environment) == TOKEN
    assert environment == {"HOME": "/"}


def test_there_may_be_none() -> None:
    assert find_token(None, {}) is None
    assert permits(None, None)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = private(tmp_path / "token", TOKEN, mode)
    with pytest.raises(EdgeferryError, match=f"can be read by others .mode {mode:o}.; run: chmod 600 {path}"):
        find_token(path, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has 0 characters"),
        ("short", "has 5 characters, fewer than 16"),
        ("with spaces in the middle", "holds other characters"),
        ("ünïcödé-ünïcödé-ünïcödé", "holds other characters"),
        (f"{TOKEN}\n{TOKEN}", "holds other characters"),
    ],
)
def test_what_is_no_token_is_refused_and_not_shown(tmp_path: Path, text: str, said: str) -> None:
    for file, environment in ((private(tmp_path / "token", text), {}), (None, {VARIABLE: text})):
        with pytest.raises(EdgeferryError, match=f"{said}.*openssl rand") as raised:
            find_token(file, environment)
        assert len(text) < 6 or text not in str(raised.value)


def test_one_place_is_enough(tmp_path: Path) -> None:
    with pytest.raises(EdgeferryError, match=f"together with .{VARIABLE}"):
        find_token(private(tmp_path / "token", TOKEN), {VARIABLE: TOKEN})
    with pytest.raises(MissingFileError, match="no such file"):
        find_token(tmp_path / "nowhere", {})


@pytest.mark.parametrize(
    ("header", "open"),
    [
        (f"Bearer {TOKEN}", True),
        (f"BEARER {TOKEN} ", True),
        (f"Bearer {TOKEN}".encode(), True),
        (f"Bearer\t{TOKEN}", False),
        ("Bearer \udcff", False),
        ("", False),
        (None, False),
    ],
)
def test_metadata_and_headers_are_read_alike(header: str | bytes | None, open: bool) -> None:
    assert permits(TOKEN, header) is open


def test_settings_do_not_show_it() -> None:
    assert TOKEN not in repr(Address(token=TOKEN))
