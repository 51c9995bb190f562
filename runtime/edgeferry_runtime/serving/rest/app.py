"""The HTTP applications: which paths there are, and what stands before all of them."""

from __future__ import annotations

from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.serving.rest import (
    metrics,
    oip,
    openapi,
    pages,
    people,
    status,
    tensorflow,
    torchserve,
    torchserve_management,
)
from edgeferry_runtime.serving.rest.answers import json_answer, on_error
from edgeferry_runtime.serving.service import Service
from edgeferry_runtime.serving.telling import Telling


def make_app(service: Service, telling: Telling) -> Starlette:
    """Put together what is served on the HTTP port: inference in every protocol, and the page for people.

    The most wanted paths come first, since they are tried in order.
    """
    inference = [*oip.routes, *tensorflow.routes, *torchserve.routes]
    for_people = [*people.routes, *status.routes, *pages.routes]
    return _app(service, telling, [*inference, *for_people, *openapi.routes, *metrics.routes])


def make_management(service: Service, telling: Telling) -> Starlette:
    """Put together what is served on the management port, which only this machine reaches."""
    return _app(service, telling, [*torchserve_management.routes])


def _app(service: Service, telling: Telling, routes: list[Route]) -> Starlette:
    handlers = {EdgeferryError: on_error, HTTPException: _on_status, Exception: on_error}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    app.state.service, app.state.telling = service, telling
    return app


async def _on_status(request: Request, error: Exception) -> Response:
    """Answer what Starlette refuses, such as a path that there is not."""
    assert isinstance(error, HTTPException)
    reason = HTTPStatus(error.status_code).phrase
    text = f"{request.method} {request.url.path[:200]}: {reason}; see /openapi.json for what there is"
    return json_answer({"error": text}, error.status_code, error.headers)
