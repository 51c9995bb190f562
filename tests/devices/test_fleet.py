"""``ferry deploy`` to a fleet, canaries, and runs that were cut, as a user types them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeferry_devices import groups, history, hostkeys, inventory, journal, runs
from edgeferry_devices.hostkeys import HostKey
from edgeferry_devices.inventory import Inventory
from edgeferry_runtime.bundle import Bundle

Ferry = Callable[..., tuple[int, str, str]]
Boards = Callable[..., list[Path]]
PATIENT = """\
import functools, sys
from edgeferry_devices import ssh
from edgeferry_runtime.cli import main
ssh.Deadlines = functools.partial(ssh.Deadlines, banner=120)
main(sys.argv[1:])
"""
"""What waits longer for a deaf device than a test takes."""


@pytest.fixture
def deaf() -> Iterator[inventory.Entry]:
    """A device that takes connections and says nothing, so that a command on it hangs until it is cut."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield inventory.Entry("deaf", "127.0.0.1", port=listener.getsockname()[1])


def start(*argv: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PATIENT, *map(str, argv)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def succeeded() -> set[str]:
    return {device for run in runs.runs() for device, kind in run.ended.items() if not kind}


def current(root: Path) -> str:
    return (root / "bundles/tiny/current").resolve().name


def mend(entry: inventory.Entry, like: str) -> None:
    """Give a device in the inventory the address and the folder of another."""
    found = inventory.load()
    healthy = replace(found.devices[like], name=entry.name)
    inventory.save(Inventory({**found.devices, entry.name: healthy}, found.groups))


def test_a_fleet_is_told_by_lines_and_a_summary(ferry: Ferry, boards: Boards, bundle: Bundle) -> None:
    roots = boards("a", "b")
    inventory.add(inventory.Entry("gone", "127.0.0.1", port=1, tags=("web",)))
    groups.set_group("web", ["b", "a"])
    code, out, err = ferry("deploy", bundle.path, "--on", "@web")
    assert code == 4
    assert [line.split()[0] for line in out.splitlines()] == ["device", "b", "a"]
    lines = err.splitlines()
    assert lines[-2].startswith("ferry: error: gone: 127.0.0.1 port 1 refuses")
    assert lines[-1] == "2 of 3 succeeded; failed: 1 (unreachable: gone)"
    assert all(line.split(":")[0] in ("a", "b", "gone", "ferry") for line in lines[:-1])
    assert [current(root) for root in roots] == [bundle.id] * 2
    told = json.loads(ferry("deploy", bundle.path, "all", "--json")[1])["deployments"]
    assert [(each["device"], bool(each["push"])) for each in told] == [("a", True), ("b", True), ("gone", False)]
    assert told[2]["error"]["kind"] == "unreachable"


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        ((), "no device was named"),
        (("@web",), "unknown name '@web'"),
        (("@",), "tag '': is not a name"),
        (('it\'s "a"',), "unknown name"),
        (("new\nline",), "unknown name"),
        (("../up",), "unknown name"),
        (("--on", "-rf"), "unknown name '-rf'"),
        (("all",), "all: stands for no device"),
        (("local", "--jobs", "0"), "0 is not in the range"),
        (("local", "--canary", "-1"), "unknown name '-1'"),
        (("--canary", "local"), "'local' is not a valid integer range"),
    ],
)
def test_what_cannot_be_deployed_to(ferry: Ferry, bundle: Bundle, argv: tuple[str, ...], why: str) -> None:
    code, out, err = ferry("deploy", bundle.path, *argv)
    assert (code, out) == (2, "")
    assert why in err
    assert runs.runs() == []


