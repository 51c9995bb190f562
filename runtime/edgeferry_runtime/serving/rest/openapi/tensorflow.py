"""TensorFlow Serving's REST API, as `serving.rest.tensorflow` speaks it.

Source: TensorFlow Serving, "RESTful API".
"""

from __future__ import annotations

from edgeferry_runtime.serving.rest.openapi.parts import (
    INFERENCE,
    MODEL,
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
)

TAG = "TensorFlow Serving"
AT = "/v1/models/{model}"


def paths(named: Named) -> dict[str, Json]:
    """Describe the paths.

    Args:
        named: What a model's name and version may be.
    """
    model = parameter("model", "path", named.models, "The model.")
    version = parameter("version", "path", named.versions, "Its version.")
    return {**_of_model(AT, "", [model]), **_of_model(f"{AT}/versions/{{version}}", "Version", [model, version])}


def _of_model(at: str, suffix: str, chosen: list[Json]) -> dict[str, Json]:
    reading = (
        (at, "tensorflowStatus", "Show the state of its versions", "TensorflowStatus"),
        (f"{at}/metadata", "tensorflowMetadata", "Describe its inputs and outputs", "TensorflowMetadata"),
    )
    verbs = (
        ("predict", "Run a model", "TensorflowPredict", "TensorflowPredictions"),
        ("classify", "Name the classes of examples", "TensorflowExamples", "TensorflowResults"),
        ("regress", "Give the value of examples", "TensorflowExamples", "TensorflowResults"),
    )
    return {
        **{
            path: {"get": operation(name + suffix, summary, _json(told), (*MODEL, 400, 405), parameters=chosen)}
            for path, name, summary, told in reading
        },
        **{
            f"{at}:{verb}": {
                "post": operation(
                    f"tensorflow{verb.title()}{suffix}",
                    summary,
                    _json(told),
                    INFERENCE,
                    body({"application/json": ref(asked)}),
                    parameters=chosen,
                )
            }
            for verb, summary, asked, told in verbs
        },
    }


def schemas() -> dict[str, Json]:
    """Describe what goes in and comes out."""
    signature = {"signature_name": text(description="Which signature; without it the primary one.")}
    rows = {**signature, "instances": array({}, minItems=1, description="Row format: an item for each row.")}
    columns = {**signature, "inputs": {"description": "Column format: whole tensors, by name or the only one."}}
    status = record({"error_code": text(), "error_message": text()})
    return {
        "TensorflowPredict": {"oneOf": [_only(rows, "instances", "inputs"), _only(columns, "inputs", "instances")]},
        "TensorflowPredictions": {"oneOf": [record({"predictions": {}}), record({"outputs": {}})]},
        "TensorflowExamples": record(
            {"examples": array({"type": "object"}, minItems=1)}, {**signature, "context": {"type": "object"}}
        ),
        "TensorflowResults": record({"results": array({})}),
        "TensorflowStatus": record(
            {"model_version_status": array(record({"version": text(), "state": text(), "status": status}))}
        ),
        "TensorflowMetadata": record({"model_spec": {"type": "object"}, "metadata": {"type": "object"}}),
    }


def _only(fields: dict[str, Json], key: str, other: str) -> Json:
    return {"type": "object", "properties": fields, "required": [key], "not": {"required": [other]}}


def _json(name: str) -> Json:
    return answer("It is done.", {"application/json": ref(name)})
