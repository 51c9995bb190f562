"""paramiko's connection, with fewer round trips; imported when one is made, since it imports paramiko."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import paramiko
from paramiko.auth_handler import AuthOnlyHandler
from paramiko.common import cMSG_CHANNEL_REQUEST, cMSG_SERVICE_REQUEST, cMSG_USERAUTH_REQUEST

if TYPE_CHECKING:
    from paramiko import Channel, Message


class Login(AuthOnlyHandler):  # type: ignore[misc]
    """Shows who we are; each answer is one round trip, and tells what the server takes.

    Attributes:
        allowed: What the server took when it last said no.
    """

    allowed: tuple[str, ...] = ()

    def send_auth_request(
        self, username: str, method: str, finish_message: Callable[[Message], object] = bool
    ) -> list[str]:
        """Ask to enter, and wait; paramiko's own would lose an answer that comes at once."""
        self.auth_method, self.username = method, username
        self.auth_event = threading.Event()
        message = paramiko.Message()
        message.add_byte(cMSG_USERAUTH_REQUEST)
        for text in (username, "ssh-connection", method):
            message.add_string(text)
        finish_message(message)
        ahead = self.transport.ahead() if method == "publickey" else None
        with self.transport.lock:
            self.transport._send_message(message)
        if ahead is not None:
            ahead.start()
        try:
            return list(self.wait_for_response(self.auth_event))
        except paramiko.ChannelException as error:  # the last error of all: of the session
            raise paramiko.AuthenticationException(f"{method} was refused") from error

    def _parse_userauth_failure(self, message: Message) -> None:
        self.transport.forget_ahead()
        self.allowed = tuple(message.get_list())
        message.rewind()
        super()._parse_userauth_failure(message)


class Transport(paramiko.ServiceRequestingTransport):  # type: ignore[misc]
    """A connection that does not wait for a yes where what follows does no harm after a no.

    It asks for the service of authentication once, and shows who we are right behind (RFC 4253, 10: a server that says
    no closes the connection, which ends every wait). Behind the first key it asks for a session (RFC 4252, 5.1: what
    follows the request that lets us in is kept for what comes after it).

    Attributes:
        opens_ahead: Whether it asks for a session behind the first request to enter.
        went_ahead: Whether it did.
    """

    auth_handler: Login | None
    opens_ahead = False
    went_ahead = False
    _ahead: Future[Channel] | None = None

    def ensure_session(self) -> None:
        """Ask for the service before the first try to enter."""
        if not self.is_active():
            raise paramiko.SSHException("No existing session")
        if self.auth_handler is not None:
            return
        message = paramiko.Message()
        message.add_byte(cMSG_SERVICE_REQUEST)
        message.add_string("ssh-userauth")
        self.auth_handler = self.get_auth_handler()
        self._send_message(message)

    def get_auth_handler(self) -> Login:
        """Return what shows who we are."""
        return Login(self)

    def ahead(self) -> threading.Thread | None:
        """Return what asks for a session, the first time; it counts from now on, so that a quick no is not missed."""
        if not self.opens_ahead or self.went_ahead:
            return None
        self.went_ahead = True
        coming: Future[Channel] = Future()
        self._ahead = coming
        return threading.Thread(target=self._open_into, args=(coming,), daemon=True)

    def _open_into(self, coming: Future[Channel]) -> None:
        try:
            coming.set_result(self.open_session(timeout=self.channel_timeout))
        except (paramiko.SSHException, EOFError, OSError) as error:
            coming.set_exception(error)

    def forget_ahead(self) -> None:
        """Count on no session: we were not let in when it was asked for."""
        self._ahead = None

    def session(self) -> Channel:
        """Return a session: the one that was asked for already, or a new one.

        Raises:
            paramiko.SSHException: If the server refuses it, or does not answer.
        """
        ahead, self._ahead = self._ahead, None
        return ahead.result() if ahead is not None else self.open_session(timeout=self.channel_timeout)

    @property
    def methods(self) -> Sequence[str]:
        """What the server took when it last said no."""
        return self.auth_handler.allowed if self.auth_handler is not None else ()


def begin_command(channel: Channel, line: str) -> None:
    """Ask for a command without waiting for the yes: what is sent next reaches it, and a no closes the channel."""
    message = paramiko.Message()
    message.add_byte(cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string("exec")
    message.add_boolean(True)
    message.add_string(line)
    channel.get_transport()._send_user_message(message)
