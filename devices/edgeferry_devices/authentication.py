"""Showing who we are: keys first, then a password where the server takes one and the user gives one."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from edgeferry_devices.asking import Secrets
from edgeferry_devices.identities import TRIES, Identities
from edgeferry_devices.route import Route
from edgeferry_runtime.errors import AuthenticationError, DeviceTimeoutError

if TYPE_CHECKING:
    import paramiko

    from edgeferry_devices.transport import Transport

BY_PASSWORD = {"password", "keyboard-interactive"}
FEW = 4
"""So many refused keys leave room for a question: OpenSSH hangs up at the sixth refusal, and a password may follow."""


def authenticate(transport: Transport, route: Route, secrets: Secrets) -> None:
    """Enter a server whose host key was checked.

    Raises:
        AuthenticationError: If it takes nothing that we have.
        DeviceTimeoutError: If it does not answer.
    """
    entry = _Entry(transport, route, Identities(route, secrets))
    if entry.by_keys():
        return
    if BY_PASSWORD & set(entry.left) and _by_password(transport, route, secrets):
        return
    raise _refused(route, entry.identities, entry.reason(), entry.left)


class _Entry:
    """One try to enter a server.

    Args:
        transport: The connection.
        route: The way.
        identities: The keys for it.

    Attributes:
        left: The methods that the server still takes, as far as they are known.
        taken: Whether it took a key, and wants more.
    """

    def __init__(self, transport: Transport, route: Route, identities: Identities) -> None:
        self.transport = transport
        self.route = route
        self.identities = identities
        self.left: Sequence[str] = ("publickey",)
        self.taken = False

    def by_keys(self) -> bool:
        """Offer the open keys at once, which spares a question; locked ones only where keys are taken at all."""
        if self._offer(self.identities.offers()):
            return True
        if self.taken:
            return False
        if self.identities.offered <= FEW and self._by_nothing():
            return True
        return "publickey" in self.left and self._offer(self.identities.unlocked())

    def reason(self) -> str:
        """Say why the keys were not enough."""
        if self.taken:
            return f"took the key, and wants {' or '.join(sorted(self.left))} besides"
        if "publickey" not in self.left:
            return f"takes only {', '.join(sorted(self.left))}"
        offered = self.identities.offered
        if not offered:
            return "no key was found to offer"
        return "refused the key" if offered == 1 else f"refused all {offered} keys"

    def _by_nothing(self) -> bool:
        """Ask which methods the server takes; tell whether it lets anybody in."""
        import paramiko

        try:
            self.left = tuple(self.transport.auth_none(self.route.user))
        except paramiko.AuthenticationException as error:
            _check_alive(self.transport, self.route, error, "it told no way to log in")
            self.left = self.transport.methods
            return False
        return not self.left

    def _offer(self, keys: Iterable[paramiko.PKey]) -> bool:
        """Offer keys; tell whether one was enough, False also where a server that took one wants more."""
        import paramiko

        for key in keys:
            self.identities.offered += 1
            try:
                self.left = tuple(self.transport.auth_publickey(self.route.user, key))
            except paramiko.AuthenticationException as error:
                hung_up = f"it hung up after {self.identities.offered} keys, the right one not among them"
                _check_alive(self.transport, self.route, error, hung_up)
                self.left = self.transport.methods
                if "publickey" not in self.left:
                    return False
            else:
                self.taken = True
                return not self.left
        return False


def _by_password(transport: Transport, route: Route, secrets: Secrets) -> bool:
    """Give the password; tell whether it was taken, False where there is none to give."""
    import paramiko

    given = _from_environment(route)
    wrong = None
    for _ in range(1 if given else TRIES):
        password = given or secrets.get(f"Password of {route.user}@{route.host}", wrong)
        if password is None:
            return False
        try:
            transport.auth_password(route.user, password)
        except paramiko.AuthenticationException as error:
            _check_alive(transport, route, error, "it hung up after a wrong password")
            wrong = password
        else:
            return True
    source = f"in ${route.password_env}" if given else f"was asked for {TRIES} times and"
    reason = f"account {route.user}: the password {source} is wrong"
    raise AuthenticationError(route.device, reason, "check the account and its password")


def _from_environment(route: Route) -> str | None:
    if not route.password_env:
        return None
    password = os.environ.get(route.password_env)
    if not password:
        reason = f"its password should be in ${route.password_env}, which is not set"
        raise AuthenticationError(route.device, reason, f"set it: read -rs {route.password_env}; export it")
    return password


def _check_alive(transport: Transport, route: Route, error: Exception, otherwise: str) -> None:
    """Go on only where the server still listens."""
    if "timeout" in str(error).lower():
        fix = "check its load, and its name service (UseDNS), then try again"
        raise DeviceTimeoutError(route.device, "did not answer in time while authenticating", fix) from error
    if not transport.is_active():
        reason = f"account {route.user}: {otherwise}"
        fix = "offer one key alone: ferry device add --key, or IdentitiesOnly in ~/.ssh/config"
        raise AuthenticationError(route.device, reason, fix) from error


def _refused(route: Route, identities: Identities, reason: str, allowed: Collection[str]) -> AuthenticationError:
    if identities.locked:
        key = identities.locked[0]
        why = f"the key {key} is encrypted, no agent holds it, and no passphrase was given"
        return AuthenticationError(route.device, why, f"run it in a terminal, or unlock the key first: ssh-add {key}")
    place = f"{'' if route.port == 22 else f'-p {route.port} '}{route.user}@{route.host}"
    fix = f"copy your key there (ssh-copy-id {place}), or give another one with: ferry device add --key"
    if BY_PASSWORD & set(allowed):
        fix += "; a password is asked for in a terminal, or taken from: ferry device add --password-env VARIABLE"
    return AuthenticationError(route.device, f"account {route.user}: {reason}", fix)
