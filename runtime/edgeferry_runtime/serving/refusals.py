"""What a server answers when it cannot do what was asked: one list for HTTP and gRPC."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from edgeferry_runtime.errors import DataError, EdgeferryError, MissingFileError, UsageError


class Kind(Enum):
    """Why a request is refused: its HTTP status and the name of its gRPC status code.

    Source of the pairs: google.rpc.Code, which names the HTTP status of each.
    """

    INVALID = (400, "INVALID_ARGUMENT")
    UNAUTHENTICATED = (401, "UNAUTHENTICATED")
    FORBIDDEN = (403, "PERMISSION_DENIED")
    NOT_FOUND = (404, "NOT_FOUND")
    METHOD = (405, "UNIMPLEMENTED")
    SLOW = (408, "CANCELLED")
    CONFLICT = (409, "FAILED_PRECONDITION")
    LENGTH = (411, "INVALID_ARGUMENT")
    TOO_LARGE = (413, "RESOURCE_EXHAUSTED")
    MEDIA_TYPE = (415, "INVALID_ARGUMENT")
    HEAD = (431, "RESOURCE_EXHAUSTED")
    FAILED = (500, "INTERNAL")
    BUSY = (503, "RESOURCE_EXHAUSTED")
    NOT_READY = (503, "UNAVAILABLE")
    LATE = (504, "DEADLINE_EXCEEDED")

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.value[0]

    @property
    def code(self) -> str:
        """The name of the gRPC status code."""
        return self.value[1]


class RefusedError(EdgeferryError):
    """A request that is not done.

    Its text goes to the client, so it names no path of this machine.

    Args:
        kind: Why.
        subject: What it is about, as the client knows it.
        reason: What is wrong with it.
        fix: What the client can do.
        retry_after_s: When to try again, where that can help.
    """

    def __init__(self, kind: Kind, subject: object, reason: str, fix: str, *, retry_after_s: int | None = None) -> None:
        self.kind = kind
        self.retry_after_s = retry_after_s
        super().__init__(subject, reason, fix)

    def __reduce__(self) -> tuple[type[RefusedError], tuple[Kind, str, str, str]]:  # type: ignore[override]
        return type(self), (self.kind, self.subject, self.reason, self.fix)


KINDS: tuple[tuple[type[EdgeferryError], Kind], ...] = (
    (DataError, Kind.INVALID),
    (UsageError, Kind.INVALID),
    (MissingFileError, Kind.NOT_FOUND),
)


def refuse(error: BaseException, subject: str = "the request") -> RefusedError:
    """Turn any error into what a client may read.

    Args:
        error: What was raised. A `RefusedError` is returned as it is; of anything unexpected only its type.
        subject: What to call the thing where the error names a path of this machine.
    """
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, EdgeferryError):
        kind = next((kind for cause, kind in KINDS if isinstance(error, cause)), Kind.FAILED)
        return RefusedError(kind, subject if _is_path(error.subject) else error.subject, error.reason, error.fix)
    reason = f"failed unexpectedly ({type(error).__name__})"
    return RefusedError(
        Kind.FAILED, subject, reason, "look into the server's log, and report it as a defect of Edgeferry"
    )


def _is_path(subject: str) -> bool:
    return "/" in subject and Path(subject).is_absolute()