def test_a_canary_saves_the_fleet_and_resume_tries_it_again(
    ferry: Ferry, boards: Boards, bundle: Bundle, make_bundle: Callable[..., Bundle]
) -> None:
    roots = boards("a", "b", "c")
    assert ferry("deploy", bundle.path, "all")[0] == 0
    bad = make_bundle(wrong=0.5)
    code, out, err = ferry("deploy", bad.path, "all", "--canary")
    assert (code, out) == (3, "")
    assert err.splitlines()[-1] == "0 of 3 succeeded; failed: 1 (probe failed: a); not tried: 2 (b, c)"
    assert err.count("ferry: error:") == 1
    for _ in range(2):
        code, out, err = ferry("fleet", "resume", "--json")
        assert code == 3
        assert "ferry deploy on 3 of 3 devices" in err
        assert [each["error"]["kind"] for each in json.loads(out)["deployments"]] == [
            "probe failed",
            "not tried",
            "not tried",
        ]
    assert [current(root) for root in roots] == [bundle.id] * 3
    listed = json.loads(ferry("fleet", "runs", "--json")[1])["runs"]
    assert [(run["state"], len(run["left"])) for run in listed] == [("complete", 0), ("failed", 3)]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_cut_is_picked_up(
    ferry: Ferry, boards: Boards, bundle: Bundle, deaf: inventory.Entry, how: signal.Signals, wait_until: Callable
) -> None:
    """The canaries are a, which passes, and one that hangs; b and c are not begun."""
    roots = boards("a", "b", "c", "spare")
    inventory.add(deaf)
    argv = ("deploy", bundle.path, "a", "deaf", "b", "c", "--canary", "2", "--delegate", "cpu:1")
    with start(*argv) as process:
        wait_until(lambda: "a" in succeeded() or process.poll() is not None)
        code, _, err = ferry("fleet", "resume")
        assert (code, "is being performed by another process" in err) == (2, True)
        assert "running" in ferry("fleet", "runs")[1]
        cut = time.monotonic()
        process.send_signal(how)
        err = process.communicate(timeout=60)[1]
        assert time.monotonic() - cut < 30
    if how == signal.SIGINT:
        assert process.returncode == 130
        lines = [line for line in err.splitlines() if line]
        assert lines[-4:-2] == ["ended: deaf", "not begun: b, c"]
        assert lines[-2].startswith("pick it up with: ferry fleet resume ")
        assert lines[-1] == "ferry: interrupted"
    (run,) = runs.runs()
    assert (run.state, run.left) == ("cut", ("deaf", "b", "c"))
    assert run.task.options["delegate"] == "cpu:1"
    assert not (roots[1] / "bundles").exists()
    mend(deaf, "spare")
    code, out, err = ferry("fleet", "resume", run.id[:6])
    assert code == 0, err
    assert "ferry deploy on 3 of 4 devices" in err
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["deaf", "b", "c"]
    assert err.splitlines()[-1] == "3 of 3 succeeded"
    assert out.count("cpu:1") == 3
    assert [current(root) for root in roots] == [bundle.id] * 4
    assert ferry("fleet", "resume")[0] == 2


def test_another_bundle_in_its_place_is_refused(
    ferry: Ferry, boards: Boards, bundle: Bundle, make_bundle: Callable[..., Bundle]
) -> None:
    boards("a")
    inventory.add(inventory.Entry("gone", "127.0.0.1", port=1))
    assert ferry("deploy", bundle.path, "all")[0] == 4
    bundle.path.rename(bundle.path.with_name("away"))
    code, _, err = ferry("fleet", "resume")
    assert code == 1
    assert "its bundle tiny is not at" in err
    make_bundle(padding=10).path.rename(bundle.path)
    code, _, err = ferry("fleet", "resume")
    assert code == 1
    assert "is another one now" in err


def test_ctrl_c_in_the_middle_of_uploads_leaves_boards_clean(
    boards: Boards, bundle: Bundle, make_bundle: Callable[..., Bundle], ferry: Ferry, wait_until: Callable
) -> None:
    roots = boards("a", "b")
    assert ferry("deploy", bundle.path, "all")[0] == 0
    large = make_bundle(padding=200_000_000)
    with start("deploy", large.path, "all") as process:
        wait_until(
            lambda: all(list(root.glob("store/incoming/*/*.part")) for root in roots) or process.poll() is not None
        )
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=60)[1]
    if process.returncode == 0:
        pytest.skip("the push was faster than the finger")
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert [current(root) for root in roots] == [bundle.id] * 2
    code, _, err = ferry("fleet", "resume")
    assert code == 0, err
    assert [current(root) for root in roots] == [large.id] * 2
    assert [list((root / "store/incoming").iterdir()) for root in roots] == [[], []]


QUICK = ("--num-runs", "5", "--warmup-runs", "1", "--min-secs", "0", "--max-warmup-secs", "0")


