"""Every error of the layers below, as one of ours."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Iterator

from edgeferry_runtime.errors import (
    DeviceError,
    DeviceRequirementError,
    DeviceTimeoutError,
    EdgeferryError,
    UnreachableError,
)

LOST = (errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ESHUTDOWN)


@contextlib.contextmanager
def faults(device: str, doing: str) -> Iterator[None]:
    """Name the device and what was being done in whatever goes wrong on the way there.

    Args:
        device: The device's name.
        doing: What goes on, such as ``sending a file``.

    Raises:
        DeviceTimeoutError: If it did not answer in time.
        UnreachableError: If the connection was lost.
        DeviceRequirementError: If it refused a file.
    """
    try:
        yield
    except EdgeferryError:
        raise
    except TimeoutError as error:
        raise _timeout(device, doing) from error
    except _ssh_errors() as error:
        raise _from_ssh(device, doing, error) from error
    except EOFError as error:
        raise _lost(device, doing, error) from error
    except OSError as error:
        raise _from_os(device, doing, error) from error


def _ssh_errors() -> tuple[type[Exception], ...]:
    """Return paramiko's errors where it is in use; `local` needs none of it."""
    paramiko = sys.modules.get("paramiko")
    return (paramiko.SSHException,) if paramiko else ()


def _from_ssh(device: str, doing: str, error: Exception) -> DeviceError:
    if hasattr(error, "code"):  # paramiko.ChannelException
        reason = f"its SSH server refused another session while {doing} ({error})"
        return DeviceError(device, reason, "end other sessions there, or raise MaxSessions")
    return _timeout(device, doing) if "timeout" in str(error).lower() else _lost(device, doing, error)


def _timeout(device: str, doing: str) -> DeviceTimeoutError:
    return DeviceTimeoutError(
        device, f"did not answer in time while {doing}", "check its network and load, then try again"
    )


def _lost(device: str, doing: str, error: Exception) -> UnreachableError:
    said = f" ({error})" if str(error) else ""
    return UnreachableError(device, f"the connection was lost while {doing}{said}", "check the network, then try again")


def _from_os(device: str, doing: str, error: OSError) -> DeviceError:
    if error.errno in LOST or "closed" in str(error).lower():
        return _lost(device, doing, error)
    why = "no space is left, or the folder refuses" if str(error) == "Failure" else (error.strerror or str(error))
    return DeviceRequirementError(device, f"{doing} failed: {why}", "check the free space and the folder's owner there")
