"""TorchServe's inference API, as `serving.rest.torchserve` speaks it.

Source: TorchServe, "Inference API". Its management API stands on a port of its own.
"""

from __future__ import annotations

from edgeferry_runtime.serving.rest.openapi.parts import (
    BYTES,
    INFERENCE,
    READING,
    Json,
    Named,
    answer,
    body,
    operation,
    parameter,
    pictures,
    record,
    text,
)

TAG = "TorchServe"
AT = "/predictions/{name}"


def paths(named: Named) -> dict[str, Json]:
    """Describe the paths.

    Args:
        named: What a model's name and version may be.
    """
    name = parameter("name", "path", named.models, "The model.")
    version = parameter("version", "path", named.versions, "Its version.")
    return {
        AT: _predict("torchserve", [name]),
        f"{AT}/{{version}}": _predict("torchserveVersion", [name, version]),
        "/ping": {"get": _ping()},
        "/api-description": {"get": _description()},
    }


def schemas() -> dict[str, Json]:
    """Describe what goes in and comes out: nothing that other protocols do not have."""
    return {}


def _predict(name: str, chosen: list[Json]) -> Json:
    form = record({"data": text(format="binary", description="A picture's file, or JSON.")}, additionalProperties=False)
    taken = body({"application/json": {"description": "Tensors"}, "multipart/form-data": form, BYTES: {}, **pictures()})
    good = answer("Labels with their probabilities, or the model's outputs", {"application/json": {}})
    return {
        method: operation(f"{name}{method.title()}", "Run a model", good, INFERENCE, taken, parameters=chosen)
        for method in ("post", "put")
    }


def _ping() -> Json:
    told = {"application/json": record({"status": text()})}
    found = operation("ping", "Tell whether every model answers", answer("Healthy", told), (), security=[])
    found["responses"]["500"] = answer("Not all of them do", told)
    return found


def _description() -> Json:
    good = answer("The same as /openapi.json", {"application/json": {"type": "object"}})
    return operation("torchserveDescription", "Give this document", good, READING)
