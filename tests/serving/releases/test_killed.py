"""A server that is killed, or told to stop, in the middle of loading: what the next one serves, and what is left."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from watching import PATIENCE_S, children, until

from edgeferry_runtime.bundle import Bundle

ROUNDS = int(os.environ.get("EDGEFERRY_FAULT_ROUNDS", "1"))

Release = Callable[..., Path]


class Server:
    """``ferry serve`` as a process of its own."""

    def __init__(self, *models: str, scratches: Path) -> None:
        anywhere = [f"--{kind}=0" for kind in ("port", "grpc-port", "management-port")]
        argv = [sys.executable, "-m", "edgeferry_runtime", "serve", "--no-access-log", *anywhere, *models]
        environment = {**os.environ, "TMPDIR": str(scratches)}
        self.process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=environment)
        self.end_of_patience = threading.Timer(PATIENCE_S, self.process.kill)
        self.end_of_patience.start()

    def until(self, words: str) -> str:
        """Read what it says until it says something."""
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            said.append(line)
            if words in line:
                return line
        raise AssertionError(f"it never said {words!r}, but {said}")

    def ask(self) -> float:
        """Ask ``m``, once it listens, and return the number of the release that answered."""
        url = self.until("HTTP on").split()[-1]
        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0, 0]}
        request = urllib.request.Request(f"{url}/v2/models/m/infer", json.dumps({"inputs": [tensor]}).encode())
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return float(json.load(answer)["outputs"][0]["data"][0])

    def child(self) -> int:
        """Wait for the process in which a release is proven."""
        child, *_ = until(lambda: children(self.process.pid))
        return child

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE_S)
        self.end_of_patience.cancel()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status


Start = Callable[..., Server]


@pytest.fixture
def start(scratches: Path) -> Iterator[Start]:
    """Start servers, which end with the test."""
    servers: list[Server] = []

    def begin(*models: str) -> Server:
        servers.append(Server(*models, scratches=scratches))
        return servers[-1]

    yield begin
    for server in servers:
        server.end(signal.SIGKILL)


def gone(pid: int) -> bool:
    """Tell whether a process has ended, waited for by its parent or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("moment", range(ROUNDS))
def test_killed_in_a_load_and_in_a_swap_and_stopped_in_another(
    release: Release, start: Start, scratches: Path, moment: int
) -> None:
    """The next server removes what the killed one left, and serves the release that counts."""
    pause = random.Random(moment).uniform(0, 0.5) if moment else 0
    folder = release(1)
    first = start(f"m={folder}")
    child = first.child()
    time.sleep(pause)
    first.end(signal.SIGKILL)
    until(lambda: gone(child))
    assert len(list(scratches.iterdir())) == 1

    second = start(f"m={folder}")
    id_of_one = (folder / "current").resolve().name
    assert second.until("m: version 1") == f"m: version 1, release {id_of_one[:12]}, answers\n"
    assert second.ask() == 1
    release(2)
    child = second.child()
    time.sleep(pause)
    second.end(signal.SIGKILL)
    until(lambda: gone(child))

    third = start(f"m={folder}")
    id_of_two = (folder / "current").resolve().name
    assert id_of_two != id_of_one
    assert third.until("m: version 1") == f"m: version 1, release {id_of_two[:12]}, answers\n"
    assert third.ask() == 2
    for name in (id_of_one, id_of_two):
        Bundle.open(folder / "releases" / name).check()
    release(3)
    child = third.child()
    third.process.terminate()
    assert third.process.stderr is not None
    assert "refused" not in third.process.stderr.read(), "what was broken off is not called a bad release"
    assert third.end(signal.SIGTERM) == 0
    until(lambda: gone(child))
    assert list(scratches.iterdir()) == []


def test_told_to_stop_in_a_load(release: Release, start: Start, scratches: Path) -> None:
    server = start(f"m={release(1)}")
    child = server.child()
    assert server.end(signal.SIGINT) == 0
    until(lambda: gone(child))
    assert list(scratches.iterdir()) == []
