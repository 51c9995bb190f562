"""A machine that gives no more, and clients by the thousand; 10,000 of them with ``EDGEFERRY_CONNECTIONS=10000``."""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import socket
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
from unruly import lets_in
from watching import until

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
COUNT = int(os.environ.get("EDGEFERRY_CONNECTIONS", "1000"))


def resident(pid: int) -> float:
    """Return a process's memory, MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024


def latency(server: Any, times: int = 50) -> float:
    """Return the median time of a request on one connection, ms."""
    taken = []
    with server.connect() as client:
        for _ in range(times):
            began = time.perf_counter()
            assert client.send(LIVE).answer().status == 200
            taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


def served(port: int, count: int) -> list[socket.socket]:
    """Open connections, each of which is answered once and then rests."""
    found: list[socket.socket] = []
    with selectors.DefaultSelector() as waiting:
        while len(found) < count or waiting.get_map():
            for _ in range(min(200, count - len(found))):
                found.append(socket.create_connection(("127.0.0.1", port), timeout=30))
                found[-1].sendall(LIVE)
                waiting.register(found[-1], selectors.EVENT_READ)
            for key, _ in waiting.select(30):
                assert key.fileobj.recv(4096).startswith(b"HTTP/1.1 200")  # type: ignore[union-attr]
                waiting.unregister(key.fileobj)
    return found


@pytest.fixture
def many() -> Any:
    """Let this process open as many files as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < COUNT + 500:
        pytest.skip(f"only {hard} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many")
def test_connections_at_rest_cost_little_and_slow_nobody(
    ferry: Any, slow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ferry(f"slow={slow}", "--no-access-log", "--idle-timeout", "5m") as server, contextlib.ExitStack() as resting:
        before, alone = resident(server.process.pid), latency(server)
        for sock in served(server.told["port"], COUNT):
            resting.callback(sock.close)
        during, among = resident(server.process.pid), latency(server)
        with capsys.disabled():
            print(
                f"\n{COUNT} connections: {before:.0f} MiB, then {during:.0f}: "
                f"{(during - before) * 1024 / COUNT:.1f} KiB each; p50 {alone:.2f} ms, then {among:.2f}"
            )
        assert server.figure("process_open_fds") > COUNT
        assert (during - before) * 1024 / COUNT < 40
        resting.close()
        until(lambda: server.figure("process_open_fds") < 100)
        assert server.stop() == 0


def test_without_files_for_more_it_answers_whom_it_has_and_recovers(ferry: Any, slow: Path) -> None:
    with ferry(f"slow={slow}", files=300) as server, server.connect() as friend:
        assert friend.send(LIVE).answer().status == 200
        with contextlib.ExitStack() as crowd:
            clients = [crowd.enter_context(server.connect()) for _ in range(600)]
            until(lambda: len(list(Path(f"/proc/{server.process.pid}/fd").iterdir())) >= 299)
            assert friend.send(LIVE).answer().status == 200
            assert {client.rest()[:12] for client in clients[250:]} <= {b"HTTP/1.1 503", b""}
        until(lambda: lets_in(server, LIVE))
        assert friend.send(LIVE).answer().status == 200
        assert server.infer(1.0).status == 200
        assert server.stop() == 0
