"""How the two sides of a device talk: one JSON object a line, and errors that arrive as what they were."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import BinaryIO

from edgeferry_runtime import errors
from edgeferry_runtime.errors import EdgeferryError

PROTOCOL = 2
"""The version that both sides must have; the host replaces a device's runtime that differs from its own."""
PROGRESS = b'{"progress"'
"""How a line begins that is no answer yet."""


def encode_error(error: EdgeferryError) -> dict[str, str]:
    """Return the JSON form of an expected error."""
    return {
        "type": type(error).__name__,
        "subject": error.subject,
        "reason": error.reason,
        "fix": error.fix,
    }


def decode_error(data: Mapping[str, str], device: str = "") -> EdgeferryError:
    """Rebuild an error that was raised on the other side.

    Args:
        data: What `encode_error` returned.
        device: Where it happened; named in the message.

    Returns:
        An error of the same class, or of its nearest ancestor where the class takes other arguments.
    """
    found = getattr(errors, data["type"], EdgeferryError)
    leaf = found if isinstance(found, type) and issubclass(found, EdgeferryError) else EdgeferryError
    plain: type[EdgeferryError] = next(c for c in leaf.__mro__ if _takes_three(c))
    subject = f"{data['subject']} on {device}" if device else data["subject"]
    return plain(subject, data["reason"], data["fix"])


def _takes_three(leaf: type) -> bool:
    return leaf is EdgeferryError or (issubclass(leaf, EdgeferryError) and "__init__" not in vars(leaf))


def claim_stdout() -> BinaryIO:
    """Take stdout for the answers alone; whatever native code prints from now on goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers
