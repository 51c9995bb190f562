"""What ``ferry serve`` is told about listening."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from edgeferry_runtime.cli import ferry
from edgeferry_runtime.commands.serve_options import listening_options, take_address, take_limits
from edgeferry_runtime.errors import EdgeferryError, UsageError
from edgeferry_runtime.quantities import parse_size
from edgeferry_runtime.serving.descriptors import make_room
from edgeferry_runtime.serving.settings import Address, Limits


def told(*args: str) -> tuple[Address, Limits]:
    """Return what the options come to."""
    found = []

    @click.command()
    @listening_options
    def command(**options: object) -> None:
        found.extend([take_address(options), take_limits(options)])

    command.main(list(args), standalone_mode=False)
    address, limits = found
    return address, limits


def test_without_options_everything_is_as_the_settings_say() -> None:
    assert told() == (Address(), Limits())


def test_each_option_reaches_its_setting(tmp_path: Path) -> None:
    address, limits = told(
        *("--host", "::1", "--port", "0", "--no-grpc", "--no-management", "--tls-cert", "a.pem", "--tls-key", "b.pem"),
        *("--timeout", "1m30s", "--max-body", "1MiB", "--max-tensor", "2 MB", "--idle-timeout", "5", "--drain", "0.5"),
    )
    assert address == Address("::1", 0, None, None, Path("a.pem"), Path("b.pem"))
    assert limits == Limits(1 << 20, 2_000_000, timeout_s=90, idle_s=5, drain_s=0.5)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--tls-cert", "a.pem"), "--tls-cert: says nothing without --tls-key"),
        (("--tls-key", "a.pem"), "--tls-key: says nothing without --tls-cert"),
        (("--token-file", "/nowhere"), "--token-file /nowhere: no such file; make one: openssl rand"),
        (("--max-body", "much"), "--max-body: 'much' is no size; give a number and one of B, kB"),
        (("--timeout", "0"), "--timeout: is no time at all; give one such as 30s"),
        (("--drain", "soon"), "--drain: 'soon' is no length of time"),
    ],
)
def test_what_cannot_be_is_named(args: tuple[str, ...], said: str) -> None:
    with pytest.raises(EdgeferryError) as raised:
        told(*args)
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize("args", [("--port", "65536"), ("--grpc-port", "-1"), ("--management-port", "x")])
def test_a_port_is_a_number_that_can_be_one(args: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError) as raised:
        told(*args)
    assert args[0] in raised.value.format_message()


def test_certificates_are_looked_at_before_models(tmp_path: Path) -> None:
    for name in ("cert", "key"):
        (tmp_path / name).write_text("no PEM")
    line = ["serve", f"x={tmp_path}", "--tls-cert", str(tmp_path / "cert"), "--tls-key", str(tmp_path / "key")]
    with pytest.raises(UsageError, match=r"--tls-cert .* cannot be used with"):
        ferry.main(line, standalone_mode=False)


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("1", 1), ("32MiB", 32 << 20), ("1.5 kB", 1500), ("2GB", 2 * 10**9), ("10B", 10)],
)
def test_sizes(text: str, bytes_: int) -> None:
    assert parse_size(text) == bytes_


@pytest.mark.parametrize("text", ["", "0", "-1", "1 mb", "0.4B", "1e3", "9999999999GiB", "MiB", "1MiB2", "٣B"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="is no size"):
        parse_size(text, "--max-body")


def test_there_is_room_for_what_is_asked_or_for_less() -> None:
    assert make_room(10) == 10
    assert 0 < make_room(10**12) < 10**12
