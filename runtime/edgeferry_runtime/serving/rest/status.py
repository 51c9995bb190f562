"""``GET /status``: the models, and how long their latest requests took."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeferry_runtime import __version__
from edgeferry_runtime.serving.datatypes import datatype
from edgeferry_runtime.serving.release import Listing, Release, State
from edgeferry_runtime.serving.repository import Repository
from edgeferry_runtime.serving.rest.answers import json_answer
from edgeferry_runtime.serving.service import Service, default
from edgeferry_runtime.tensors import TensorSpec


async def status(request: Request) -> Response:
    """Tell of every version of every model."""
    service: Service = request.app.state.service
    models = [_model(service.repository, listing) for listing in service.repository.index()]
    found = {"version": __version__, "ready": service.ready(), "models": models}
    return json_answer(found, headers={"Cache-Control": "no-store"})


def _model(repository: Repository, listing: Listing) -> dict[str, Any]:
    told = {
        "name": listing.name,
        "version": str(listing.version),
        "state": listing.state.value,
        "reason": listing.reason,
        "release": listing.release,
    }
    return told | _loaded(repository, listing) if listing.state is State.READY else told


def _loaded(repository: Repository, listing: Listing) -> dict[str, Any]:
    release = repository.find(listing.name, listing.version)
    lane, manifest = release.primary, release.manifest
    return {
        "default": default(repository, listing.name) is release,
        "format": manifest.format,
        "precision": manifest.precision,
        "inputs": [_tensor(spec) for spec in lane.inputs],
        "outputs": [_tensor(spec) for spec in lane.outputs],
        "classifies": not lane.doubt,
        "doubt": lane.doubt,
        "latency": _latency(release),
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    kinds = {"datatype": datatype(spec), "stored": datatype(spec, stored=True)}
    return {"name": spec.name, **kinds, "shape": list(spec.shape)}


def _latency(release: Release) -> dict[str, Any]:
    p50, p99 = (ms if ms is None else round(ms, 3) for ms in release.recent.percentiles(50, 99))
    return {"requests": release.recent.requests, "p50_ms": p50, "p99_ms": p99}


routes = [Route("/status", status, methods=["GET"])]
