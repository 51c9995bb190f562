"""Installs, starts, stops and removes the service of a device; what does not come up leaves what was before."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeferry_runtime.device_service import readiness, systemd
from edgeferry_runtime.device_service.background import Background
from edgeferry_runtime.device_service.config import FOLDER, Config, Server, make_token, token_file, version
from edgeferry_runtime.device_service.systemd import Systemd
from edgeferry_runtime.errors import EdgeferryError, MissingFileError, UnknownNameError, UsageError
from edgeferry_runtime.store import writing
from edgeferry_runtime.undo import undo_on_error

Say = Callable[[str], object]
LOG_LINES = 15
CHANGING = ("start", "stop", "restart", "remove")
ACTIONS = (*CHANGING, "status", "logs", "token")
NONE = ("the service", "is not installed", "install it: ferry service start, or ferry deploy --service")


class Control:
    """The service of one device.

    Args:
        root: The device's folder.
        say: Takes what the server said where it does not come up.
    """

    def __init__(self, root: Path, say: Say = bool) -> None:
        self.root, self.say = root, say

    def act(self, action: str, **fields: Any) -> dict[str, Any]:
        """Perform one of `ACTIONS`.

        Raises:
            UnknownNameError: If there is no such action.
            EdgeferryError: What the action raises.
        """
        if action not in ACTIONS:
            raise UnknownNameError("service", action, ACTIONS)
        done: dict[str, Any] = getattr(self, action)(**fields)
        return done

    def start(self, server: Mapping[str, Any] | None = None, release: tuple[str, str] | None = None) -> dict[str, Any]:
        """Install it, or change it, and wait until it is ready.

        What runs already, as it is asked for and with the runtime that is here, goes on undisturbed. Where it does not
        come up, what was before is there again.

        Args:
            server: How to serve, see `Server`; None for as it was, or the default.
            release: A model's name and the id of the release that has to answer for it.

        Raises:
            EdgeferryError: If it does not come up, or the release does not answer.
        """
        before = Config.read(self.root)
        wanted = Server.of(server) if server else before.server if before else Server()
        if before and before.server == wanted and before.runtime == version() and self._ready(before):
            return self._started(release, changed=False)
        ran = before is not None and self._way(before).pid() is not None
        with undo_on_error(lambda: self._go_back(before, ran)):
            if before is not None:
                self._way(before).stop()
            self._come_up(self._begin(before, wanted))
        return self._started(release, changed=True)

    def restart(self) -> dict[str, Any]:
        """Stop it and start it again, with the runtime that is here; one that does not come up is stopped.

        What cannot be written is said while it still runs.

        Raises:
            MissingFileError: If there is none.
            EdgeferryError: If it does not come up.
        """
        before = self._installed()
        config = self._begin(before, before.server)
        with undo_on_error(self.stop):
            self._way(config).stop()
            self._come_up(config)
        return self._started(None, changed=True)

    def stop(self) -> dict[str, Any]:
        """End it, once what is in flight is finished; it stays installed.

        Raises:
            MissingFileError: If there is none.
        """
        self._way(self._installed()).stop()
        return self.status()

    def remove(self) -> dict[str, Any]:
        """End it, and remove all that was made for it; a damaged note of what that was does not hinder."""
        config = self._left()
        if config is not None:
            self._way(config).remove(config)
            shutil.rmtree(self.root / FOLDER)
        return {**self.status(), "removed": config is not None}

    def status(self) -> dict[str, Any]:
        """Say how it fares."""
        config = Config.read(self.root)
        if config is None:
            return {"installed": False, "way": "", "running": False, "ready": False}
        way = self._way(config)
        pid, server = way.pid(), config.server
        told = {"installed": True, "way": config.way, "running": pid is not None, "ready": self._ready(config)}
        at = {"url": server.url, "host": server.host, "port": server.port, "options": list(server.words)}
        notes = way.notes()
        if pid is not None and config.runtime != version():
            notes.append("it runs with an older runtime; to change that: ferry service restart")
        asks = token_file(self.root, server) is not None
        return {**told, **at, "pid": pid, "token": asks, "notes": notes}

    def logs(self, lines: int = 100) -> dict[str, Any]:
        """Return the last lines of what it said.

        Raises:
            MissingFileError: If there is none.
        """
        return {"lines": self._way(self._installed()).log(lines)}

    def token(self) -> dict[str, Any]:
        """Return what clients must show.

        Raises:
            MissingFileError: If there is no service, or it asks for nothing.
        """
        path = token_file(self.root, self._installed().server)
        if path is None:
            reason = "asks for no token: only the device itself reaches it"
            raise MissingFileError("the service", reason, "use it there")
        try:
            return {"token": path.read_text(encoding="utf-8").strip()}
        except OSError as error:
            raise MissingFileError(path, f"cannot be read ({error.strerror})", "look for it there") from error

    def _installed(self) -> Config:
        config = Config.read(self.root)
        if config is None:
            raise MissingFileError(*NONE)
        return config

    def _left(self) -> Config | None:
        try:
            return Config.read(self.root)
        except UsageError:
            return Config(Server(), Systemd.name if Systemd(self.root).owned() else Background.name, "")

    def _way(self, config: Config) -> Systemd | Background:
        return Systemd(self.root) if config.way == Systemd.name else Background(self.root)

    def _ready(self, config: Config) -> bool:
        runs = self._way(config).pid() is not None
        return runs and readiness.is_ready(config.server, token_file(self.root, config.server))

    def _begin(self, before: Config | None, server: Server) -> Config:
        """Make what it needs; a device that got a systemd, or lost it, changes its way.

        Raises:
            DeviceRequirementError: If that cannot be written.
            EdgeferryError: If systemd does not take it.
        """
        way = Systemd(self.root) if systemd.available() else Background(self.root)
        if before is not None and before.way != way.name:
            self._way(before).remove(before)
            before = None
        with writing(self.root):
            (self.root / FOLDER).mkdir(mode=0o700, exist_ok=True)
            make_token(self.root, server)
            planned = way.plan(replace(before or Config(server, way.name, ""), server=server, runtime=version()))
            planned.write(self.root)
            config = way.install(planned)
            config.write(self.root)
        return config

    def _come_up(self, config: Config) -> None:
        """Start what was stopped, and wait until it is ready; else tell what it said.

        Raises:
            EdgeferryError: If its port is taken, or it does not come up.
        """
        readiness.check_free(config.server)
        way = self._way(config)
        way.start(config)
        with undo_on_error(lambda: self._tell_log(way)):
            readiness.wait(config.server, token_file(self.root, config.server), way.failure)

    def _started(self, release: tuple[str, str] | None, changed: bool) -> dict[str, Any]:
        told = {**self.status(), "changed": changed}
        if release is not None:
            server = self._installed().server
            told["version"] = readiness.wait_for(server, token_file(self.root, server), *release)
        return told

    def _go_back(self, before: Config | None, ran: bool) -> None:
        """Undo a start that failed; the error that is told is that one."""
        with contextlib.suppress(EdgeferryError, OSError):
            if before is None:
                self.remove()
                shutil.rmtree(self.root / FOLDER, ignore_errors=True)
                return
            self.stop()
            config = self._as_before(before)
            if ran:
                self._come_up(config)

    def _as_before(self, before: Config) -> Config:
        """Make what it needed; where nothing can be written any more, what is left of that has to do."""
        try:
            return self._begin(Config.read(self.root), before.server)
        except EdgeferryError:
            return before

    def _tell_log(self, way: Systemd | Background) -> None:
        with contextlib.suppress(OSError):  # whoever asked may have gone
            for line in way.log(LOG_LINES) or ["nothing that this account may read"]:
                self.say(f"the service said: {line}")