def crash(root: Path, environment: Path) -> None:
    """Give a board an engine that ends by SIGILL, as on a processor that lacks its instructions."""
    (root / "venv").unlink()
    shutil.copytree(environment, root / "venv", symlinks=True)
    packages = next((root / "venv").glob("lib/python3*/site-packages"))
    (packages / "onnxruntime").mkdir()
    (packages / "onnxruntime/__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")


def test_five_ways_to_fail_and_the_others_complete(
    ferry: Ferry, boards: Boards, bundle: Bundle, openssh: Any, make_key: Callable, environment: Path, tmp_path: Path
) -> None:
    names = ["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"]
    roots = boards(*names)
    other = make_key(tmp_path / "stranger")
    hostkeys.pin(hostkeys.lookup_name("localhost", openssh.port), HostKey(other.get_name(), other.asbytes()))
    crash(roots[7], environment)
    found = inventory.load()
    spoilt = {
        "b1": {"port": 1},
        "b2": {"host": "localhost"},
        "b4": {"key": str(tmp_path / "stranger")},
        "b5": {"root": "/proc/no-such-place"},
    }
    entries = {name: replace(entry, **spoilt.get(name, {})) for name, entry in found.devices.items()}
    inventory.save(Inventory(entries))
    code, out, err = ferry("profile", bundle.path, "--on", "all", *QUICK, "--json")
    assert code == 4
    told = json.loads(out)["profiles"]
    assert [each["device"] for each in told] == names
    assert [each["device"] for each in told if each["profile"]] == ["b0", "b3", "b6"]
    failed = "unreachable: b1; host key: b2; not let in: b4; cannot take it: b5; engine died: b7"
    assert err.splitlines()[-1] == f"3 of 8 succeeded; failed: 5 ({failed})"
    assert err.count("ferry: error:") == 5
    assert {m.device for m in history.read()} == {"b0", "b3", "b6"}


def test_a_profile_that_was_killed_is_one_run_in_the_end(
    ferry: Ferry, boards: Boards, bundle: Bundle, deaf: inventory.Entry, wait_until: Callable
) -> None:
    boards("a", "spare")
    inventory.add(deaf)
    with start("profile", bundle.path, "--on", "a", "--on", "deaf", *QUICK) as process:
        wait_until(lambda: "a" in succeeded() or process.poll() is not None)
        process.kill()
    mend(deaf, "spare")
    code, out, err = ferry("fleet", "resume", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert [each["device"] for each in told["profiles"]] == ["deaf"]
    assert told["profiles"][0]["profile"]["num_runs"] == 5
    assert {(m.device, m.run) for m in history.read()} == {("a", told["run"]), ("deaf", told["run"])}


def test_options_of_another_version_are_refused(ferry: Ferry, bundle: Bundle) -> None:
    task = runs.Task.of("profile", [bundle], ("a", "b"), options={"bench": {"warp": 9}, "rounds": 1, "top": 10})
    journal.begin(task).__exit__()
    code, out, err = ferry("fleet", "resume")
    assert (code, out) == (2, "")
    assert "has options that this version does not know" in err


@pytest.mark.parametrize("command", ["doctor", "releases", "gc"])
def test_what_a_group_tells(ferry: Ferry, boards: Boards, bundle: Bundle, command: str) -> None:
    boards("a", "b")
    assert ferry("deploy", bundle.path, "all")[0] == 0
    inventory.add(inventory.Entry("gone", "127.0.0.1", port=1))
    code, out, err = ferry(command, "all")
    assert code == 4
    assert [line for line in out.splitlines() if line in ("a:", "b:", "gone:")] == ["a:", "b:"]
    assert "2 of 3 succeeded; failed: 1 (unreachable: gone)" in err
    told = json.loads(ferry(command, "all", "--json")[1])["devices"]
    assert [(each["device"], bool(each["error"])) for each in told] == [("a", False), ("b", False), ("gone", True)]
    assert "device" in json.loads(ferry(command, "a", "--json")[1])
    assert ferry(command, "gone")[:2] == (4, "")


def until(terminal: int, word: str) -> str:
    """Read what stands on a terminal until a word comes."""
    said = b""
    while word.encode() not in said and select.select([terminal], [], [], 30)[0]:
        with contextlib.suppress(OSError):
            said += os.read(terminal, 1 << 12)
            continue
        break
    return said.decode()


@pytest.mark.parametrize("typed", ["secret\n", "\x03"])
def test_a_fleet_asks_once_at_a_terminal(
    boards: Boards, bundle: Bundle, openssh: Any, make_key: Callable, tmp_path: Path, typed: str
) -> None:
    """No line comes between the question and the answer, and Ctrl-C gives the terminal its echo back."""
    make_key(tmp_path / "locked", "secret")
    accepted = openssh.key.with_name("client_key.pub")
    before = accepted.read_text()
    accepted.write_text(before + (tmp_path / "locked.pub").read_text())
    boards("a", "b", "c", key=str(tmp_path / "locked"))
    ours, theirs = pty.openpty()
    try:
        own = "import os, sys; os.setsid(); os.close(os.open(sys.argv[1], 2)); os.execv(sys.argv[2], sys.argv[2:])"
        command = [sys.executable, "-m", "edgeferry_runtime", "deploy", bundle.path, "all"]
        argv = [sys.executable, "-c", own, os.ttyname(theirs), *command]
        with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs) as process:
            asked = until(ours, "locked: ")
            time.sleep(1)
            os.write(ours, typed.encode())
            said = until(ours, "succeeded" if typed == "secret\n" else "interrupted")
            code = process.wait(timeout=30)
        assert termios.tcgetattr(theirs)[3] & termios.ECHO
    finally:
        accepted.write_text(before)
        os.close(ours)
        os.close(theirs)
    assert asked.endswith(f"Passphrase of {tmp_path / 'locked'}: "), asked
    assert said.count("Passphrase") == 0
    assert "secret" not in said
    assert (code, "3 of 3 succeeded" in said) == ((0, True) if typed == "secret\n" else (130, False)), said


