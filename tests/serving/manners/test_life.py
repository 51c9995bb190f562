"""A server's life as a process: what it says when it listens, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import uvloop
from starlette.responses import Response
from unruly import Answer, Client
from watching import PATIENCE_S, until

from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.serving.notify import Notify
from edgeferry_runtime.serving.rest.listener import Place, bind, http_listener
from edgeferry_runtime.serving.settings import Limits
from edgeferry_runtime.serving.telling import Telling

HANGS = 1e9


def manager(address: str) -> socket.socket:
    """Listen as a service manager does."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind("\0" + address[1:] if address.startswith("@") else address)
    sock.settimeout(PATIENCE_S)
    return sock


def test_it_ends_after_what_is_in_flight_and_tells_its_manager(ferry: Any, slow: Path, tmp_path: Path) -> None:
    address, told = str(tmp_path / "notify"), []
    watched = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "100000"}
    with manager(address) as heard, ferry(f"slow={slow}", environment=watched) as server:
        listener = threading.Thread(target=lambda: told.extend(iter(lambda: heard.recv(100), b"over")))
        listener.start()
        with ThreadPoolExecutor(3) as threads, server.connect() as resting:
            resting.send(b"GET /v2/health/live HTTP/1.1\r\n\r\n").answer()
            answers = [threads.submit(server.infer, 12.0) for _ in range(3)]
            until(lambda: server.figure("edgeferry_queue_length") == 3)
            assert server.stop() == 0
            assert [answer.result().status for answer in answers] == [200, 200, 200]
            assert resting.rest() == b""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"over", address)
        listener.join()
        assert told[0] == b"READY=1"
        assert told.count(b"STOPPING=1") == 1
        assert set(told[told.index(b"STOPPING=1") + 1 :]) == {b"WATCHDOG=1"}, "what is being finished is alive"
        assert "SIGTERM: finishing what is in flight, for 30 s at most" in server.stderr.read_text()
        with pytest.raises(ConnectionRefusedError):
            server.connect()


def test_a_model_that_hangs_stops_the_signs_of_life_and_holds_no_exit(ferry: Any, slow: Path) -> None:
    address = f"@edgeferry-{os.getpid()}-{time.monotonic_ns()}"
    watched = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"}
    limits = ("--timeout", "0.5", "--drain", "0.3", "--workers", "1")
    with manager(address) as heard, ferry(f"slow={slow}", *limits, environment=watched) as server:
        assert heard.recv(100) == b"READY=1"
        assert heard.recv(100) == heard.recv(100) == b"WATCHDOG=1"
        assert server.infer(HANGS).status == 504
        heard.settimeout(1)
        until(lambda: silent(heard))
        assert server.ask("/v2/health/live").status == 200
        began = time.monotonic()
        assert server.stop() == 1
        assert time.monotonic() - began < 10
        assert "ended with work unfinished" in server.stderr.read_text()


def silent(sock: socket.socket) -> bool:
    try:
        return not sock.recv(100)
    except TimeoutError:
        return True


def test_what_is_in_flight_too_long_is_told_so(ferry: Any, slow: Path) -> None:
    with ferry(f"slow={slow}", "--drain", "0.3") as server, ThreadPoolExecutor(1) as threads:
        answer = threads.submit(server.infer, HANGS)
        until(lambda: server.figure("edgeferry_queue_length") == 1)
        assert server.stop(signal.SIGINT) == 1
        assert answer.result().status == 503
        assert "about to stop" in answer.result().error


def test_a_second_signal_ends_it_at_once(ferry: Any, slow: Path) -> None:
    with ferry(f"slow={slow}") as server, server.connect() as client:
        tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [HANGS]}
        body = json.dumps({"inputs": [tensor]}).encode()
        client.send(b"POST /v2/models/slow/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body), body)
        until(lambda: server.figure("edgeferry_queue_length") == 1)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: "finishing" in server.stderr.read_text())
        assert server.stop() == 128 + signal.SIGTERM
        assert "once more" in server.stderr.read_text()


