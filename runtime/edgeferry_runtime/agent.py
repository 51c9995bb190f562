"""The device's side: ``python -m edgeferry_runtime.agent ROOT`` answers the host, one JSON object a line.

Operations::

    hello                             what this machine is and how it fares
    space                             how many bytes are free
    begin(manifest, sizes, owner)     take the device; say which contents must come, where to, and what of them is there
    commit                            check what came, prove the bundle in a child process, make it the current one
    stage(owner)                      take the device; return a folder for the inputs of a run
    run(name, id, raw)                feeds.npz to outputs.npz in the staged folder
    bench(name, id, options, device)  a profile
    releases(name)                    what is there
    rollback(name, owner)             prove the release before the current one again, and make it the current one
    gc(owner, dry_run)                remove what nobody needs
    holder, evict(session)            who holds the lock; kill the agent that holds it for a host that is dead

What is taken is given back when the operation ends, and in any case when the host goes away, or when it takes the
device and is then silent for `IDLE_S` seconds, as it is when its line went dead.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from edgeferry_runtime import __version__, lock, releases
from edgeferry_runtime.bundle import Bundle, Manifest, content_id
from edgeferry_runtime.errors import BundleError, DeviceRequirementError, EdgeferryError, UsageError, VerificationError
from edgeferry_runtime.store import PART, SPARE_BYTES, Store, check_name, writing
from edgeferry_runtime.undo import undo_on_error
from edgeferry_runtime.wire import PROTOCOL, claim_stdout, decode_error, encode_error
from edgeferry_runtime.worker import command, death

OPERATIONS = (
    *("hello", "space", "begin", "commit", "stage", "run", "bench"),
    *("releases", "rollback", "gc", "holder", "evict"),
)
IDLE_S = 900.0
WATCH_S = 5.0
PROGRESS = b'{"progress"'
Who = Mapping[str, Any]
"""Host, user, pid and session of whoever asks."""


class Agent:
    """One conversation with a host.

    Args:
        root: The device's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._child: subprocess.Popen[bytes] | None = None
        self._alone = False
        self._opened: Store | None = None
        self._lock: IO[str] | None = None
        self._staged: Path | None = None
        self._coming: tuple[dict[str, Any], list[str]] | None = None
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
        """Say how many bytes are free."""
        return {"free_bytes": self.store.free_bytes(), "root": str(self.root)}

    def begin(
        self, manifest: dict[str, Any], sizes: dict[str, int], owner: str, wait_s: float = 10.0, who: Who | None = None
    ) -> dict[str, Any]:
        """Take the device for a push, and say which contents are missing and where they go."""
        name = check_name(_checked(manifest).name)
        self._take(f"push of {name} by {owner}", wait_s, who)
        with undo_on_error(self._give_back):
            return self._plan(name, manifest, sizes)

    def _plan(self, name: str, manifest: dict[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
        if self.store.is_current(name, manifest["id"]):
            self._give_back()
            return {"up_to_date": True, "missing": []}
        missing = self.store.missing(manifest["files"].values())
        self._staged = self.store.stage()
        there = self.store.resume(self._staged, missing)
        self._check_space(sum(max(0, sizes.get(digest, 0) - there.get(digest, (0, ""))[0]) for digest in missing))
        self._coming = (manifest, missing)
        return {"up_to_date": False, "missing": missing, "there": there, "incoming": str(self._staged)}

    def commit(self) -> dict[str, Any]:
        """Admit what came, prove it, and make it the current release; what failed leaves the old one current."""
        if self._coming is None or self._staged is None:
            raise UsageError("agent", "commit without begin", "begin a push first")
        manifest, missing = self._coming
        try:
            self.store.admit(self._staged, missing)
            releases.forget_failed(self.store, manifest["name"])
            parts = self.store.assemble(manifest)
            try:
                proof = self._prove_or_set_aside(parts, manifest)
                before = self.store.current(manifest["name"])
                final = self.store.publish(parts, manifest["id"])
            finally:
                shutil.rmtree(parts, ignore_errors=True)
            kept = before if before != final else self.store.previous(manifest["name"])
            self.store.prune([final, kept] if kept else [final])
            return proof
        finally:
            self._give_back()

    def releases(self, name: str | None = None) -> dict[str, Any]:
        """Say what is there."""
        return {"releases": releases.listing(self.store, name)}

    def rollback(self, name: str, owner: str, wait_s: float = 10.0, who: Who | None = None) -> dict[str, Any]:
        """Prove the release before the current one again, and make it the current one."""
        self._take(f"rollback of {name!r} by {owner}", wait_s, who)
        try:
            target, now = releases.before(self.store, name), self.store.current(name)
            Bundle.open(target).check()
            proof = self._prove(target, {"name": name})
            with writing(self.root):
                self.store.switch(target)
            return {**proof, "id": target.name, "from": now.name if now else ""}
        finally:
            self._give_back()

    def gc(self, owner: str, dry_run: bool = False, wait_s: float = 10.0, who: Who | None = None) -> dict[str, Any]:
        """Remove what nobody needs: never a current release, nor the one before it."""
        self._take(f"gc by {owner}", wait_s, who)
        try:
            with writing(self.root):
                return releases.collect(self.store, dry_run)
        finally:
            self._give_back()

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
        self._work({"op": "run", "bundle": bundle, "raw": raw, "signature": signature, **files}, name)
        return files

    def bench(
        self,
        name: str,
        id: str,
        options: dict[str, Any],
        device: str,
        owner: str = "?",
        who: Who | None = None,
    ) -> dict[str, Any]:
        """Measure the current release alone on the machine."""
        self._take(f"measurement by {owner}", 10.0, who)
        try:
            bundle = str(self.store.release(name, id))
            return self._work({"op": "bench", "bundle": bundle, "options": options, "device": device}, name)
        finally:
            self._give_back()

    def host_is_gone(self) -> None:
        """End the work that nobody waits for."""
        self._alone = True
        child = self._child
        if child is not None:
            child.kill()

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

    def _prove_or_set_aside(self, parts: Path, manifest: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._prove(parts, manifest)
        except EdgeferryError as error:
            if self._alone:  # it did not fail: nobody waits for it any more
                raise
            releases.set_aside(self.store, parts, manifest, encode_error(error))
            now = self.store.current(manifest["name"])
            stays = f"release {now.name[:12]} stays the current one" if now else "there is no release before it"
            raise decode_error({**encode_error(error), "fix": f"{error.fix}; {stays}"}) from error

    def _prove(self, parts: Path, manifest: dict[str, Any]) -> dict[str, Any]:
        subject = f"bundle {manifest['name']}"
        proof = self._work({"op": "probe", "bundle": str(parts)}, subject)
        if proof["violations"]:
            reason = "the probe's outputs differ from the source's: " + ", ".join(proof["violations"])
            raise VerificationError(subject, reason, "check the engine's version there")
        return proof

    def _work(self, request: dict[str, Any], subject: str) -> dict[str, Any]:
        """Do it in a child process."""
        with tempfile.TemporaryFile() as said:
            with subprocess.Popen(command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said) as child:
                assert child.stdin is not None
                assert child.stdout is not None
                self._child = child
                if self._alone:
                    child.kill()
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.write(json.dumps({**request, "attended": True}).encode() + b"\n")
                    child.stdin.flush()
                written = [line for line in child.stdout if not line.startswith(PROGRESS)]
                child.wait()
            self._child = None
            said.seek(0)
            if child.returncode or not written:
                raise death(subject, child.returncode, said.read().decode(errors="replace"))
        answer = json.loads(written[-1])
        if "error" in answer:
            raise decode_error(answer["error"])
        result: dict[str, Any] = answer["result"]
        return result


def _checked(manifest: dict[str, Any]) -> Manifest:
    again = "convert the source again"
    try:
        read = Manifest.from_dict(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError("manifest", f"is damaged ({type(error).__name__}: {error})", again) from error
    if manifest.get("id") != content_id(manifest):
        raise BundleError(f"bundle {read.name}", "its id does not match its manifest", again)
    for name in (read.artifact, *read.files):
        if name != Path(name).name or name in ("", ".", ".."):
            raise BundleError(f"bundle {read.name}", f"names a file outside its folder: {name!r}", "do not use it")
    return read


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


def serve(agent: Agent, answers: IO[bytes]) -> None:
    """Answer requests until stdin ends."""
    for line in sys.stdin.buffer:
        try:
            answer: dict[str, Any] = {"result": agent.answer(json.loads(line))}
        except EdgeferryError as error:
            answer = {"error": encode_error(error)}
        except Exception:  # noqa: BLE001
            answer = {"defect": traceback.format_exc()}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def main(root: str) -> None:
    """Serve the host at the other end of stdin and stdout, with the store in a folder."""
    agent = Agent(Path(root).expanduser().absolute())
    answers = claim_stdout()
    threading.Thread(target=_watch, args=(agent,), daemon=True).start()
    try:
        with contextlib.suppress(BrokenPipeError):
            serve(agent, answers)
    finally:
        agent.close()


if __name__ == "__main__":
    main(sys.argv[1])
