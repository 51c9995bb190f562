"""Few round trips to a device, and what happens where a server says no to what was sent ahead."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeferry_devices import provision
from edgeferry_devices.pushing import push
from edgeferry_devices.remote import RemoteDevice
from edgeferry_devices.route import resolve
from edgeferry_devices.ssh import Deadlines, connect
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import DeviceError

CALM = Deadlines(connect=5, banner=5, auth=5, channel=5, idle=5, attempts=2)


class SlowLine:
    """Carries bytes to a server with a delay, and counts how often the host spoke after it had heard something."""

    def __init__(self, upstream: int, delay: float) -> None:
        self.delay = delay
        self.turns = 0
        self.heard = True
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, args=(upstream,), daemon=True).start()

    def serve(self, upstream: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", upstream))
                threading.Thread(target=self.copy, args=(near, far, True), daemon=True).start()
                threading.Thread(target=self.copy, args=(far, near, False), daemon=True).start()

    def copy(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        with contextlib.suppress(OSError), source, target:
            while chunk := source.recv(1 << 16):
                self.turns += up and self.heard
                self.heard = not up
                time.sleep(self.delay)
                target.sendall(chunk)


@pytest.fixture
def slow_line(openssh: Any) -> Iterator[SlowLine]:
    line = SlowLine(openssh.port, 0.05)
    openssh.trust(line.port)
    yield line
    line.listener.close()


def test_a_push_of_what_is_there_takes_few_turns(openssh: Any, slow_line: SlowLine, root: Path, bundle: Bundle) -> None:
    """Versions, keys, who we are and a session, the command and its question, farewell; busy cores split some."""
    device = RemoteDevice(replace(openssh.entry(root), port=slow_line.port), CALM)
    push(bundle, device)
    device.close()
    slow_line.turns, slow_line.heard = 0, True
    assert push(bundle, device).up_to_date
    device.close()
    assert slow_line.turns <= 8


def test_a_question_that_is_too_long_for_a_command(pi: RemoteDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "LONGEST_QUESTION", 10)
    with pi.open_agent() as agent:
        assert agent.ask("space")["free_bytes"] > 0
        assert agent.ask("holder") == {}


def test_a_second_key_follows_one_that_was_refused(server: Any, tmp_path: Path, make_key: Callable) -> None:
    """The session that was asked for along with the first key is forgotten, and another one is opened."""
    make_key(tmp_path / "wrong")
    route = replace(resolve(server.entry("/unused")), keys=(tmp_path / "wrong", server.key))
    transport = connect(route, CALM)
    assert transport.went_ahead
    transport.session().close()
    transport.close()


def test_a_session_is_refused(openssh: Any, start_openssh: Callable[..., Any]) -> None:
    server = start_openssh("MaxSessions 0\n")
    server.trust()
    device = RemoteDevice(server.entry("/unused"), CALM)
    with pytest.raises(DeviceError, match="refused another session while"):
        device.exec(["true"])
    device.close()
