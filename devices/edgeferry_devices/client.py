"""The host's end of the conversation with a device's agent."""

from __future__ import annotations

import json
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from edgeferry_devices.faults import faults
from edgeferry_devices.plain import plain
from edgeferry_devices.session import Session, is_dead, owner
from edgeferry_runtime.errors import DeviceBusyError, DeviceError, EdgeferryError, RemoteCommandError
from edgeferry_runtime.wire import PROGRESS, decode_error

if TYPE_CHECKING:
    from edgeferry_devices.device import Say

FIRST_WAIT_S = 0.5
"""How long to wait for a device before asking whether its holder is dead; then as long as the device says."""


class Pipe(Protocol):
    """A two-way stream of bytes with an agent at the other end: what sockets and SSH channels share.

    Attributes:
        begun: Whether there may be an agent.
    """

    begun: bool

    def sendall(self, data: bytes, /) -> None:
        """Send everything."""
        ...

    def recv(self, size: int, /) -> bytes:
        """Return at most `size` bytes, none at the end."""
        ...

    def settimeout(self, seconds: float, /) -> None:
        """Limit each of the two."""
        ...

    def close(self, at_once: bool = False) -> None:
        """End it, giving the agent a moment to clean up unless it holds nothing and `at_once` says so."""
        ...

    def post_mortem(self) -> tuple[int, str]:
        """Return the exit status and the stderr of an agent that has ended.

        Raises:
            EOFError: If it is the line that has ended; of the agent nothing is known.
        """
        ...


class AgentClient:
    """Asks an agent, one question at a time.

    Args:
        device: The device's name.
        pipe: The stream.
    """

    def __init__(self, device: str, pipe: Pipe) -> None:
        self.device = device
        self._pipe = pipe
        self._rest = b""
        self._holds = False
        self._session: Session | None = None

    def __enter__(self) -> AgentClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(left_behind=isinstance(error, DeviceError))

    def close(self, left_behind: bool = False) -> None:
        """End the agent; what it holds is free again.

        Args:
            left_behind: Whether the line may have gone dead, and the agent not know that it was closed.
        """
        self._pipe.close(at_once=not self._holds)
        if self._session is not None:
            self._session.close(left_behind and self._pipe.begun)

    def take(self, operation: str, *, timeout: float = 60.0, say: Say | None = None, **fields: Any) -> dict[str, Any]:
        """Ask for an operation that takes the device; a lock whose owner is known to be dead is broken.

        Raises:
            DeviceBusyError: If another one holds the device.
            EdgeferryError: See `ask`.
        """
        if self._session is None:
            self._session = Session.begin()
        asked = {"timeout": timeout, "say": say, "owner": owner(), "who": self._session.who(), **fields}
        first = {} if operation == "bench" else {"wait_s": FIRST_WAIT_S}
        try:
            return self.ask(operation, **{**first, **asked})
        except DeviceBusyError:
            holder = self.ask("holder")
            dead = is_dead(holder)
            if (dead and not self.ask("evict", session=holder["session"])["evicted"]) or not (dead or first):
                raise
        return self.ask(operation, **asked)

    def ask(self, operation: str, *, timeout: float = 60.0, say: Say | None = None, **fields: Any) -> dict[str, Any]:
        """Ask for one operation of `edgeferry_runtime.agent` and return its result.

        Args:
            operation: Its name.
            timeout: Seconds until the answer must be here.
            say: Takes what the device tells of its progress until then.
            **fields: Its arguments, as JSON takes them.

        Raises:
            EdgeferryError: What the agent raised, named with the device.
            DeviceTimeoutError: If no answer came in time.
            RemoteCommandError: If the agent died.
        """
        deadline = time.monotonic() + timeout
        self._holds = True
        line = self._exchange(operation, json.dumps({"op": operation, **fields}).encode() + b"\n", deadline)
        while line.startswith(PROGRESS):
            if say:
                say(f"{self.device}: {plain(json.loads(line)['progress'])}")
            line = self._exchange(operation, b"", deadline)
        return self._result(operation, line)

    def _exchange(self, operation: str, request: bytes, deadline: float) -> bytes:
        """Send a request, or the nothing that is left of it, and return the next line; nothing where there is none."""
        with faults(self.device, f"waiting for {operation!r}"):
            self._pipe.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                self._pipe.sendall(request)
                return self._line(deadline)
            except (TimeoutError, EdgeferryError):
                raise
            except OSError:
                return b""

    def _line(self, deadline: float) -> bytes:
        while b"\n" not in self._rest:
            self._pipe.settimeout(max(0.01, deadline - time.monotonic()))
            chunk = self._pipe.recv(1 << 16)
            if not chunk:
                return b""
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _result(self, operation: str, line: bytes) -> dict[str, Any]:
        command = ("edgeferry_runtime.agent", operation)
        if not line:
            with faults(self.device, f"waiting for {operation!r}"):
                status, said = self._pipe.post_mortem()
            raise RemoteCommandError(self.device, command, status, "", said)
        answer = json.loads(line)
        self._holds = answer["holds"]
        if "error" in answer:
            raise decode_error(answer["error"], self.device)
        if "defect" in answer:
            raise RemoteCommandError(self.device, command, 70, "", answer["defect"])
        result: dict[str, Any] = answer["result"]
        return result
