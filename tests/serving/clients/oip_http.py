"""Talks to a server with Triton's HTTP client: ``oip_http.py HOST:PORT MODEL FEEDS.npz ANSWERS.npz``.

Each array of FEEDS, named ``INPUT/KIND``, is sent in JSON and as bytes. What comes back is kept in ANSWERS as
``KIND/SENT/WANTED/OUTPUT``: SENT is json, binary, gzip or deflate, WANTED is real or stored. What the server and the
client's own errors say is printed as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

SENT = {
    "json": (False, None),
    "binary": (True, None),
    "gzip": (True, "gzip"),
    "deflate": (False, "deflate"),
}


def refused(call: Any, *args: Any, **options: Any) -> list[str | None]:
    """Return status and message of the error that a call raises."""
    try:
        call(*args, **options)
    except InferenceServerException as error:
        return [error.status(), error.message()]
    raise AssertionError(f"{call.__name__} raised nothing")


def asked(name: str, value: Any, binary: bool) -> list[Any]:
    """Return the inputs of a request."""
    tensor = triton.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
    tensor.set_data_from_numpy(value, binary_data=binary)
    return [tensor]


def told(client: Any, model: str, feeds: dict[str, Any]) -> dict[str, Any]:
    """Ask for all that is said of a server and its models."""
    (name, value) = next((key.partition("/")[0], value) for key, value in feeds.items())
    output = client.get_model_metadata(model)["outputs"][0]["name"]
    best = [triton.InferRequestedOutput(output, class_count=3)]
    return {
        "health": [client.is_server_live(), client.is_server_ready(), client.is_model_ready(model)],
        "absent": [client.is_model_ready("absent"), client.is_model_ready(model, "7")],
        "server": client.get_server_metadata(),
        "model": client.get_model_metadata(model, "1"),
        "index": client.get_model_repository_index(),
        "classes": client.infer(model, asked(name, value, True), outputs=best).as_numpy(output).astype(str).tolist(),
        "id": client.infer(model, asked(name, value, True), request_id="mine").get_response()["id"],
        "refused": {
            "unknown": refused(client.infer, "absent", asked(name, value, True)),
            "late": refused(client.infer, model, asked(name, value, True), timeout=1),
            "shape": refused(client.infer, model, asked(name, value[..., :1], True)),
            "config": refused(client.load_model, model, config="{}"),
            "loaded": refused(client.load_model, "absent"),
        },
    }


def reload(client: Any, model: str) -> list[bool]:
    """Let a model go, and load it again."""
    client.unload_model(model)
    gone = client.is_model_ready(model)
    client.load_model(model)
    return [gone, client.is_model_ready(model)]


def main(address: str, model: str, feeds_path: str, answers_path: str) -> None:
    """Send all of it, in two requests at a time."""
    with np.load(feeds_path) as kept:
        feeds, answers = dict(kept), {}
    with triton.InferenceServerClient(address, concurrency=2) as client:
        metadata = client.get_model_metadata(model)
        for sent, (binary, compression) in SENT.items():
            outputs = [triton.InferRequestedOutput(o["name"], binary_data=binary) for o in metadata["outputs"]]
            running = {
                f"{key.partition('/')[2]}/{sent}/{'stored' if stored else 'real'}": client.async_infer(
                    model,
                    asked(key.partition("/")[0], value, binary),
                    outputs=outputs,
                    parameters={"stored": stored},
                    request_compression_algorithm=compression,
                )
                for key, value in feeds.items()
                for stored in (False, True)
            }
            for key, request in running.items():
                result = request.get_result()
                answers |= {f"{key}/{o['name']}": result.as_numpy(o["name"]) for o in metadata["outputs"]}
        print(json.dumps(told(client, model, feeds) | {"reloaded": reload(client, model)}))
    np.savez(answers_path, **answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
