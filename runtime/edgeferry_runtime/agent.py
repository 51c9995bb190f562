"""The device's side: ``python -m edgeferry_runtime.agent ROOT [QUESTION]`` answers the host, one JSON object a line.

Operations::

    hello                             what this machine is and how it fares
    space                             how many bytes are free, and why none can be written where that is so
    begin(manifest, sizes, owner, terms)
                                      take the device; say which contents must come, where to, and what of them is there
    commit                            check what came, prove the bundle in a child process, make it the current one
    stage(owner)                      take the device; return a folder for the inputs of a run
    run(name, id, raw)                feeds.npz to outputs.npz in the staged folder
    bench(name, id, options, device)  a profile of the current release, or of the one before it
    trial(format)                     try the engine of a format on a tiny model
    releases(name)                    what is there
    rollback(name, owner)             prove the release before the current one again, and make it the current one
    gc(owner, dry_run)                remove what nobody needs
    service(action, owner)            keep a server running: see edgeferry_runtime.device_service
    holder, evict(session)            who holds the lock; kill the agent that holds it for a host that is dead

What is taken is given back when the operation ends, and in any case when the host goes away, or when it takes the
device and is then silent for `IDLE_S` seconds, as it is when its line went dead.

Before its answer an operation may tell its progress, a line ``{"progress": text}`` each.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import select
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from edgeferry_runtime import __version__, lock, proofs, releases
from edgeferry_runtime.attended import Attended, Tell
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.coming import Coming, checked
from edgeferry_runtime.errors import DeviceRequirementError, EdgeferryError, UsageError, VerificationError
from edgeferry_runtime.proofs import Terms
from edgeferry_runtime.store import PART, SPARE_BYTES, Store, check_name, writing
from edgeferry_runtime.undo import undo_on_error
from edgeferry_runtime.wire import PROTOCOL, claim_stdout, decode_error, encode_error

OPERATIONS = (
    *("hello", "space", "begin", "commit", "stage", "run", "bench", "trial"),
    *("releases", "rollback", "gc", "service", "holder", "evict"),
)
IDLE_S = 900.0
WATCH_S = 5.0
Who = Mapping[str, Any]
"""Host, user, pid and session of whoever asks."""


class Agent:
    """One conversation with a host.

    Args:
        root: The device's folder.
        tell: Takes what its work tells before it answers.
    """

    def __init__(self, root: Path, tell: Tell = bool) -> None:
        self.root = root
        self._tell = tell
        self._work = Attended(tell)
        self._opened: Store | None = None
        self._lock: IO[str] | None = None
        self._staged: Path | None = None
        self._coming: Coming | None = None
        self._busy = False
        self._asked = 0
        self._seen: tuple[bool, int, int] = (False, 0, 0)
        self._quiet_since = time.monotonic()

    @property
    def store(self) -> Store:
        """The device's folder, made when it is first needed."""
        if self._opened is None:
            self._opened = Store.open(self.root)
            os.chdir(self.root)
        return self._opened

    @property
    def holds(self) -> bool:
        """Whether it has something to give back."""
        return self._lock is not None or self._staged is not None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Perform one operation.

        Raises:
            EdgeferryError: Whatever the operation has to say.
        """
        fields = dict(request)
        operation = fields.pop("op", None)
        if operation not in OPERATIONS:
            raise UsageError("agent", f"unknown operation {operation!r}", f"valid are {', '.join(OPERATIONS)}")
        self._asked += 1
        self._busy = True
        try:
            result: dict[str, Any] = getattr(self, operation)(**fields)
        finally:
            self._busy = False
        return result

    def hello(self) -> dict[str, Any]:
        """Describe the machine."""
        from edgeferry_runtime import machine

        return {
            "protocol": PROTOCOL,
            "version": __version__,
            "python": platform.python_version(),
            "root": str(self.store.root),
            "machine": dict(machine.describe()),
            "state": dict(machine.state()),
            "free_bytes": self.store.free_bytes(),
        }

    def space(self) -> dict[str, Any]:
        """Say how many bytes are free, and why none can be written where that is so."""
        refuses = ""
        try:
            self.store.stage().rmdir()
        except DeviceRequirementError as error:
            refuses = error.reason
        return {"free_bytes": self.store.free_bytes(), "root": str(self.root), "refuses": refuses}

    def begin(
        self,
        manifest: dict[str, Any],
        sizes: dict[str, int],
        owner: str,
        wait_s: float = 10.0,
        who: Who | None = None,
        terms: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Take the device for a push, and say which contents are missing and where they go."""
        name = check_name(checked(manifest).name)
        self._take(f"push of {name} by {owner}", wait_s, who)
        with undo_on_error(self._give_back):
            return self._plan(manifest, sizes, Terms(**(terms or {})))

    def _plan(self, manifest: dict[str, Any], sizes: Mapping[str, int], terms: Terms) -> dict[str, Any]:
        name, release = manifest["name"], manifest["id"]
        if self.store.is_current(name, release):
            proof = proofs.read(self.store, name, release)
            if unmet := terms.unmet(proof):
                self._coming = Coming(manifest, (), terms, stands=True)
            else:
                self._give_back()
            return {"up_to_date": not unmet, "unmet": unmet, "missing": [], "proof": proof}
        missing = self.store.missing(manifest["files"].values())
        self._staged = self.store.stage()
        there = self.store.resume(self._staged, missing)
        self._check_space(sum(max(0, sizes.get(digest, 0) - there.get(digest, (0, ""))[0]) for digest in missing))
        self._coming = Coming(manifest, tuple(missing), terms, stands=False)
        return {"up_to_date": False, "missing": missing, "there": there, "incoming": str(self._staged)}

    def commit(self) -> dict[str, Any]:
        """Admit what came, prove it, and make it the current release; what failed leaves the old one current."""
        if self._coming is None:
            raise UsageError("agent", "commit without begin", "begin a push first")
        try:
            return self._prove_again(self._coming) if self._coming.stands else self._switch(self._coming)
        finally:
            self._give_back()

    def _prove_again(self, coming: Coming) -> dict[str, Any]:
        release = self.store.release(coming.name, coming.id)
        proof = self._prove(release, coming.name, coming.terms)
        proofs.keep(self.store, coming.name, coming.id, proof)
        return proof

    def _switch(self, coming: Coming) -> dict[str, Any]:
        assert self._staged is not None
        self.store.admit(self._staged, coming.missing)
        releases.forget_failed(self.store, coming.name)
        parts = self.store.assemble(coming.manifest)
        try:
            proof = self._prove_or_set_aside(parts, coming)
            before = self.store.current(coming.name)
            proofs.keep(self.store, coming.name, coming.id, proof)
            final = self.store.publish(parts, coming.id)
        finally:
            shutil.rmtree(parts, ignore_errors=True)
        kept = before if before != final else self.store.previous(coming.name)
        self.store.prune([final, kept] if kept else [final])
        proofs.tidy(self.store, coming.name)
        return proof

    def releases(self, name: str | None = None) -> dict[str, Any]:
        """Say what is there."""
        return {"releases": releases.listing(self.store, name)}

    def rollback(self, name: str, owner: str, wait_s: float = 10.0, who: Who | None = None) -> dict[str, Any]:
        """Prove the release before the current one again, and make it the current one."""
        with self._taken(f"rollback of {name!r} by {owner}", wait_s, who):
            target, now = releases.before(self.store, name), self.store.current(name)
            Bundle.open(target).check()
            proof = self._prove(target, name, Terms())
            proofs.keep(self.store, name, target.name, proof)
            with writing(self.root):
                self.store.switch(target)
            return {**proof, "id": target.name, "from": now.name if now else ""}

    def gc(self, owner: str, dry_run: bool = False, wait_s: float = 10.0, who: Who | None = None) -> dict[str, Any]:
        """Remove what nobody needs: never a current release, nor the one before it."""
        with self._taken(f"gc by {owner}", wait_s, who), writing(self.root):
            return releases.collect(self.store, dry_run)

    def service(
        self, action: str, owner: str = "?", wait_s: float = 10.0, who: Who | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Keep a server running, or say how it fares; see `control.Control`."""
        from edgeferry_runtime.device_service.control import CHANGING, Control

        control = Control(self.store.root, lambda text: self._tell(json.dumps({"progress": text}).encode() + b"\n"))
        if action not in CHANGING:
            return control.act(action, **fields)
        with self._taken(f"service {action} by {owner}", wait_s, who):
            return control.act(action, **fields)

    def holder(self) -> dict[str, Any]:
        """Say who holds the lock, or held it last."""
        return lock.holder(self.store.root / lock.FILE)

    def evict(self, session: str) -> dict[str, Any]:
        """Kill the agent that holds the lock for a session whose host is dead."""
        return {"evicted": lock.evict(self.store.root / lock.FILE, session)}

    def stage(self, owner: str, wait_s: float = 10.0, who: Who | None = None) -> dict[str, Any]:
        """Take the device for a run, and return a folder for its inputs."""
        self._take(f"run by {owner}", wait_s, who)
        self._staged = self.store.stage()
        return {"folder": str(self._staged)}

    def run(self, name: str, id: str, raw: bool = False, signature: str | None = None) -> dict[str, Any]:
        """Run the staged inputs; the folder is removed when the host goes, after it fetched the outputs."""
        if self._staged is None:
            raise UsageError("agent", "run without stage", "stage the inputs first")
        files = {"feeds": str(self._staged / "feeds.npz"), "outputs": str(self._staged / "outputs.npz")}
        bundle = str(self.store.release(name, id))
        self._work.do({"op": "run", "bundle": bundle, "raw": raw, "signature": signature, **files}, name)
        return files

    def bench(
        self, name: str, id: str, options: dict[str, Any], device: str, owner: str = "?", who: Who | None = None
    ) -> dict[str, Any]:
        """Measure a release alone on the machine."""
        with self._taken(f"measurement by {owner}", 10.0, who):
            bundle = str(self.store.release(name, id))
            return self._work.do({"op": "bench", "bundle": bundle, "options": options, "device": device}, name)

    def trial(self, format: str) -> dict[str, Any]:
        """Run a tiny model of a format on the CPU, and say which engine did."""
        from edgeferry_runtime.survey.tiny import write_models

        with tempfile.TemporaryDirectory() as folder:
            model = write_models(Path(folder))[format]
            return self._work.do({"op": "try", "bundle": str(model), "delegate": "cpu"}, f"the engine for {format}")

    def host_is_gone(self) -> None:
        """End the work that nobody waits for."""
        self._work.leave()

    def close(self) -> None:
        """Give back everything."""
        with contextlib.suppress(EdgeferryError, OSError):
            self._give_back()

    def check_idle(self) -> bool:
        """Tell whether the device is held by a host that has been silent for too long."""
        seen = (self._busy, self._asked, sum(file.stat().st_size for file in _files(self._staged)))
        now = time.monotonic()
        if seen != self._seen or self._busy or self._lock is None:
            self._seen, self._quiet_since = seen, now
        return now - self._quiet_since > IDLE_S

    def _take(self, owner: str, wait_s: float, who: Who | None) -> None:
        self._give_back()
        self._lock = self.store.lock(owner, wait_s, who)
        self.store.clean()

    @contextlib.contextmanager
    def _taken(self, owner: str, wait_s: float, who: Who | None) -> Iterator[None]:
        self._take(owner, wait_s, who)
        try:
            yield
        finally:
            self._give_back()

    def _give_back(self) -> None:
        if self._staged is not None and not any(self._staged.glob(f"*{PART}")):
            shutil.rmtree(self._staged, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
        self._staged = self._lock = self._coming = None

    def _check_space(self, needed: int) -> None:
        free = self.store.free_bytes()
        if needed + SPARE_BYTES > free:
            reason = f"has {free / 1e6:.1f} MB free, and {(needed + SPARE_BYTES) / 1e6:.1f} MB are needed"
            raise DeviceRequirementError(self.root, reason, "free some space there")

    def _prove_or_set_aside(self, parts: Path, coming: Coming) -> dict[str, Any]:
        try:
            return self._prove(parts, coming.name, coming.terms)
        except EdgeferryError as error:
            if not self._work.alone:  # else it did not fail: nobody waits for it any more
                releases.set_aside(self.store, parts, coming.manifest, encode_error(error))
            raise

    def _prove(self, folder: Path, name: str, terms: Terms) -> dict[str, Any]:
        """Run the probe of a release; what stands where it fails is said."""
        try:
            return self._run_probe(folder, name, terms)
        except EdgeferryError as error:
            if self._work.alone:
                raise
            now = self.store.current(name)
            stays = f"release {now.name[:12]} stays the current one" if now else "there is no release before it"
            raise decode_error({**encode_error(error), "fix": f"{error.fix}; {stays}"}) from error

    def _run_probe(self, folder: Path, name: str, terms: Terms) -> dict[str, Any]:
        subject = f"bundle {name}"
        release = Bundle.open(folder).id
        delegate = terms.delegate or proofs.read(self.store, name, release).get("delegate") or proofs.DEFAULT
        proof = self._work.do({"op": "probe", "bundle": str(folder), "delegate": delegate, "full": terms.full}, subject)
        if proof["violations"]:
            reason = "the probe's outputs differ from the source's: " + ", ".join(proof["violations"])
            raise VerificationError(subject, reason, "check the engine's version there")
        return {**proof, "at": proofs.now()}


def _files(folder: Path | None) -> list[Path]:
    return list(folder.iterdir()) if folder is not None and folder.is_dir() else []


def _watch(agent: Agent) -> None:
    """Wait until the host has gone away; one that took the device and fell silent loses it."""
    poller = select.poll()
    poller.register(0, getattr(select, "POLLRDHUP", 0))
    while not poller.poll(WATCH_S * 1000):
        with contextlib.suppress(OSError):  # a file that came and went
            if agent.check_idle():
                os._exit(75)
    agent.host_is_gone()


def serve(agent: Agent, first: Sequence[str], answers: IO[bytes]) -> None:
    """Answer what came along with the start, then requests until stdin ends."""
    for line in itertools.chain(filter(None, first), sys.stdin.buffer):
        try:
            answer: dict[str, Any] = {"result": agent.answer(json.loads(line))}
        except EdgeferryError as error:
            answer = {"error": encode_error(error)}
        except Exception:  # noqa: BLE001
            answer = {"defect": traceback.format_exc()}
        _write(answers, json.dumps({**answer, "holds": agent.holds}).encode() + b"\n")


def _write(answers: IO[bytes], line: bytes) -> None:
    answers.write(line)
    answers.flush()


def main(root: str, *first: str) -> None:
    """Serve the host at the other end of stdin and stdout, with the store in a folder.

    Args:
        root: The folder.
        first: The first request, where it came along; it may be empty.
    """
    answers = claim_stdout()
    agent = Agent(Path(root).expanduser().absolute(), partial(_write, answers))
    threading.Thread(target=_watch, args=(agent,), daemon=True).start()
    try:
        with contextlib.suppress(BrokenPipeError):
            serve(agent, first, answers)
    finally:
        agent.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
