"""TensorFlow Serving's REST API.

Source: TensorFlow Serving, "RESTful API" (https://www.tensorflow.org/tfx/serving/api_rest), and where that page leaves
something open its sources `http_rest_api_handler.cc` and `json_tensor.cc`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgeferry_runtime.serving.entry import UNLOADED
from edgeferry_runtime.serving.oip import describe
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.release import Listing, State
from edgeferry_runtime.serving.repository import Repository
from edgeferry_runtime.serving.rest.answers import json_answer
from edgeferry_runtime.serving.rest.bodies import read_body
from edgeferry_runtime.serving.rest.json_calls import Asked, understand
from edgeferry_runtime.serving.rest.tensorflow_calls import VERBS
from edgeferry_runtime.serving.service import Service
from edgeferry_runtime.serving.signatures import DEFAULT, Signature, find_signature, signatures

PATH = re.compile(
    r"(?P<model>[^/:]+)(/versions/(?P<version>[^/:]+)|/labels/(?P<label>[^/:]+))?(?P<end>/metadata|:(?P<verb>.*))?"
)
FORMS = "/v1/models/NAME[/versions/N]"

STATES: Mapping[State, str] = MappingProxyType(
    {
        State.LOADING: "LOADING",
        State.READY: "AVAILABLE",
        State.UNLOADING: "UNLOADING",
        State.UNAVAILABLE: "END",
    }
)
"""Names of states in `ModelVersionStatus.State`."""

DTYPES: Mapping[str, str] = MappingProxyType(
    {
        "float16": "DT_HALF",
        "float32": "DT_FLOAT",
        "float64": "DT_DOUBLE",
        "bool": "DT_BOOL",
        "object": "DT_STRING",
        **{f"{sign}int{bits}": f"DT_{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    }
)
"""Names of dtypes in `tensorflow.DataType`."""


@dataclass(frozen=True)
class Target:
    """What a path names.

    Attributes:
        model: The model.
        version: Its version; None where the path names none.
        metadata: Whether the path ends in ``/metadata``.
        verb: What stands behind the colon; None without one.
    """

    model: str
    version: str | None
    metadata: bool
    verb: str | None


def read_path(path: str) -> Target:
    """Read what follows ``/v1/models/``.

    Raises:
        RefusedError: NOT_FOUND if it is no path of this API, INVALID for a label.
    """
    found = PATH.fullmatch(path)
    if found is None:
        raise RefusedError(Kind.NOT_FOUND, "the path", "is none of TensorFlow Serving's", f"call {FORMS}")
    if found["label"] is not None:
        reason = "cannot be used: versions have no labels here"
        raise RefusedError(Kind.INVALID, f"label {found['label'][:40]!r}", reason, f"name a version: {FORMS}")
    return Target(found["model"], found["version"], found["end"] == "/metadata", found["verb"])


async def tell(request: Request) -> Response:
    """Tell the status of a model, or its metadata."""
    service: Service = request.app.state.service
    repository, target = service.repository, read_path(request.path_params["path"])
    if target.verb is not None:
        raise RefusedError(Kind.METHOD, f"verb {target.verb[:40]!r}", "was asked for by GET", "use POST")
    return json_answer(_metadata(repository, target) if target.metadata else _status(repository, target))


async def act(request: Request) -> Response:
    """Do what the verb says."""
    service: Service = request.app.state.service
    target = read_path(request.path_params["path"])
    verb = VERBS.get(target.verb or "")
    if verb is None:
        listed = ", ".join(f":{name}" for name in VERBS)
        raise RefusedError(Kind.NOT_FOUND, f"verb {(target.verb or '')[:40]!r}", "is unknown", f"there are {listed}")
    answering = await understand(service, await read_body(request), partial(_asked, service, target), verb)
    return json_answer(await answering())


def _asked(service: Service, target: Target, body: Any) -> Asked:
    """Find the model that a request means, and the signature that its body names."""
    if not isinstance(body, dict):
        raise RefusedError(Kind.INVALID, "the body", "is no JSON object", 'send {"instances": [...]}')
    name = body.get("signature_name", "")
    if not isinstance(name, str):
        raise RefusedError(Kind.INVALID, "signature_name", "is no string", "send a name, or leave it out")
    release = service.repository.find(target.model, target.version)
    return Asked(service, target.version, release, find_signature(release, name))


def _status(repository: Repository, target: Target) -> dict[str, Any]:
    known = [listing for listing in repository.index() if listing.name == target.model]
    found = [listing for listing in known if target.version in (None, str(listing.version))]
    if not found:
        release = repository.find(target.model, target.version)
        found = [listing for listing in known if listing.version == release.version]
    return {"model_version_status": [_listed(listing) for listing in reversed(found)]}


def _listed(listing: Listing) -> dict[str, Any]:
    """Return a `ModelVersionStatus`."""
    failed = listing.state is State.UNAVAILABLE and listing.reason != UNLOADED
    status = {"error_code": "UNKNOWN" if failed else "OK", "error_message": listing.reason if failed else ""}
    return {"version": str(listing.version), "state": STATES[listing.state], "status": status}


def _metadata(repository: Repository, target: Target) -> dict[str, Any]:
    release = repository.find(target.model, target.version)
    known = signatures(release)
    named = {DEFAULT: next(iter(known.values())), **known}
    return {
        "model_spec": {"name": release.name, "signature_name": "", "version": str(release.version)},
        "metadata": {"signature_def": {"signature_def": {name: _defined(one) for name, one in named.items()}}},
    }


def _defined(signature: Signature) -> dict[str, Any]:
    """Return a `SignatureDef`."""
    lane = signature.lane
    inputs, outputs = (
        {
            spec.name: _info(spec.name, signature.dtype(spec).name, said["shape"])
            for spec, said in zip(*side, strict=True)
        }
        for side in zip((lane.inputs, lane.outputs), describe(lane), strict=True)
    )
    return {"inputs": inputs, "outputs": outputs, "method_name": "tensorflow/serving/predict"}


def _info(name: str, dtype: str, shape: list[int]) -> dict[str, Any]:
    """Return a `TensorInfo`."""
    dims = [{"size": str(size), "name": ""} for size in shape]
    shaped = {"dim": dims, "unknown_rank": False}
    return {"dtype": DTYPES.get(dtype, "DT_INVALID"), "tensor_shape": shaped, "name": f"{name}:0"}


routes = [
    Route("/v1/models/{path:path}", act, methods=["POST"]),
    Route("/v1/models/{path:path}", tell, methods=["GET"]),
]
