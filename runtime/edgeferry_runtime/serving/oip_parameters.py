"""The parameters of the Open Inference Protocol that a server acts upon, from JSON or protobuf alike.

Sources: KServe, "Binary Tensor Data Extension"; Triton Inference Server, "Classification Extension" and "Schedule
Policy Extension" (``timeout``). ``stored`` is our own. Parameters that are not known are passed over, as the protocol
says, but for those that ask for something that the answer would lack.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from edgeferry_runtime.serving.refusals import Kind, RefusedError

Value = TypeVar("Value")
Parameters = Mapping[str, Any]

JSON = {bool: "true or false", int: "a whole number", str: "a text", list: "an array", dict: "an object"}


@dataclass(frozen=True)
class Wanted:
    """How an output is wanted.

    Attributes:
        binary: As bytes behind the JSON, rather than in it.
        stored: As the stored integers of a quantized tensor, rather than real values.
        classes: The most likely classes in place of the values, so many of each row; 0 takes the values.
    """

    binary: bool = False
    stored: bool = False
    classes: int = 0


def field(data: Parameters, key: str, kind: type[Value], owner: str) -> Value | None:
    """Return the value of a key; None where it is absent or null.

    Raises:
        RefusedError: INVALID, if it is of another kind.
    """
    value = data.get(key)
    if value is None or type(value) is kind:
        return value
    reason = f"has {str(value)[:40]!r} for {key!r}"
    raise RefusedError(Kind.INVALID, owner, reason, f"give {JSON[kind]}")


def count(data: Parameters, key: str, owner: str) -> int:
    """Return a whole number that is not negative; 0 where it is absent.

    Raises:
        RefusedError: INVALID, if it is something else.
    """
    value = field(data, key, int, owner) or 0
    if value < 0:
        raise RefusedError(Kind.INVALID, owner, f"has {value} for {key!r}", "give 0 or more")
    return value


def read_default(parameters: Parameters) -> Wanted:
    """Read how outputs are wanted of which nothing else is said, from the parameters of the request.

    Raises:
        RefusedError: INVALID, for a value of another kind, or a sequence, of which nothing is kept between requests.
    """
    if parameters.get("sequence_id"):
        raise RefusedError(Kind.INVALID, "the request", "is one of a sequence", "send each request on its own")
    binary = field(parameters, "binary_data_output", bool, "the request")
    return Wanted(binary or False, field(parameters, "stored", bool, "the request") or False)


def read_timeout(parameters: Parameters) -> float | None:
    """Read how many seconds the client waits, from the request's ``timeout`` in microseconds; None where it is 0.

    Raises:
        RefusedError: INVALID, if it is no number.
    """
    return count(parameters, "timeout", "the request") / 1e6 or None


def read_wanted(parameters: Parameters, name: str, default: Wanted) -> Wanted:
    """Read how one output is wanted, from its own parameters.

    Raises:
        RefusedError: INVALID, for a value of another kind, or shared memory, which is not offered.
    """
    owner = f"output {name[:80]!r}"
    refuse_shared_memory(parameters, owner)
    binary, stored = (field(parameters, key, bool, owner) for key in ("binary_data", "stored"))
    return Wanted(
        default.binary if binary is None else binary,
        default.stored if stored is None else stored,
        count(parameters, "classification", owner),
    )


def refuse_shared_memory(parameters: Parameters, owner: str) -> None:
    """Refuse a tensor that lies in memory, of which the server would not know whose it is.

    Raises:
        RefusedError: INVALID.
    """
    if "shared_memory_region" in parameters:
        raise RefusedError(Kind.INVALID, owner, "lies in shared memory, which is not offered", "send its bytes")
