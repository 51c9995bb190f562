"""The keeper in the background: it starts again what fails, gives up at last, and keeps the log short."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeferry_runtime.device_service import background, keeper
from edgeferry_runtime.device_service.background import Background
from edgeferry_runtime.device_service.config import Config, Server
from edgeferry_runtime.errors import EdgeferryError

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
CONFIG = Config(Server(drain_s=-14.5), "background", "")
Keep = Callable[[str], Background]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


@pytest.fixture
def keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keep]:
    """Keep a program of Python running in the place of the server."""
    kept = Background(tmp_path)

    def start(program: str) -> Background:
        monkeypatch.setattr(background, "command", lambda root, server: [sys.executable, "-c", program])
        CONFIG.write(tmp_path)
        kept.start(CONFIG)
        return kept

    yield start
    kept.stop()


def said(kept: Background, line: str) -> Callable[[], bool]:
    return lambda: line in kept.log(50)


def test_it_outlives_us_in_a_session_of_its_own_and_ends_when_told(keep: Keep, program: Callable) -> None:
    phone_asked = program("termux-wake-lock")
    kept = keep("import time; print('up', flush=True); time.sleep(600)")
    until(said(kept, "up"))
    assert phone_asked() == [""]
    pid = kept.pid()
    assert pid is not None
    assert os.getsid(pid) == os.getpgid(pid) != os.getpgid(0)
    kept.start(CONFIG)
    assert kept.pid() == pid, "there are two"
    kept.stop()
    assert (kept.pid(), kept.failure()) == (None, "it ended")
    kept.stop()


def test_its_temporary_files_are_beside_it_and_our_token_is_not(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEFERRY_TOKEN", "a token of ours")
    kept = keep("import os; print(os.environ['TMPDIR'], 'EDGEFERRY_TOKEN' in os.environ, flush=True)")
    until(said(kept, f"{kept.folder} False"))


def test_those_who_look_do_not_mistake_each_other_for_it(keep: Keep) -> None:
    kept = keep("import time; time.sleep(600)")
    kept.stop()
    with (kept.folder / "running").open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert kept.pid() is None


def test_what_ran_before_is_forgotten_at_the_start(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = keep("pass")
    kept.stop()
    monkeypatch.setattr(background, "child_command", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(EdgeferryError, match="could not be started"):
        kept.start(CONFIG)
    assert (kept.folder / "running").read_text().strip() == ""


def test_what_does_not_end_is_killed(keep: Keep) -> None:
    kept = keep(STUBBORN)
    until(said(kept, "up"))
    kept.stop()
    assert kept.pid() is None


def parent_of(pid: int | None) -> int:
    return int(re.search(r"^PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)[1])


def test_the_server_of_a_keeper_that_was_killed_is_known_and_ended(keep: Keep) -> None:
    kept = keep(STUBBORN)
    until(said(kept, "up"))
    server = kept.pid()
    (keeper_of_it,) = {parent_of(server)} - {1, os.getpid()}
    os.kill(keeper_of_it, signal.SIGKILL)
    until(lambda: parent_of(server) != keeper_of_it)
    assert kept.pid() == server, "it holds the lock"
    kept.stop()
    assert kept.pid() is None


def test_a_number_that_another_process_has_now_is_left_alone(keep: Keep) -> None:
    kept = keep("import time; time.sleep(600)")
    kept.stop()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as other:
        (kept.folder / "running").write_text(json.dumps({"group": other.pid, "failed": ""}))
        assert kept.pid() is None
        kept.stop()
        assert other.poll() is None


def test_what_fails_is_started_again_and_given_up_at_last(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "child_command", lambda module, function, *words: _hasty(words))
    kept = keep("print('up', flush=True); raise SystemExit(7)")
    until(lambda: kept.pid() is None)
    assert kept.log(50).count("up") == keeper.BURST
    assert kept.failure() == "it ended with status 7"


def _hasty(words: tuple[str, ...]) -> list[str]:
    module = "from edgeferry_runtime.device_service import keeper; keeper.RESTART_S = 0.01; import sys"
    return [sys.executable, "-c", f"{module}; sys.exit(keeper.main(*sys.argv[1:]))", *words]


def test_a_signal_is_a_failure_and_a_good_end_is_none(keep: Keep) -> None:
    kept = keep("import os; os.kill(os.getpid(), 9)")
    until(lambda: kept.failure() == "signal 9 ended it")
    kept.stop()
    kept = keep("pass")
    until(lambda: kept.pid() is None)
    assert kept.failure() == "it ended"


def test_what_is_said_of_reboots(program: Callable) -> None:
    kept = Background(Path("/data/data/com.termux/files/home/.local/share/edgeferry"))
    assert "Termux:Boot" in kept.notes()[0]
    assert kept.notes()[0].endswith("termux-wake-lock")
    program("termux-wake-lock")
    assert "termux-wake-lock" not in kept.notes()[0]
    assert "since this account has no systemd" in Background(Path("/home/pi")).notes()[0]


def test_the_log_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "LOG_BYTES", 1000)
    folder = tmp_path / "service"
    assert Background(tmp_path).log(2) == []
    folder.mkdir()
    for i in range(100):
        keeper.Keeper(folder, []).keep(b"%090d\n" % i)
    assert {path.name: path.stat().st_size <= 1000 for path in folder.iterdir()} == {"log": True, "log.1": True}
    assert Background(tmp_path).log(2) == [f"{98:090d}", f"{99:090d}"]


def test_a_keeper_that_cannot_start_is_said(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "child_command", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(EdgeferryError, match="the service: could not be started; look: ferry service logs"):
        keep("pass")
