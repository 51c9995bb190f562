"""From a ``ModelInferRequest`` to a `Call`, and from its answer to a ``ModelInferResponse``.

Tensors are bytes beside the message (raw contents) or lists of values within it (contents). Where a request has raw
contents, all of its inputs have, in their order. An answer has the form of its request, so that a client without
means to take bytes apart gets none; FP16 is always raw.

Source: KServe, "Open Inference Protocol (V2)", gRPC API, ModelInferRequest and ModelInferResponse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np

from edgeferry_runtime.serving.datatypes import NAMES, dtype_of
from edgeferry_runtime.serving.oip import best_classes
from edgeferry_runtime.serving.oip_parameters import (
    Wanted,
    read_default,
    read_timeout,
    read_wanted,
    refuse_shared_memory,
)
from edgeferry_runtime.serving.raw import LENGTH, read_raw, write_raw
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.release import Release
from edgeferry_runtime.serving.rpc.messages import message
from edgeferry_runtime.serving.rpc.values import ONE_BY_ONE, from_list, refuse_crowd, refused, to_list
from edgeferry_runtime.serving.service import Answer, Call, names
from edgeferry_runtime.tensors import Array

Check = Callable[[str, tuple[int, ...], "np.dtype[np.generic]"], None]
"""Refuses a tensor by its name, shape and dtype, before there is memory for it: `Service.check_tensor`."""

CONTENTS: Mapping[str, str] = MappingProxyType(
    {
        "BOOL": "bool_contents",
        **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
        **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
        "INT64": "int64_contents",
        "UINT64": "uint64_contents",
        "FP32": "fp32_contents",
        "FP64": "fp64_contents",
        "BYTES": "bytes_contents",
    }
)
"""By datatype, which list of ``InferTensorContents`` holds its values."""


def check_count(request: Any) -> None:
    """Refuse a ``ModelInferRequest`` that names too many tensors and parameters.

    Raises:
        RefusedError: INVALID.
    """
    refuse_crowd(sum(map(len, (request.inputs, request.outputs, request.raw_input_contents, request.parameters))))
    refuse_crowd(sum(len(one.parameters) for side in (request.inputs, request.outputs) for one in side))


def takes_long(request: Any) -> bool:
    """Tell whether a ``ModelInferRequest`` has so many elements to be read one by one that others would wait.

    The sizes of a shape are such elements too: how many there may be is seen when they are read.
    """
    lists = [one.shape for one in request.inputs]
    lists += [getattr(one.contents, CONTENTS[one.datatype]) for one in request.inputs if one.datatype in CONTENTS]
    texts = any(one.datatype == "BYTES" for one in request.inputs)
    most = sum(map(len, request.raw_input_contents)) // LENGTH.size if texts else 0
    return sum(map(len, lists), most) > ONE_BY_ONE


def read_call(
    request: Any, release: Release, check: Check, timeout_s: float | None
) -> tuple[Call, Mapping[str, Wanted]]:
    """Read a request.

    Args:
        request: A ``ModelInferRequest``.
        release: The release that it means.
        check: Refuses tensors that are too large.
        timeout_s: How long the client waits, as gRPC knows it; the parameter ``timeout`` may say less.

    Returns:
        The call, and how each of its outputs is wanted.

    Raises:
        RefusedError: INVALID, if it is no such request; what `check` raises.
        UnknownNameError: For a datatype that there is not.
    """
    parameters = _values(request.parameters)
    default = read_default(parameters)
    wanted = {out.name: read_wanted(_values(out.parameters), out.name, default) for out in request.outputs}
    if len(wanted) != len(request.outputs):
        raise RefusedError(Kind.INVALID, "the request", "names an output twice", "name each once")
    wanted = wanted or dict.fromkeys(names(release.primary.outputs), default)
    stored = {name: how.stored for name, how in wanted.items()}
    limits = [seconds for seconds in (timeout_s, read_timeout(parameters)) if seconds is not None]
    feeds = read_inputs(request, check)
    return Call(release.name, feeds, release.version, None, stored, min(limits, default=None)), wanted


def _values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of parameters by name; None of one that has none."""
    choices = {name: value.WhichOneof("parameter_choice") for name, value in parameters.items()}
    return {name: getattr(parameters[name], choice) if choice else None for name, choice in choices.items()}


def read_inputs(request: Any, check: Check) -> dict[str, Array]:
    """Read the inputs of a ``ModelInferRequest``; raw ones are not copied, so their arrays are read-only.

    Raises:
        RefusedError, UnknownNameError: As `read_call`.
    """
    raw, feeds = request.raw_input_contents, dict[str, Array]()
    if raw and len(raw) != len(request.inputs):
        reason = f"has {len(request.inputs)} inputs and {len(raw)} raw contents"
        raise RefusedError(Kind.INVALID, "the request", reason, "send raw contents of every input or of none")
    for i, tensor in enumerate(request.inputs):
        if tensor.name in feeds:
            raise RefusedError(Kind.INVALID, "the request", "names an input twice", "name each once")
        feeds[tensor.name] = _read_input(tensor, raw[i] if raw else None, check)
    return feeds


def _read_input(tensor: Any, raw: bytes | None, check: Check) -> Array:
    name, shape, dtype = tensor.name, tuple(tensor.shape), dtype_of(tensor.datatype)
    refuse_shared_memory(tensor.parameters, f"input {name[:80]!r}")
    check(name, shape, dtype)
    if raw is None:
        return _read_contents(tensor, shape, dtype)
    if tensor.HasField("contents"):
        raise refused(name, "has contents beside raw contents", "send one of the two")
    return read_raw(name, dtype, shape, memoryview(raw))


def _read_contents(tensor: Any, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    field = CONTENTS.get(tensor.datatype)
    if field is None:
        raise refused(tensor.name, f"is {tensor.datatype}, which contents cannot hold", "send raw contents")
    values = getattr(tensor.contents, field)
    if len(values) != prod(shape):
        reason = f"has {len(values)} values in {field}, and its shape {list(shape)} takes {prod(shape)}"
        raise refused(tensor.name, reason, "send every element")
    return from_list(tensor.name, values, dtype).reshape(shape)


def write_answer(request: Any, answer: Answer, wanted: Mapping[str, Wanted]) -> Any:
    """Write what came of a request.

    Args:
        request: The request.
        answer: The outputs.
        wanted: How each of them is wanted.

    Returns:
        A ``ModelInferResponse``.

    Raises:
        RefusedError: INVALID, if an output has no classes, or none of the protocol's datatypes.
    """
    release = answer.release
    made = message("inference.ModelInferResponse")
    response = made(model_name=release.name, model_version=str(release.version), id=request.id)
    outputs = dict(answer.outputs)
    for name, how in wanted.items():
        if how.classes:
            outputs[name] = best_classes(name, outputs[name], how.classes, release.labels)
    raw = bool(request.raw_input_contents) or any(value.dtype == np.float16 for value in outputs.values())
    for name, value in outputs.items():
        _write_output(response, name, value, raw)
    return response


def _write_output(response: Any, name: str, value: Array, raw: bool) -> None:
    datatype = NAMES.get(value.dtype)
    if datatype is None:
        raise refused(name, f"holds {value.dtype}, which the protocol has no name for", "ask for other outputs")
    tensor = response.outputs.add(name=name, datatype=datatype, shape=value.shape)
    if raw:
        response.raw_output_contents.append(bytes(write_raw(value)))
    else:
        getattr(tensor.contents, CONTENTS[datatype]).extend(to_list(value))
