"""The Open Inference Protocol v2 over HTTP, with the extensions for binary tensors, classes and the model repository.

Sources: Open Inference Protocol v2, "HTTP/REST"; Triton Inference Server, "Model Repository Extension".
"""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeferry_runtime import __version__
from edgeferry_runtime.serving.aside import AT_ONCE, aside
from edgeferry_runtime.serving.oip import EXTENSIONS, PLATFORMS, SERVER, describe
from edgeferry_runtime.serving.oip_parameters import field
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.release import Release, State
from edgeferry_runtime.serving.rest.answers import json_answer
from edgeferry_runtime.serving.rest.bodies import read_body
from edgeferry_runtime.serving.rest.oip_answer import write_answer
from edgeferry_runtime.serving.rest.oip_request import HEAD_LENGTH, read_object, read_request
from edgeferry_runtime.serving.service import Call, Service, names


async def infer(request: Request) -> Response:
    """Run a model."""
    service: Service = request.app.state.service
    body = await read_body(request)
    read = partial(read_request, body, request.headers.get(HEAD_LENGTH), service.check_tensor)
    asked = read() if len(body) <= AT_ONCE else await aside(service, read)
    release = _release(request)
    wanted = asked.outputs or dict.fromkeys(names(release.primary.outputs), asked.default)
    stored = {name: how.stored for name, how in wanted.items()}
    call = Call(release.name, asked.feeds, release.version, outputs=stored, timeout_s=asked.timeout_s)
    return write_answer(await service.infer(call), wanted, asked.id)


async def model_metadata(request: Request) -> Response:
    """Describe a model."""
    service: Service = request.app.state.service
    release = _release(request)
    inputs, outputs = describe(release.primary)
    versions = [str(version) for version in service.repository.versions(release.name)]
    platform = PLATFORMS[release.manifest.format]
    said = {"name": release.name, "versions": versions, "platform": platform, "inputs": inputs, "outputs": outputs}
    return json_answer(said)


async def model_ready(request: Request) -> Response:
    """Tell whether a model answers; an error says why not."""
    return json_answer({"name": _release(request).name, "ready": True})


async def server_metadata(request: Request) -> Response:
    """Describe the server."""
    return json_answer({"name": SERVER, "version": __version__, "extensions": EXTENSIONS})


async def live(request: Request) -> Response:
    """Tell that the server answers."""
    return json_answer({"live": True})


async def ready(request: Request) -> Response:
    """Tell whether every model answers, by the status: 200 or 503."""
    service: Service = request.app.state.service
    found = service.ready()
    return json_answer({"ready": found}, 200 if found else Kind.NOT_READY.status)


async def index(request: Request) -> Response:
    """List what the repository has; of models that are not ready, why."""
    service: Service = request.app.state.service
    asked = await _object(request)
    only_ready = field(asked, "ready", bool, "the request")
    listings = [one for one in service.repository.index() if one.state is State.READY or not only_ready]
    return json_answer(
        [
            {"name": one.name, "version": str(one.version), "state": one.state.value, "reason": one.reason}
            for one in listings
        ]
    )


async def load(request: Request) -> Response:
    """Load a model by its name, or load it again."""
    service: Service = request.app.state.service
    asked = await _object(request)
    for name in field(asked, "parameters", dict, "the request") or {}:
        reason = f"brings {name[:40]!r}, and nothing but a model's name comes in"
        raise RefusedError(Kind.INVALID, "the request", reason, "put a bundle into the server's repository")
    await service.repository.load(request.path_params["model"])
    return Response()


async def unload(request: Request) -> Response:
    """Let a model go, after what is in flight."""
    service: Service = request.app.state.service
    await _object(request)
    await service.repository.unload(request.path_params["model"])
    return Response()


def _release(request: Request) -> Release:
    service: Service = request.app.state.service
    return service.repository.find(request.path_params["model"], request.path_params.get("version"))


async def _object(request: Request) -> dict[str, Any]:
    """Read a JSON object; where there is no body, one of nothing."""
    body = await read_body(request)
    return read_object(body) if body else {}


MODEL = "/v2/models/{model}"
VERSION = f"{MODEL}/versions/{{version}}"
REPOSITORY = "/v2/repository"

routes = [
    Route(f"{MODEL}/infer", infer, methods=["POST"]),
    Route(f"{VERSION}/infer", infer, methods=["POST"]),
    Route(MODEL, model_metadata),
    Route(VERSION, model_metadata),
    Route(f"{MODEL}/ready", model_ready),
    Route(f"{VERSION}/ready", model_ready),
    Route("/v2", server_metadata),
    Route("/v2/health/live", live),
    Route("/v2/health/ready", ready),
    Route(f"{REPOSITORY}/index", index, methods=["POST"]),
    Route(f"{REPOSITORY}/models/{{model}}/load", load, methods=["POST"]),
    Route(f"{REPOSITORY}/models/{{model}}/unload", unload, methods=["POST"]),
]
"""What the HTTP application serves of it, inference first."""
