"""TorchServe's inference API.

Source: TorchServe, "Inference API" (docs/inference_api.md). Pictures are answered as its `image_classifier` does, and
errors as its `ErrorResponse`.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeferry_runtime.classification import Prediction
from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.serving.refusals import Kind, RefusedError, refuse
from edgeferry_runtime.serving.release import State
from edgeferry_runtime.serving.rest.answers import error_answer, json_answer
from edgeferry_runtime.serving.rest.bodies import read_body
from edgeferry_runtime.serving.rest.forms import FORM, media_type, read_form
from edgeferry_runtime.serving.rest.json_calls import Answering, Asked, understand
from edgeferry_runtime.serving.rest.json_tensors import binary, columns, from_base64
from edgeferry_runtime.serving.rest.openapi import openapi
from edgeferry_runtime.serving.service import Service
from edgeferry_runtime.serving.signatures import find_signature
from edgeferry_runtime.tensors import Array

Endpoint = Callable[[Request], Awaitable[Response]]

DATA = "data"
TOP = 5
HOW = "send a picture's file or JSON as the body, or either as the field 'data' of a form"

TYPES: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.NOT_FOUND: "ModelNotFoundException",
        Kind.BUSY: "ServiceUnavailableException",
        Kind.NOT_READY: "ServiceUnavailableException",
        Kind.CONFLICT: "ConflictStatusException",
        Kind.LATE: "RequestTimeoutException",
        Kind.FAILED: "InternalServerException",
    }
)
"""TorchServe's own names; any other refusal is a BadRequestException."""


@dataclass(frozen=True)
class Sent:
    """What was sent.

    Attributes:
        content: A picture's file, or JSON.
        is_json: Whether it is JSON.
    """

    content: bytes
    is_json: bool


def answering(endpoint: Endpoint) -> Endpoint:
    """Have an endpoint answer errors as TorchServe does."""

    @functools.wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except EdgeferryError as error:
            refusal = refuse(error)
            kind = TYPES.get(refusal.kind, "BadRequestException")
            return error_answer(refusal, {"code": refusal.kind.status, "type": kind, "message": str(refusal)})

    return answer


async def ping(request: Request) -> Response:
    """Tell whether every model answers: healthy with 200, else with 500."""
    service: Service = request.app.state.service
    if service.ready():
        return json_answer({"status": "Healthy"})
    some = not service.stopping and any(listing.state is State.READY for listing in service.repository.index())
    return json_answer({"status": "Partial Healthy" if some else "Unhealthy"}, 500)


@answering
async def predict(request: Request) -> Response:
    """Answer a picture with labels and their probabilities, and JSON with the model's outputs."""
    service: Service = request.app.state.service
    name, version = request.path_params["name"], request.path_params.get("version")
    sent = await _sent(request)

    def find(value: Any = None) -> Asked:
        release = service.repository.find(name, version)
        return Asked(service, version, release, find_signature(release, ""))

    if not sent.is_json:
        return json_answer(await _named(find(), sent.content))
    answer = await understand(service, sent.content, find, _read)
    return json_answer(await answer())


def _read(asked: Asked, value: Any) -> Answering:
    """Read JSON: a picture, or tensors."""
    if isinstance(value, dict) and list(value) == [DATA] and DATA not in asked.inputs:
        value = value[DATA]
    picture = _picture(value) if asked.takes_pictures else None
    if picture is not None:
        return partial(_named, asked, picture)
    feeds = value if isinstance(value, dict) else {asked.only_input("the body"): value}
    return partial(_outputs, asked, asked.tensors(feeds))


async def _outputs(asked: Asked, arrays: Mapping[str, Array]) -> Any:
    return columns(await asked.run(arrays))


async def _named(asked: Asked, picture: bytes) -> dict[str, float]:
    (named,) = await asked.classify([picture], TOP)
    return by_label(named.predictions)


def by_label(predictions: list[Prediction]) -> dict[str, float]:
    """Give each class its probability; a label that another class has too is told apart by its number."""
    found: dict[str, float] = {}
    for one in predictions:
        found[f"{one.label} ({one.index})" if one.label in found else one.label] = one.score
    return found


async def _sent(request: Request) -> Sent:
    """Read a picture's file or JSON: the body, or the field ``data`` of a form."""
    kind = media_type(request)
    content = await (_field(request) if kind == FORM else read_body(request))
    if kind == "application/x-www-form-urlencoded" and content.startswith(b"data="):
        content = _urlencoded(content)
    if not content:
        raise RefusedError(Kind.INVALID, "the request", "holds nothing", HOW)
    return Sent(content, kind == "application/json" or content.lstrip()[:1] in (b"[", b"{"))


def _urlencoded(form: bytes) -> bytes:
    value, more, _ = form.removeprefix(b"data=").partition(b"&")
    if more:
        raise RefusedError(Kind.INVALID, "the form", "has other fields than one 'data'", HOW)
    return unquote_to_bytes(value.replace(b"+", b" "))


async def _field(request: Request) -> bytes:
    given = await read_form(request)
    if [one.name for one in given] != [DATA]:
        listed = ", ".join(repr(one.name[:40]) for one in given) or "none"
        raise RefusedError(Kind.INVALID, "the form", f"has other fields than one 'data': {listed}", HOW)
    return bytes(given[0].content)


def _picture(value: Any) -> bytes | None:
    """Return a picture that stands in JSON as base64; None where it is something else."""
    return from_base64(value) if isinstance(value, str) else binary(value)


routes = [
    Route("/predictions/{name}", predict, methods=["POST", "PUT"]),
    Route("/predictions/{name}/{version}", predict, methods=["POST", "PUT"]),
    Route("/ping", ping, methods=["GET"]),
    Route("/api-description", openapi, methods=["GET"]),
]