def test_runs_of_nobody(ferry: Ferry) -> None:
    assert ferry("fleet", "runs") == (0, "there are no runs\n", "")
    assert json.loads(ferry("fleet", "runs", "--json")[1]) == {"schema": 1, "runs": []}
    code, out, err = ferry("fleet", "resume")
    assert (code, out) == (2, "")
    assert "there is no run that is not complete" in err
    assert os.environ["HOME"] in str(runs.runs_dir())


def test_tags_and_groups_by_command(ferry: Ferry) -> None:
    assert ferry("device", "add", "a", "pi@h", "--tag", "web", "--tag", "x", "--jump", "gate:2222")[0] == 0
    assert inventory.get("a").jump == "gate:2222"
    assert ferry("device", "add", "b", "pi@h")[0] == 0
    assert ferry("device", "tag", "b", "web") == (0, "b: web\n", "")
    assert ferry("device", "tag", "a", "x", "--remove") == (0, "a: web\n", "")
    assert ferry("device", "tag", "a", "web", "--remove") == (0, "a: no tags\n", "")
    assert ferry("device", "group", "@house", "a", "@web") == (0, "@house: a, b\n", "")
    listed = json.loads(ferry("device", "list", "--json")[1])
    assert listed["groups"] == {"house": ["a", "@web"]}
    assert [each["tags"] for each in listed["devices"]] == [[], ["house"], ["house", "web"]]
    assert "house, web" in ferry("device", "list")[1]
    assert ferry("device", "group", "house", "--remove") == (0, "removed @house\n", "")


@pytest.mark.parametrize(
    "argv",
    [
        ("tag", "a", "@web"),
        ("tag", "a", "new\nline"),
        ("tag", "nobody", "x"),
        ("tag", "a", "x", "--remove"),
        ("group", "@", "a"),
        ("group", "g"),
        ("group", "g", "a", "--remove"),
        ("group", "g", "--remove"),
        ("group", "g", "@g"),
        ("group", "../up", "a"),
        ("group", "it's", "a"),
        ("group", "all", "a"),
        ("add", "c", "h", "--tag", "a b"),
        ("add", "c", "h", "--jump", "-oProxyCommand=id"),
        ("add", "all", "h"),
    ],
)
def test_what_cannot_be_named(ferry: Ferry, argv: tuple[str, ...]) -> None:
    inventory.add(inventory.Entry("a", "h"))
    before = inventory.inventory_path().read_bytes()
    code, out, err = ferry("device", *argv)
    assert (code, out) == (2, ""), err
    assert err.splitlines()[-1].startswith("ferry: error: ")
    assert inventory.inventory_path().read_bytes() == before
