"""TorchServe's management API, which stands on a port of its own that only this machine reaches.

Source: TorchServe, "Management API" (docs/management_api.md). Of what that takes, nothing comes in here that is
fetched, opened or executed: a model's ``url`` is the name of a bundle in the server's own repository folder, and
handlers and runtimes are refused. Every answer comes when the work is done, so none is 202.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.release import Listing, Release, State
from edgeferry_runtime.serving.repository import Repository
from edgeferry_runtime.serving.rest.answers import json_answer
from edgeferry_runtime.serving.rest.torchserve import answering
from edgeferry_runtime.serving.service import Service

PAGE = 100
"""The most models that one answer lists."""

ALL = "all"


@answering
async def list_models(request: Request) -> Response:
    """List the models that are here, a page at a time."""
    given = _parameters(request, "limit", "next_page_token")
    limit, start = min(_number(given, "limit", PAGE, 1), PAGE), _number(given, "next_page_token", 0)
    repository = _repository(request)
    names = sorted({listing.name for listing in repository.index() if repository.versions(listing.name)})
    page, more = names[start : start + limit], len(names) > start + limit
    models = [{"modelName": name, "modelUrl": repository.find(name).manifest.name} for name in page]
    return json_answer({**({"nextPageToken": str(start + limit)} if more else {}), "models": models})


@answering
async def register(request: Request) -> Response:
    """Load a bundle of the server's repository folder."""
    given = _parameters(request, "url", "model_name", "initial_workers", "synchronous")
    _synchronous(given)
    workers = _number(given, "initial_workers", 0) or None
    release = await _repository(request).load(_bundle(given), given.get("model_name") or None, workers)
    count = release.execution.workers
    told = f'Model "{release.name}" Version: {_version(release.version)} registered with {count} initial workers'
    return json_answer({"status": told})


@answering
async def describe(request: Request) -> Response:
    """Describe the default version of a model, one version, or all of them."""
    repository, (name, version) = _repository(request), _named(request)
    listings = [listing for listing in repository.index() if listing.name == name]
    if version != ALL:
        release = repository.find(name, version)
        listings = [listing for listing in listings if listing.version == release.version]
    elif not listings:
        repository.find(name)
    return json_answer([_described(repository, listing) for listing in listings])


@answering
async def scale(request: Request) -> Response:
    """Change how many calls of a version run at the same time: within what was given, as near as can be to before."""
    given = _parameters(request, "min_worker", "max_worker", "synchronous")
    _synchronous(given)
    least = _number(given, "min_worker", 1, 1)
    most = _number(given, "max_worker", least, 1)
    if most < least:
        raise RefusedError(Kind.INVALID, "max_worker", f"is {most}, below min_worker {least}", "give at least as many")
    repository, (name, version) = _repository(request), _named(request)
    now = repository.find(name, version).execution.workers
    release = await repository.scale(name, version, min(max(now, least), most))
    where = f"{name}, version: {_version(release.version)}" if version else name
    return json_answer({"status": f"Workers scaled to {release.execution.workers} for model: {where}"})


@answering
async def set_default(request: Request) -> Response:
    """Make a version the one that is meant where a request names none."""
    name, version = _named(request)
    release = _repository(request).set_default(name, version)
    told = f'Default version successfully updated for model "{name}" to "{_version(release.version)}"'
    return json_answer({"status": told})


@answering
async def unregister(request: Request) -> Response:
    """Let go of a model, or of one version of it."""
    name, version = _named(request)
    await _repository(request).unload(name, version)
    return json_answer({"status": f'Model "{name}" unregistered'})


def _repository(request: Request) -> Repository:
    service: Service = request.app.state.service
    return service.repository


def _named(request: Request) -> tuple[str, str | None]:
    return request.path_params["name"], request.path_params.get("version")


def _parameters(request: Request, *known: str) -> Mapping[str, str]:
    """Return what stands behind the question mark.

    Raises:
        RefusedError: INVALID for what is not taken, such as a handler, which would be code.
    """
    for name in request.query_params:
        if name not in known:
            raise RefusedError(
                Kind.INVALID, f"parameter {name[:40]!r}", "is not taken", f"there are: {', '.join(known)}"
            )
    return dict(request.query_params)


def _bundle(given: Mapping[str, str]) -> str:
    url, fix = given.get("url", ""), "give the name of a bundle in the server's repository: nothing is fetched"
    if not url:
        raise RefusedError(Kind.INVALID, "url", "is missing", fix)
    if "/" in url or ":" in url:
        raise RefusedError(Kind.INVALID, f"url {url[:80]!r}", "is a path or an address", fix)
    return url


def _number(given: Mapping[str, str], name: str, default: int, least: int = 0) -> int:
    text = given.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < least:
        raise RefusedError(Kind.INVALID, name, f"is {text[:40]!r}", f"give a number of at least {least}")
    return int(text)


def _synchronous(given: Mapping[str, str]) -> None:
    text = given.get("synchronous", "true")
    if text.lower() not in ("true", "false"):
        raise RefusedError(Kind.INVALID, "synchronous", f"is {text[:40]!r}", "give true or false: both wait here")


def _version(version: int) -> str:
    return f"{version}.0"


def _described(repository: Repository, listing: Listing) -> dict[str, Any]:
    told = {"modelName": listing.name, "modelVersion": _version(listing.version)}
    if listing.state is not State.READY:
        return {**told, "status": "Unhealthy", "reason": listing.reason or listing.state.value.lower(), "workers": []}
    release = repository.find(listing.name, listing.version)
    execution = release.execution
    return {
        **told,
        "modelUrl": release.manifest.name,
        "engine": release.manifest.format,
        "runtime": "edgeferry",
        "minWorkers": execution.workers,
        "maxWorkers": execution.workers,
        "batchSize": execution.max_batch,
        "maxBatchDelay": execution.max_delay_ms,
        "loadedAtStartup": listing.name in {placed.name for placed in repository.settings.placed},
        "status": "Healthy",
        "workers": [
            {"id": str(i), "status": "READY", "gpu": False, "pid": os.getpid()} for i in range(execution.workers)
        ],
        "jobQueueStatus": _queue(release),
    }


def _queue(release: Release) -> dict[str, int]:
    waiting = sum(lane.waiting for lane in release.lanes.values())
    return {
        "remainingCapacity": release.execution.queue * len(release.lanes) - waiting,
        "pendingRequests": waiting,
    }


routes = [
    Route("/models", list_models, methods=["GET"]),
    Route("/models", register, methods=["POST"]),
    *(
        Route(path, endpoint, methods=[method])
        for path in ("/models/{name}", "/models/{name}/{version}")
        for method, endpoint in (("GET", describe), ("PUT", scale), ("DELETE", unregister))
    ),
    Route("/models/{name}/{version}/set-default", set_default, methods=["PUT"]),
]
