"""``GET /openapi.json``: every path of every protocol on the HTTP port, for tools and generated clients.

One module describes each protocol as plain data; `document` puts them together. The names of the models that are
loaded stand in it, so that a tool may offer them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeferry_runtime import __version__
from edgeferry_runtime.serving.release import State
from edgeferry_runtime.serving.rest.answers import json_answer
from edgeferry_runtime.serving.rest.openapi import oip, people, tensorflow, torchserve
from edgeferry_runtime.serving.rest.openapi.parts import Json, Named, record, responses, text
from edgeferry_runtime.serving.service import Service

PROTOCOLS = (oip, tensorflow, torchserve, people)
BEARER = {"type": "http", "scheme": "bearer", "description": "The token that the server was started with."}


async def openapi(request: Request) -> Response:
    """Give the document."""
    service: Service = request.app.state.service
    repository = service.repository
    loaded = [(listing.name, listing.version) for listing in repository.index() if listing.state is State.READY]
    return json_answer(document(loaded, secured=repository.settings.address.token is not None))


def document(loaded: Iterable[tuple[str, int]], *, secured: bool) -> dict[str, Any]:
    """Describe the HTTP port.

    Args:
        loaded: The models that are loaded, each with a version.
        secured: Whether a bearer token must be shown.
    """
    pairs = list(loaded)
    named = Named(_one_of(name for name, _ in pairs), _one_of(str(version) for _, version in pairs))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Edgeferry",
            "version": __version__,
            "summary": "Models on this device, for the clients that you have",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}] if secured else [],
        "tags": [{"name": protocol.TAG} for protocol in PROTOCOLS],
        "paths": {path: _tagged(item, part.TAG) for part in PROTOCOLS for path, item in part.paths(named).items()},
        "components": {
            "schemas": {name: schema for part in PROTOCOLS for name, schema in part.schemas().items()}
            | {"Error": record({"error": text(minLength=1)})},
            "responses": responses(),
            "securitySchemes": {"bearer": BEARER},
        },
    }


def _one_of(known: Iterable[str]) -> Json:
    found = list(dict.fromkeys(known))
    return text(enum=found) if found else text()


def _tagged(item: Json, tag: str) -> Json:
    return {method: {"tags": [tag], **operation} for method, operation in item.items()}


routes = [Route("/openapi.json", openapi, methods=["GET"])]
