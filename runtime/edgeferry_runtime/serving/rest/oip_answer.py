"""An answer of the Open Inference Protocol: JSON, and behind it the bytes of outputs that were wanted so.

Sources: Open Inference Protocol v2, "Inference Response JSON Object"; KServe, "Binary Tensor Data Extension".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.responses import Response

from edgeferry_runtime.serving.datatypes import NAMES
from edgeferry_runtime.serving.oip import best_classes
from edgeferry_runtime.serving.oip_parameters import Wanted
from edgeferry_runtime.serving.raw import write_raw
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.rest.oip_json import write_json
from edgeferry_runtime.serving.rest.oip_request import HEAD_LENGTH
from edgeferry_runtime.serving.service import Answer
from edgeferry_runtime.tensors import Array


def write_answer(answer: Answer, wanted: Mapping[str, Wanted], request_id: str | None) -> Response:
    """Write what came of a request.

    Args:
        answer: The outputs.
        wanted: How each of them is wanted.
        request_id: What the client calls the request; None where it has no name.

    Raises:
        RefusedError: INVALID, if an output has no form in JSON, or no classes.
    """
    raw: list[bytes | memoryview] = []
    labels = answer.release.labels
    outputs = [_output(name, value, wanted[name], labels, raw) for name, value in answer.outputs.items()]
    head = {"model_name": answer.release.name, "model_version": str(answer.release.version), "outputs": outputs}
    text = orjson.dumps(head if request_id is None else {"id": request_id, **head}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not raw:
        return Response(text, media_type="application/json")
    headers = {HEAD_LENGTH: str(len(text))}
    return Response(b"".join([text, *raw]), headers=headers, media_type="application/octet-stream")


def _output(
    name: str, value: Array, how: Wanted, labels: Sequence[str], raw: list[bytes | memoryview]
) -> dict[str, Any]:
    """Describe an output; its bytes, where they are wanted, join `raw`."""
    if how.classes:
        value = best_classes(name, value, how.classes, labels)
    said = {"name": name, "datatype": _datatype(name, value), "shape": value.shape}
    if not how.binary:
        return {**said, "data": write_json(name, value)}
    raw.append(write_raw(value))
    return {**said, "parameters": {"binary_data_size": len(raw[-1])}}


def _datatype(name: str, value: Array) -> str:
    if value.dtype not in NAMES:
        reason = f"holds {value.dtype}, which the protocol has no name for"
        raise RefusedError(Kind.INVALID, f"output {name!r}", reason, "ask for other outputs")
    return NAMES[value.dtype]
