"""Boards that announce themselves, on loopback and for real."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import zeroconf

from edgeferry_devices import inventory
from edgeferry_devices.discovery import SSH, Board, boards, discover
from edgeferry_runtime.cli import main
from edgeferry_runtime.errors import EdgeferryError

LOOPBACK = ("127.0.0.1",)
SECONDS = 1.8
"""A second must lie between an announcement and the answer to a question for the same (RFC 6762, section 6)."""


@pytest.fixture
def announce() -> Iterator[Callable[..., None]]:
    """Announce services on loopback, as Avahi on a board does."""
    with zeroconf.Zeroconf(interfaces=list(LOOPBACK)) as board:

        def say(kind: str, name: str, host: str, port: int) -> None:
            address = socket.inet_aton("127.0.0.1")
            info = zeroconf.ServiceInfo(kind, f"{name}.{kind}", port, server=f"{host}.", addresses=[address])
            board.register_service(info, cooperating_responders=True)

        yield say


def test_a_board_is_found_with_all_that_it_announces(announce: Callable, wait_until: Callable) -> None:
    announce(SSH, "ferry test board", "ferrytest.local", 2222)
    announce("_workstation._tcp.local.", "ferrytest [b8:27:eb:00:00:01]", "ferrytest.local", 9)

    def heard() -> list[Board]:
        found = [board for board in discover(SECONDS, LOOPBACK) if board.host == "ferrytest.local"]
        return [board for board in found if len(board.services) == 2]

    (found,) = wait_until(heard)
    assert (found.name, found.port, found.addresses) == ("ferrytest", 2222, ("127.0.0.1",))
    assert found.services == ("ssh", "workstation")


def test_the_command(announce: Callable, capfd: pytest.CaptureFixture[str], wait_until: Callable) -> None:
    announce(SSH, "ferry one", "ferryone.local", 22)
    announce(SSH, "ferry two", "ferrytwo.local", 8022)
    inventory.add(inventory.Entry("mine", "ferryone.local", "pi"))

    def told(*options: str) -> tuple[str, str] | None:
        """Return what is printed, once both were heard."""
        with pytest.raises(SystemExit) as ended:
            main(["device", "discover", "--seconds", str(SECONDS), "--interface", "127.0.0.1", *options])
        out, err = capfd.readouterr()
        assert not ended.value.code
        return (out, err) if "ferryone" in out and "ferrytwo" in out else None

    out, err = wait_until(told)
    assert next(line for line in out.splitlines() if "ferryone" in line).endswith("mine")
    assert "ferry device add ferrytwo USER@ferrytwo.local:8022" in err
    assert "ferryone" not in err
    out, _ = wait_until(lambda: told("--json"))
    by_host = {board["host"]: board for board in json.loads(out)["boards"]}
    assert by_host["ferryone.local"]["device"] == "mine"
    assert by_host["ferrytwo.local"]["port"] == 8022


def test_nobody_there() -> None:
    assert [board for board in discover(0.2, LOOPBACK) if board.host.startswith("ferry")] == []


def test_no_such_interface() -> None:
    with pytest.raises(EdgeferryError, match="cannot be asked by mDNS"):
        discover(0.2, ("192.0.2.1",))


@pytest.mark.parametrize("host", ["pi\x1b[2J.local", "-oProxyCommand=id", "a b", "", "pi;id", "pi\n"])
def test_names_that_are_no_hosts_are_left_out(host: str) -> None:
    assert boards([SimpleNamespace(server=host, type=SSH, port=22, parsed_scoped_addresses=list)]) == []
