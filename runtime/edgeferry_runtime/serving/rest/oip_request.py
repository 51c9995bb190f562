"""A request of the Open Inference Protocol: JSON, and behind it the bytes of tensors that are not in it.

Sources: Open Inference Protocol v2, "Inference Request JSON Object"; KServe, "Binary Tensor Data Extension".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from edgeferry_runtime.serving.datatypes import dtype_of
from edgeferry_runtime.serving.oip_parameters import (
    Wanted,
    count,
    field,
    read_default,
    read_timeout,
    read_wanted,
    refuse_shared_memory,
)
from edgeferry_runtime.serving.raw import read_raw
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.rest.oip_json import read_json
from edgeferry_runtime.tensors import Array

HEAD_LENGTH = "Inference-Header-Content-Length"

Check = Callable[[str, tuple[int, ...], "np.dtype[np.generic]"], None]
"""Refuses a tensor by its name, shape and dtype, before there is memory for it: `Service.check_tensor`."""


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        id: What the client calls the request, to be sent back; None where it has no name.
        feeds: An array for each input that was sent.
        outputs: How each output is wanted, in order; None where the request lists none.
        default: How outputs are wanted of which nothing else is said.
        timeout_s: How long the client waits; None where it does not say.
    """

    id: str | None
    feeds: Mapping[str, Array]
    outputs: Mapping[str, Wanted] | None
    default: Wanted
    timeout_s: float | None


@dataclass(frozen=True)
class _Sent:
    """An input as the JSON tells of it; `size` counts its bytes behind the JSON, None where `data` has it all."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    size: int | None
    data: Any


def read_request(body: bytes, head_length: str | None, check: Check) -> Asked:
    """Read the body of a request.

    Args:
        body: All of it.
        head_length: How many of its bytes are JSON, as the header says; None where all are.
        check: Refuses tensors that are too large.

    Raises:
        RefusedError: INVALID, if it is no such request; what `check` raises.
        UnknownNameError: For a datatype that there is not.
    """
    text, binary = _split(body, head_length)
    request = read_object(text)
    parameters = field(request, "parameters", dict, "the request") or {}
    default = read_default(parameters)
    sent = [_sent(data, check) for data in field(request, "inputs", list, "the request") or ()]
    listed = field(request, "outputs", list, "the request") or None
    return Asked(
        field(request, "id", str, "the request"),
        _feeds(sent, binary),
        None if listed is None else _unique([_output(data, default) for data in listed], "output"),
        default,
        read_timeout(parameters),
    )


def read_object(text: bytes | memoryview) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        RefusedError: INVALID, if it is something else.
    """
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _refused(
            f"is no JSON ({error.msg.partition(':')[0]}, {where})",
            f"send a JSON object, and its length as {HEAD_LENGTH} where bytes follow",
        ) from None
    if type(found) is not dict:
        raise _refused("is no JSON object", "send one")
    return found


def _split(body: bytes, head_length: str | None) -> tuple[memoryview, memoryview]:
    whole = memoryview(body)
    if head_length is None:
        return whole, whole[len(whole) :]
    if not head_length.isascii() or not head_length.isdigit() or len(head_length) > 18:
        raise _refused(f"has {head_length[:40]!r} for {HEAD_LENGTH}", "give the number of bytes of its JSON")
    length = int(head_length)
    if length > len(whole):
        reason = f"has {len(whole)} bytes, and its JSON alone has {length} of them, as {HEAD_LENGTH} says"
        raise _refused(reason, "send all of it")
    return whole[:length], whole[length:]


def _sent(data: Any, check: Check) -> _Sent:
    name = _name(data, "input")
    owner = f"input {name[:80]!r}"
    shape = tuple(field(data, "shape", list, owner) or ())
    if "shape" not in data or any(type(size) is not int for size in shape):
        raise RefusedError(Kind.INVALID, owner, "has no shape", "give an array of whole numbers")
    dtype = dtype_of(field(data, "datatype", str, owner) or "")
    check(name, shape, dtype)
    parameters = field(data, "parameters", dict, owner) or {}
    refuse_shared_memory(parameters, owner)
    size = count(parameters, "binary_data_size", owner) if "binary_data_size" in parameters else None
    if size is not None and "data" in data:
        raise RefusedError(Kind.INVALID, owner, "has both data and binary_data_size", "send one of them")
    return _Sent(name, shape, dtype, size, data.get("data"))


def _feeds(sent: list[_Sent], binary: memoryview) -> dict[str, Array]:
    said = sum(one.size or 0 for one in sent)
    if said != len(binary):
        reason = f"has {len(binary)} bytes behind its JSON, and its inputs' binary_data_size say {said}"
        raise _refused(reason, f"send all of them, and {HEAD_LENGTH}")
    arrays, at = [], 0
    for one in sent:
        arrays.append((one.name, _array(one, binary[at : at + (one.size or 0)])))
        at += one.size or 0
    return _unique(arrays, "input")


def _array(one: _Sent, data: memoryview) -> Array:
    if one.size is None:
        return read_json(one.name, one.dtype, one.shape, one.data)
    return read_raw(one.name, one.dtype, one.shape, data)


def _output(data: Any, default: Wanted) -> tuple[str, Wanted]:
    name = _name(data, "output")
    return name, read_wanted(field(data, "parameters", dict, f"output {name[:80]!r}") or {}, name, default)


def _name(data: Any, kind: str) -> str:
    name = field(data, "name", str, f"an {kind}") if type(data) is dict else None
    if name is None:
        raise RefusedError(Kind.INVALID, f"an {kind}", "has no name", "give an object with a name")
    return name


def _unique(pairs: list[tuple[str, Any]], kind: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _refused(f"names an {kind} twice", "name each once")
    return found


def _refused(reason: str, fix: str) -> RefusedError:
    return RefusedError(Kind.INVALID, "the request", reason, fix)
