"""Showing who we are: keys first, then a password where the server takes one and the user gives one."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TYPE_CHECKING

from edgeferry_devices.asking import Secrets
from edgeferry_devices.identities import TRIES, Identities
from edgeferry_devices.route import Route
from edgeferry_runtime.errors import AuthenticationError, DeviceTimeoutError

if TYPE_CHECKING:
    import paramiko

BY_PASSWORD = {"password", "keyboard-interactive"}


def authenticate(transport: paramiko.Transport, route: Route, secrets: Secrets) -> None:
    """Enter a server whose host key was checked.

    Raises:
        AuthenticationError: If it takes nothing that we have.
        DeviceTimeoutError: If it does not answer.
    """
    allowed = _allowed(transport, route)
    if not allowed:
        return
    identities = Identities(route, secrets)
    wanted = _by_keys(transport, route, identities) if "publickey" in allowed else None
    if wanted == []:
        return
    left = wanted or allowed
    if BY_PASSWORD & set(left) and _by_password(transport, route, secrets):
        return
    raise _refused(route, identities, _reason(identities, wanted, allowed), left)


def _allowed(transport: paramiko.Transport, route: Route) -> Collection[str]:
    """Return the methods that the server takes; none where it lets anybody in."""
    import paramiko

    try:
        return tuple(transport.auth_none(route.user))
    except paramiko.BadAuthenticationType as error:
        return tuple(error.allowed_types)
    except paramiko.AuthenticationException as error:
        _check_alive(transport, route, error, "it told no way to log in")
        return ("publickey",)


def _by_keys(transport: paramiko.Transport, route: Route, identities: Identities) -> list[str] | None:
    """Offer the keys; return what the server wants besides the one that it took, None where it took none."""
    import paramiko

    for key in identities.offers():
        identities.offered += 1
        try:
            return list(transport.auth_publickey(route.user, key))
        except paramiko.AuthenticationException as error:
            hung_up = f"it hung up after {identities.offered} keys, the right one not among them"
            _check_alive(transport, route, error, hung_up)
    return None


def _by_password(transport: paramiko.Transport, route: Route, secrets: Secrets) -> bool:
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


def _check_alive(transport: paramiko.Transport, route: Route, error: Exception, otherwise: str) -> None:
    """Go on only where the server still listens."""
    if "timeout" in str(error).lower():
        fix = "check its load, and its name service (UseDNS), then try again"
        raise DeviceTimeoutError(route.device, "did not answer in time while authenticating", fix) from error
    if not transport.is_active():
        reason = f"account {route.user}: {otherwise}"
        fix = "offer one key alone: ferry device add --key, or IdentitiesOnly in ~/.ssh/config"
        raise AuthenticationError(route.device, reason, fix) from error


def _reason(identities: Identities, wanted: list[str] | None, allowed: Collection[str]) -> str:
    if wanted:
        return f"took the key, and wants {' or '.join(sorted(wanted))} besides"
    if "publickey" not in allowed:
        return f"takes only {', '.join(sorted(allowed))}"
    if not identities.offered:
        return "no key was found to offer"
    return "refused the key" if identities.offered == 1 else f"refused all {identities.offered} keys"


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
