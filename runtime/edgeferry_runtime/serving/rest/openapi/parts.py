"""What the descriptions of all protocols are put together from: OpenAPI 3.1 as plain data.

Source: OpenAPI Specification 3.1.1; JSON Schema 2020-12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeferry_runtime.serving.refusals import Kind

Json = dict[str, Any]

PICTURES = ("image/png", "image/jpeg", "image/webp", "image/bmp")
BYTES = "application/octet-stream"

REFUSALS: Mapping[int, str] = {
    400: "Something that was sent is wrong; the text says what.",
    401: "The server wants a bearer token, and this request shows none or another one.",
    403: "A browser sent it for the page of another site.",
    404: "There is no such model, version or path.",
    405: "The path does not take this method.",
    408: "The body did not come in time.",
    409: "It contradicts what is there.",
    413: "The body or a tensor is larger than the server takes.",
    415: "The body is of a kind that is not taken here.",
    431: "The head of the request is larger than the server takes.",
    500: "The model failed, or the server has a defect.",
    503: "The queue is full, a model is not ready, or the server is about to stop.",
    504: "It was not done by its deadline.",
}
"""What an error may be, by its status."""

READING = (401, 431, 503)
"""Errors of what only reads."""
MODEL = (*READING, 404)
"""Errors of what reads of a model."""
WRITING = (*READING, 400, 403, 408, 413)
"""Errors of what has a body."""
INFERENCE = (*WRITING, 404, 415, 500, 504)
"""Errors of what runs a model."""


@dataclass(frozen=True)
class Named:
    """What the server has, as schemas that tools can offer.

    Attributes:
        models: A model's name.
        versions: A model's version.
    """

    models: Json
    versions: Json


def text(**also: Any) -> Json:
    """Describe a text."""
    return {"type": "string", **also}


def number(**also: Any) -> Json:
    """Describe a number."""
    return {"type": "number", **also}


def whole(**also: Any) -> Json:
    """Describe a whole number."""
    return {"type": "integer", **also}


def array(items: Json, **also: Any) -> Json:
    """Describe an array."""
    return {"type": "array", "items": items, **also}


def record(required: Mapping[str, Json], optional: Mapping[str, Json] | None = None, **also: Any) -> Json:
    """Describe an object by its fields."""
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required), **also}


def ref(name: str, kind: str = "schemas") -> Json:
    """Refer to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def parameter(name: str, where: str, schema: Json, description: str) -> Json:
    """Describe a parameter in the ``path``, the ``query`` or a ``header``."""
    return {"name": name, "in": where, "schema": schema, "description": description, "required": where == "path"}


def body(content: Mapping[str, Json], *, required: bool = True) -> Json:
    """Describe the body of a request.

    Args:
        content: By media type, the schema; an empty one is any bytes.
        required: Whether there must be one.
    """
    return {"content": _content(content), "required": required}


def pictures() -> dict[str, Json]:
    """Return, for `body`, that it may be a picture's file."""
    return {kind: {} for kind in PICTURES}


def answer(description: str, content: Mapping[str, Json]) -> Json:
    """Describe an answer; `content` as for `body`."""
    return {"description": description, "content": _content(content)} if content else {"description": description}


def _content(content: Mapping[str, Json]) -> Json:
    return {kind: {"schema": schema} if schema else {} for kind, schema in content.items()}


def operation(
    name: str, summary: str, good: Json, errors: Sequence[int], request: Json | None = None, **also: Any
) -> Json:
    """Describe what one method of one path does.

    Args:
        name: Its name, which no other operation has.
        summary: What it does.
        good: The answer with status 200.
        errors: The statuses of its errors.
        request: The body that it takes; None takes none.
        also: Other fields, such as ``parameters``.
    """
    refused = {str(status): ref(str(status), "responses") for status in sorted(set(errors))}
    taken = {"requestBody": request} if request else {}
    return {"operationId": name, "summary": summary, **also, **taken, "responses": {"200": good, **refused}}


def responses() -> dict[str, Json]:
    """Return the errors that every protocol shares."""
    again = {"Retry-After": {"schema": whole(minimum=0), "description": "Seconds to wait before another try."}}
    shown = {"WWW-Authenticate": {"schema": text(), "description": "How to show a token.", "required": True}}
    headers: dict[int, Json] = {Kind.BUSY.status: {"headers": again}, Kind.UNAUTHENTICATED.status: {"headers": shown}}
    return {
        str(status): {**answer(said, {"application/json": ref("Error")}), **headers.get(status, {})}
        for status, said in REFUSALS.items()
    }
