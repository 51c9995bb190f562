"""What `serving.rest.people`, `status`, `pages` and their like answer."""

from __future__ import annotations

from edgeferry_runtime.serving.datatypes import DTYPES
from edgeferry_runtime.serving.release import State
from edgeferry_runtime.serving.rest.openapi.parts import (
    INFERENCE,
    READING,
    Json,
    Named,
    answer,
    array,
    body,
    number,
    operation,
    parameter,
    pictures,
    record,
    ref,
    text,
    whole,
)
from edgeferry_runtime.serving.rest.pages import TYPES
from edgeferry_runtime.serving.rest.people import TOP

TAG = "people"
MOST_TOP = 999_999


def paths(named: Named) -> dict[str, Json]:
    """Describe the paths.

    Args:
        named: What a model's name and version may be.
    """
    return {
        "/predict": {"post": _predict(named)},
        "/status": {"get": operation("status", "Show the models and their latency", _json("Status"), READING)},
        "/metrics": {"get": operation("metrics", "Show figures for Prometheus", _figures(), READING)},
        "/openapi.json": {
            "get": operation(
                "openapi",
                "Show this document",
                answer("OpenAPI 3.1", {"application/json": {"type": "object"}}),
                READING,
            )
        },
        "/": {"get": _file("page", "index.html", "Show a page where a picture can be tried")},
        "/style.css": {"get": _file("style", "style.css", "What the page looks like")},
        "/page.js": {"get": _file("script", "page.js", "What the page does")},
        "/icon.svg": {"get": _file("icon", "icon.svg", "The page's icon")},
    }


def schemas() -> dict[str, Json]:
    """Describe what goes in and comes out."""
    score = number(minimum=0, maximum=1)
    prediction = record({"label": text(), "score": score, "index": whole(minimum=0)})
    ms = number(minimum=0)
    return {
        "Predictions": record(
            {
                "model": text(),
                "version": text(),
                "predictions": array(prediction, minItems=1),
                "ms": record({"queue": ms, "compute": ms}),
            }
        ),
        "Status": record({"version": text(), "ready": {"type": "boolean"}, "models": array(ref("StatusOfModel"))}),
        "StatusOfModel": _model(),
    }


def _model() -> Json:
    datatype = text(enum=list(DTYPES))
    tensor = record({"name": text(), "datatype": datatype, "stored": datatype, "shape": array(whole())})
    figure = {"type": ["number", "null"]}
    latency = record({"requests": whole(minimum=0), "p50_ms": figure, "p99_ms": figure})
    always = {
        "name": text(),
        "version": text(),
        "state": text(enum=[state.value for state in State]),
        "reason": text(),
        "release": text(),
    }
    ready = {
        "default": {"type": "boolean"},
        "format": text(),
        "precision": text(),
        "inputs": array(tensor),
        "outputs": array(tensor),
        "classifies": {"type": "boolean"},
        "doubt": text(),
        "latency": latency,
    }
    return record(always, ready)


def _predict(named: Named) -> Json:
    options = {"model": named.models, "version": named.versions, "top": whole(minimum=1, maximum=MOST_TOP, default=TOP)}
    said = {"model": "Without it, the first that names pictures.", "version": "Without it, the default one."}
    file = text(format="binary", description="A PNG, JPEG, BMP or WebP file.")
    form = record({"image": file}, options, additionalProperties=False)
    return operation(
        "predict",
        "Name what a picture shows",
        _json("Predictions"),
        INFERENCE,
        body({"multipart/form-data": form, **pictures()}),
        parameters=[
            parameter(name, "query", schema, said.get(name, "How many classes to name."))
            for name, schema in options.items()
        ],
    )


def _json(name: str) -> Json:
    return answer("It is done.", {"application/json": ref(name)})


def _figures() -> Json:
    return answer("Figures", {"text/plain": text(), "application/openmetrics-text": text()})


def _file(name: str, file: str, summary: str) -> Json:
    kind = TYPES[file[file.index(".") :]]
    return operation(name, summary, answer("The file", {kind: text()}), (), security=[])