@pytest.mark.parametrize("where", ["@edgeferry-{}", "{}/notify"])
def test_a_loop_that_stands_gives_no_sign_of_life(where: str, tmp_path: Path) -> None:
    address = where.format(f"{tmp_path}")
    with manager(address) as heard:
        notify = Notify({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "40000", "WATCHDOG_PID": str(os.getpid())})
        loop = asyncio.new_event_loop()
        task = loop.create_task(notify.watch(lambda: True))
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        assert heard.recv(100) == heard.recv(100) == b"WATCHDOG=1"
        stands, goes_on = threading.Event(), threading.Event()

        def stand() -> None:
            heard.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    heard.recv(100)
            stands.set()
            goes_on.wait(PATIENCE_S)

        loop.call_soon_threadsafe(stand)
        assert stands.wait(PATIENCE_S)
        heard.settimeout(0.3)
        with pytest.raises(TimeoutError):
            heard.recv(100)
        goes_on.set()
        heard.settimeout(PATIENCE_S)
        assert heard.recv(100) == b"WATCHDOG=1"
        loop.call_soon_threadsafe(task.cancel)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()
        notify.close()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NOTIFY_SOCKET": "/nowhere"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "often"},
        {"WATCHDOG_USEC": "1000000"},
    ],
)
def test_without_a_manager_nobody_is_told_and_nothing_fails(environment: dict[str, str]) -> None:
    notify = Notify(environment)
    notify.tell("READY=1")
    assert notify.watchdog_s is None
    notify.close()


def test_streams_that_are_closed_or_full_stop_nothing(ferry: Any, slow: Path) -> None:
    read, write = os.pipe()
    with os.fdopen(read), os.fdopen(write, "w") as full, ferry(f"slow={slow}", stderr=full) as server:
        server.process.stdout.close()
        with server.connect() as client:
            for _ in range(8):
                client.send(b"GET /v2/health/live HTTP/1.1\r\n\r\n" * 50)
                assert all(client.answer().status == 200 for _ in range(50))
        assert server.infer(1.0).status == 200
        assert server.stop() == 0


def test_a_shell_that_closed_all_streams_gets_a_server(slow: Path, tmp_path: Path) -> None:
    """Nothing that the server opens takes the place of stderr."""
    address = str(tmp_path / "notify")
    line = '"$0" -m edgeferry_runtime serve slow="$1" --port 0 --no-grpc --no-management <&- >&- 2>&- & echo $!'
    with manager(address) as heard:
        environment = {**os.environ, "NOTIFY_SOCKET": address}
        done = subprocess.run(
            ["sh", "-c", line, sys.executable, str(slow)], capture_output=True, text=True, env=environment, check=True
        )
        pid = int(done.stdout)
        try:
            assert heard.recv(100) == b"READY=1"
            assert {Path(f"/proc/{pid}/fd/{number}").resolve() for number in range(3)} == {Path("/dev/null")}
        finally:
            os.kill(pid, signal.SIGTERM)
        assert heard.recv(100) == b"STOPPING=1"
        until(lambda: not Path(f"/proc/{pid}/fd/0").exists())


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (Place("127.0.0.1", 0, "--management-port"), "--management-port {}: is taken on 127.0.0.1"),
        (Place("no.such.host.invalid", 0), "--host no.such.host.invalid: is unknown"),
        (Place("192.0.2.1", 0), "--host 192.0.2.1: is no address of this machine"),
    ],
)
def test_a_place_that_cannot_be_taken_names_its_option(place: Place, said: str) -> None:
    with bind(Place("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EdgeferryError) as raised:
            bind(Place(place.host, port, place.option))
        assert str(raised.value).startswith(said.format(port))


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def test_who_comes_before_there_is_an_answer_waits_for_it(loop: Any) -> None:
    async def answer_late(sock: socket.socket, client: Client) -> Answer:
        async with http_listener(Response(b"here"), Telling(None), Limits(), sock):
            return await asyncio.to_thread(client.answer)

    sock = bind(Place("127.0.0.1", 0))
    with contextlib.closing(loop()) as ours, sock, Client(sock.getsockname()[1]) as client:
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert ours.run_until_complete(answer_late(sock, client)).body == b"here"


def test_a_port_that_belongs_to_root_names_its_option(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(EdgeferryError, match="--port 80: may only be taken by root"):
        bind(Place("127.0.0.1", 80))


def test_help_imports_no_server() -> None:
    code = "import sys; from edgeferry_runtime.commands.serve import serve; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"starlette", "uvicorn", "uvloop", "grpc", "prometheus_client", "asyncio"} & set(found)
