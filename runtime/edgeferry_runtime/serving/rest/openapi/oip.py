"""The Open Inference Protocol v2 over HTTP, as `serving.rest.oip` speaks it.

Source: Open Inference Protocol v2, "HTTP/REST"; Triton Inference Server, "Model Repository Extension".
"""

from __future__ import annotations

from edgeferry_runtime.serving.datatypes import DTYPES
from edgeferry_runtime.serving.release import State
from edgeferry_runtime.serving.rest.openapi.parts import (
    BYTES,
    INFERENCE,
    MODEL,
    READING,
    WRITING,
    Json,
    Named,
    answer,
    array,
    body,
    operation,
    parameter,
    record,
    ref,
    text,
    whole,
)

TAG = "Open Inference Protocol v2"
AT = "/v2/models/{model}"
HEAD = "Inference-Header-Content-Length"
PARAMETERS = {"type": "object"}
DATA = {"description": "The values, flat or nested as the shape is; absent where they follow as bytes."}


def paths(named: Named) -> dict[str, Json]:
    """Describe the paths.

    Args:
        named: What a model's name and version may be.
    """
    model = parameter("model", "path", named.models, "The model.")
    version = parameter("version", "path", named.versions, "Its version.")
    found = {**_of_model(AT, "", [model]), **_of_model(f"{AT}/versions/{{version}}", "Version", [model, version])}
    return {
        **found,
        "/v2": {"get": operation("oipServer", "Describe the server", _json("OipServer"), READING)},
        "/v2/health/live": {"get": _health("live", "Tell that the server answers")},
        "/v2/health/ready": {"get": _health("ready", "Tell whether every model answers")},
        **_repository(model),
    }


def _of_model(at: str, suffix: str, chosen: list[Json]) -> dict[str, Json]:
    length = parameter(HEAD, "header", whole(minimum=0), "How many bytes of the body are JSON, where others follow.")
    infer = operation(
        f"oipInfer{suffix}",
        "Run a model",
        answer("The outputs", {"application/json": ref("OipAnswer"), BYTES: {}}),
        INFERENCE,
        body({"application/json": ref("OipRequest"), BYTES: {}}),
        parameters=[*chosen, length],
    )
    describe = operation(f"oipModel{suffix}", "Describe a model", _json("OipModel"), MODEL, parameters=chosen)
    ready = operation(f"oipReady{suffix}", "Tell whether it answers", _json("OipReady"), MODEL, parameters=chosen)
    return {f"{at}/infer": {"post": infer}, at: {"get": describe}, f"{at}/ready": {"get": ready}}


def _health(word: str, summary: str) -> Json:
    good = answer("Yes", {"application/json": record({word: {"const": True}})})
    found = operation(f"oipHealth{word.title()}", summary, good, (), security=[])
    if word == "ready":
        found["responses"]["503"] = answer("No", {"application/json": record({word: {"const": False}})})
    return found


def _repository(model: Json) -> dict[str, Json]:
    at = "/v2/repository"
    index = operation(
        "oipIndex",
        "List the models",
        answer("The models", {"application/json": array(ref("OipListing"))}),
        WRITING,
        body({"application/json": record({}, {"ready": {"type": "boolean"}})}, required=False),
    )
    changes = {
        word: operation(
            f"oip{word.title()}",
            summary,
            answer("It is done.", {}),
            (*WRITING, 404, 409, 500),
            body({"application/json": record({}, {"parameters": {"type": "object"}})}, required=False),
            parameters=[model],
        )
        for word, summary in (("load", "Load a model"), ("unload", "Let a model go"))
    }
    found = {f"{at}/models/{{model}}/{word}": {"post": one} for word, one in changes.items()}
    return {f"{at}/index": {"post": index}, **found}


def schemas() -> dict[str, Json]:
    """Describe what goes in and comes out."""
    datatype = text(enum=list(DTYPES))
    described = array(
        record({"name": text(), "datatype": datatype, "shape": array(whole())}, {"parameters": PARAMETERS})
    )
    sent = {"name": text(), "shape": array(whole(minimum=0), maxItems=32), "datatype": datatype}
    also = {"parameters": PARAMETERS, "data": DATA}
    wanted = record({"name": text()}, {"parameters": PARAMETERS})
    return {
        "OipRequest": record(
            {"inputs": array(record(sent, also))},
            {"id": text(), "parameters": PARAMETERS, "outputs": array(wanted)},
        ),
        "OipAnswer": record(
            {"model_name": text(), "model_version": text(), "outputs": array(record(sent, also))},
            {"id": text(), "parameters": PARAMETERS},
        ),
        "OipServer": record({"name": text(), "version": text(), "extensions": array(text())}),
        "OipModel": record(
            {
                "name": text(),
                "versions": array(text()),
                "platform": text(),
                "inputs": described,
                "outputs": described,
            }
        ),
        "OipReady": record({"name": text(), "ready": {"const": True}}),
        "OipListing": record(
            {
                "name": text(),
                "version": text(),
                "state": text(enum=[state.value for state in State]),
                "reason": text(),
            }
        ),
    }


def _json(name: str) -> Json:
    return answer("It is so.", {"application/json": ref(name)})
