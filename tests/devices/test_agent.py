"""The device's side by itself: the store, the worker, and a host that asks wrongly."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_devices.client import AgentClient
from edgeferry_devices.local import LocalDevice
from edgeferry_runtime import errors
from edgeferry_runtime.agent import Agent
from edgeferry_runtime.bundle import MANIFEST, Bundle, content_id
from edgeferry_runtime.errors import (
    BundleError,
    DeviceError,
    DeviceTimeoutError,
    EngineCrashError,
    EngineError,
    MissingFileError,
    RemoteCommandError,
    UsageError,
)
from edgeferry_runtime.store import Store, check_name
from edgeferry_runtime.wire import decode_error, encode_error
from edgeferry_runtime.worker import death


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentClient]:
    with LocalDevice(tmp_path / "root").open_agent() as client:
        yield client


def test_hello(agent: AgentClient, tmp_path: Path) -> None:
    told = agent.ask("hello")
    assert told["root"] == str(tmp_path / "root")
    assert told["free_bytes"] > 0
    assert told["machine"]["arch"]


@pytest.mark.parametrize(
    ("operation", "fields", "error"),
    [
        ("fly", {}, UsageError),
        ("answer", {}, UsageError),
        ("__init__", {"root": "/"}, UsageError),
        ("commit", {}, UsageError),
        ("run", {"name": "x", "id": "y"}, UsageError),
        ("bench", {"name": "x", "id": "y", "options": {}, "device": "d"}, MissingFileError),
        ("bench", {"name": "../x", "id": "y", "options": {}, "device": "d"}, BundleError),
        ("begin", {"manifest": {}, "sizes": {}, "owner": "x"}, BundleError),
        ("begin", {"manifest": [], "sizes": {}, "owner": "x"}, BundleError),
        ("begin", {}, RemoteCommandError),
    ],
)
def test_wrong_requests_are_answered(agent: AgentClient, operation: str, fields: dict, error: type) -> None:
    with pytest.raises(error):
        agent.ask(operation, **fields)
    assert agent.ask("hello")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(id="0" * 64),
        lambda m: m["files"].update({"../../evil": "0" * 64}),
        lambda m: m["files"].update({"evil": "../../etc/passwd"}),
        lambda m: m["artifact"].update(file="/etc/passwd"),
        lambda m: m.update(name="../../evil"),
    ],
)
def test_manifests_that_lie_are_refused(agent: AgentClient, bundle: Bundle, tmp_path: Path, change: Any) -> None:
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    change(manifest)
    if manifest["id"] != "0" * 64:
        manifest["id"] = content_id(manifest)
    with pytest.raises(BundleError):
        agent.ask("begin", manifest=manifest, sizes={}, owner="mallory")
    assert not list(tmp_path.glob("root/bundles/*"))


def test_noise_on_stdin_is_survived(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "edgeferry_runtime.agent", str(tmp_path / "root")]
    done = subprocess.run(argv, input=b'not json\n3\n{"op": "hello"}\n', capture_output=True, check=True)
    kinds = [next(iter(json.loads(line))) for line in done.stdout.splitlines()]
    assert kinds == ["defect", "defect", "result"]


def test_engine_that_crashes_is_reported(
    agent: AgentClient, tmp_path: Path, bundle: Bundle, wait_until: Callable
) -> None:
    """The worker is killed while it measures, as the kernel does when memory is short."""
    publish(tmp_path / "root", bundle)
    options = {"num_runs": 10**9, "min_secs": 0.0, "max_secs": 60.0}
    killer = threading.Thread(target=wait_until, args=(kill_worker,))
    killer.start()
    with pytest.raises(EngineCrashError, match=r"tiny on local: the process was killed.*memory"):
        agent.ask("bench", name="tiny", id=bundle.id, options=options, device="local")
    killer.join()
    assert agent.ask("hello")


def publish(root: Path, bundle: Bundle) -> None:
    """Put a bundle where a push would."""
    store = Store.open(root)
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    for name, digest in bundle.manifest.files.items():
        store.blob(digest).write_bytes((bundle.path / name).read_bytes())
    store.publish(store.assemble(manifest), bundle.id)


LONG_WAIT = {"num_runs": 1, "min_secs": 0.0, "max_warmup_secs": 0.0, "max_load": 0.0, "max_wait_secs": 3.0}


def test_progress_of_the_worker_reaches_the_host(agent: AgentClient, tmp_path: Path, bundle: Bundle) -> None:
    publish(tmp_path / "root", bundle)
    asked = {"name": "tiny", "id": bundle.id, "options": LONG_WAIT, "device": "local"}
    said: list[tuple[str, float]] = []
    measured = agent.take("bench", say=lambda text: said.append((text, time.monotonic())), **asked)
    assert len(said) == 1
    assert re.fullmatch(r"local: load [\d.]+, waiting for load 0", said[0][0])
    assert time.monotonic() - said[0][1] > 1  # it came while the device waited, not with the answer
    assert measured["calming"]["waited_s"] >= 3
    assert agent.take("bench", **asked)["marks"][0]["kind"] == "busy"


def test_progress_does_not_move_the_deadline(agent: AgentClient, tmp_path: Path, bundle: Bundle) -> None:
    publish(tmp_path / "root", bundle)
    with pytest.raises(DeviceTimeoutError, match="did not answer in time while waiting for 'bench'"):
        agent.take("bench", timeout=1, name="tiny", id=bundle.id, options=LONG_WAIT, device="local")


def test_what_a_device_tells_cannot_move_the_cursor() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b'{"progress": "\\u001b[2Jgone\\r\\n"}\n{"progress": 3}\n{"result": {}, "holds": false}\n')
        said: list[str] = []
        assert AgentClient("pi", ours).ask("hello", say=said.append) == {}
    assert said == ["pi: ?[2Jgone??", "pi: 3"]


def test_the_release_before_is_measured_as_well(agent: AgentClient, tmp_path: Path, make_bundle: Any) -> None:
    first, second, third = (make_bundle(padding=size) for size in (0, 10, 20))
    options = {"num_runs": 1, "min_secs": 0.0, "max_warmup_secs": 0.0}
    for bundle in (first, second, third):
        publish(tmp_path / "root", bundle)
    for bundle in (second, third):
        measured = agent.take("bench", name="tiny", id=bundle.id, options=options, device="local")
        assert measured["artifact"]["bundle"] == bundle.id
    with pytest.raises(MissingFileError, match="is not on the device"):
        agent.take("bench", name="tiny", id=first.id, options=options, device="local")


def kill_worker() -> bool:
    """Kill the worker that descends from this process once it has its engine, and tell whether there was one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
            command = stat.with_name("cmdline").read_text()
        except OSError:
            continue
        parents[int(stat.parent.name)] = (int(after_name[1]), command)
    for pid, (parent, command) in parents.items():
        ours = "edgeferry_runtime.worker" in command and parents.get(parent, (0, ""))[0] == os.getpid()
        if ours and "onnxruntime" in Path(f"/proc/{pid}/maps").read_text():
            os.kill(pid, signal.SIGKILL)
            return True
    return False


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (-signal.SIGILL, EngineCrashError, "lacks instructions"),
        (132, EngineCrashError, "lacks instructions"),
        (137, EngineCrashError, "memory"),
        (-signal.SIGSEGV, EngineCrashError, "crashed with SIGSEGV"),
        (134, EngineCrashError, "SIGABRT"),
        (1, EngineError, "ValueError: what it said"),
    ],
)
def test_death_says_why(status: int, kind: type, words: str) -> None:
    error = death("bundle x", status, "Traceback\nValueError: what it said\n")
    assert type(error) is kind
    assert words in str(error)


