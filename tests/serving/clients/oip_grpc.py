"""Talks to a server with Triton's gRPC client: ``oip_grpc.py HOST:PORT MODEL FEEDS.npz ANSWERS.npz MESSAGES.binpb``.

Each array of FEEDS, named ``INPUT/KIND``, is sent in a call and in a stream. What comes back is kept in ANSWERS as
``KIND/SENT/WANTED/OUTPUT``: SENT is call or stream, WANTED is real or stored. What the server says otherwise is printed
as JSON, with every field of MESSAGES, the server's compiled messages, that is not as the client's own messages have it.
"""

from __future__ import annotations

import json
import queue
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype


def fields(messages: Any, owner: str = "") -> Iterator[tuple[Any, ...]]:
    """Return every field of messages: its owner, name, number, type, label, and the name of its message."""
    for found in messages:
        name = f"{owner}.{found.name}"
        yield from ((name, f.name, f.number, f.type, f.label, f.type_name) for f in found.field)
        yield from fields(found.nested_type, name)


def methods(service: Any) -> Iterator[tuple[Any, ...]]:
    """Return every method of a service: its name, its messages, and which of them are streams."""
    yield from ((m.name, m.input_type, m.output_type, m.client_streaming, m.server_streaming) for m in service.method)


def differences(path: str) -> list[tuple[Any, ...]]:
    """Compare the server's messages and methods with the client's."""
    theirs = FileDescriptorProto()
    service_pb2.DESCRIPTOR.CopyToProto(theirs)
    (ours,) = (f for f in FileDescriptorSet.FromString(Path(path).read_bytes()).file if f.package == theirs.package)
    facts = [{*fields(file.message_type), *methods(file.service[0])} for file in (ours, theirs)]
    return sorted(facts[0] - facts[1])


def refused(call: Any, *args: Any, **options: Any) -> list[str | None]:
    """Return status and message of the error that a call raises."""
    try:
        call(*args, **options)
    except InferenceServerException as error:
        return [error.status(), error.message()]
    raise AssertionError(f"{call.__name__} raised nothing")


def asked(name: str, value: Any) -> list[Any]:
    """Return the inputs of a request."""
    tensor = triton.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
    tensor.set_data_from_numpy(value)
    return [tensor]


def streamed(client: Any, model: str, feeds: dict[str, Any], stored: bool) -> dict[str, Any]:
    """Send every feed in one stream."""
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for key, value in feeds.items():
        inputs = asked(key.partition("/")[0], value)
        client.async_stream_infer(model, inputs, request_id=key.partition("/")[2], parameters={"stored": stored})
    found = [answers.get(timeout=60) for _ in feeds]
    client.stop_stream()
    assert not any(error for _, error in found), found
    return {result.get_response().id: result for result, _ in found}


def told(client: Any, model: str, feeds: dict[str, Any]) -> dict[str, Any]:
    """Ask for all that is said of a server and its models."""
    (name, value) = next((key.partition("/")[0], value) for key, value in feeds.items())
    metadata = client.get_model_metadata(model, "1", as_json=True)
    best = [triton.InferRequestedOutput(metadata["outputs"][0]["name"], class_count=3)]
    classes = client.infer(model, asked(name, value), outputs=best).as_numpy(metadata["outputs"][0]["name"])
    return {
        "health": [client.is_server_live(), client.is_server_ready(), client.is_model_ready(model)],
        "absent": [client.is_model_ready("absent"), client.is_model_ready(model, "7")],
        "server": client.get_server_metadata(as_json=True),
        "model": metadata,
        "index": client.get_model_repository_index(as_json=True),
        "classes": classes.astype(str).tolist(),
        "refused": {
            "unknown": refused(client.infer, "absent", asked(name, value)),
            "late": refused(client.infer, model, asked(name, value), timeout=1),
            "shape": refused(client.infer, model, asked(name, value[..., :1])),
            "config": refused(client.load_model, model, config="{}"),
            "loaded": refused(client.load_model, "absent"),
            "statistics": refused(client.get_inference_statistics, model),
        },
    }


def reload(client: Any, model: str) -> list[bool]:
    """Let a model go, and load it again."""
    client.unload_model(model)
    gone = client.is_model_ready(model)
    client.load_model(model)
    return [gone, client.is_model_ready(model)]


def main(address: str, model: str, feeds_path: str, answers_path: str, messages_path: str) -> None:
    """Send all of it."""
    with np.load(feeds_path) as kept:
        feeds, answers = dict(kept), {}
    with triton.InferenceServerClient(address) as client:
        names = [output.name for output in client.get_model_metadata(model).outputs]
        for stored, wanted in ((False, "real"), (True, "stored")):
            results = {f"{kind}/stream": result for kind, result in streamed(client, model, feeds, stored).items()}
            for key, value in feeds.items():
                name, _, kind = key.partition("/")
                results[f"{kind}/call"] = client.infer(model, asked(name, value), parameters={"stored": stored})
            answers |= {f"{key}/{wanted}/{name}": r.as_numpy(name) for key, r in results.items() for name in names}
        said = told(client, model, feeds) | {"reloaded": reload(client, model)}
    print(json.dumps(said | {"differences": differences(messages_path)}))
    np.savez(answers_path, **answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