def leaves() -> list[type[errors.EdgeferryError]]:
    found, todo = [], [errors.EdgeferryError]
    while todo:
        leaf = todo.pop()
        found.append(leaf)
        todo += leaf.__subclasses__()
    return found


@given(st.sampled_from(leaves()), st.text(), st.text(), st.text())
def test_errors_survive_the_wire(leaf: type, subject: str, reason: str, fix: str) -> None:
    error = leaf.__new__(leaf)
    errors.EdgeferryError.__init__(error, subject, reason, fix)
    again = decode_error(json.loads(json.dumps(encode_error(error))))
    assert (again.subject, again.reason, again.fix) == (subject, reason, fix)
    assert again.exit_code == leaf.exit_code
    assert isinstance(error, type(again))


@pytest.mark.parametrize("kind", ["Nonsense", "annotations", "difflib", "Iterable", "__doc__"])
def test_an_unknown_kind_of_error_is_still_one(kind: str) -> None:
    data = {"type": kind, "subject": "s", "reason": "r", "fix": "f"}
    assert str(decode_error(data, "pi")) == "s on pi: r; f"


@given(st.text(max_size=30))
def test_an_accepted_name_is_one_folder(name: str) -> None:
    try:
        check_name(name)
    except BundleError:
        return
    assert Path("/root", name).parent == Path("/root")
    assert Path("/root", name).name == name
    assert os.fsencode(name)


def test_lock_is_free_when_its_holder_dies(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "root")
    text = "import sys, time; from pathlib import Path; from edgeferry_runtime.store import Store\n"
    text += "lock = Store(Path(sys.argv[1])).lock('ann@desk', 0); print('held', flush=True); time.sleep(60)"
    argv = [sys.executable, "-c", text, str(store.root)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(DeviceError, match=r"in use by ann@desk for \d+ s"):
            store.lock("bob@desk", 0.1)
        holder.kill()
        store.lock("bob@desk", 5).close()


def test_what_was_taken_is_given_back(tmp_path: Path) -> None:
    agent = Agent(tmp_path / "root")
    folder = Path(agent.stage("ann@desk")["folder"])
    assert folder.is_dir()
    agent.close()
    assert not folder.exists()
    Store.open(tmp_path / "root").lock("bob@desk", 0).close()


def test_prune_leaves_what_is_not_ours(tmp_path: Path, bundle: Bundle) -> None:
    store = Store.open(tmp_path / "root")
    releases = store.root / "bundles/tiny/releases"
    (releases / "notes").mkdir(parents=True)
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    for name, digest in bundle.manifest.files.items():
        store.blob(digest).write_bytes((bundle.path / name).read_bytes())
    final = store.publish(store.assemble(manifest), bundle.id)
    store.prune([final])
    assert {path.name for path in releases.iterdir()} == {"notes", bundle.id}
    Bundle.open(final).check()
    assert replace(Bundle.open(final), path=bundle.path) == bundle
