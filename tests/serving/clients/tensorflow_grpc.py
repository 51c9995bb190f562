"""Talks to a server with TensorFlow Serving's own client: ``tensorflow_grpc.py HOST:PORT MODEL FEEDS.npz ANSWERS.npz``.

Each array of FEEDS, named ``INPUT/KIND``, is sent by Predict. What comes back is kept in ANSWERS as
``KIND/WANTED/OUTPUT``, WANTED being real or stored. What the server says otherwise is printed as JSON, with every field
of its compiled messages that is not as the client's own messages have it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import Default
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
)

WANTED = {"real": "", "stored": "serving_default:stored"}


def fields(messages: Any, owner: str) -> Iterator[tuple[str, Any]]:
    """Return every field of messages, with the full name of its owner."""
    for found in messages:
        name = f"{owner}.{found.name}"
        yield from ((name, f) for f in found.field)
        yield from fields(found.nested_type, name)


def differences(path: str) -> list[str]:
    """Compare the server's messages and methods with the client's."""
    known, found = Default(), []
    assert prediction_service_pb2.DESCRIPTOR.pool is model_service_pb2.DESCRIPTOR.pool is known
    for file in FileDescriptorSet.FromString(Path(path).read_bytes()).file:
        if not file.package.startswith("tensorflow"):
            continue
        for owner, field in fields(file.message_type, file.package):
            theirs = DescriptorProto()
            known.FindMessageTypeByName(owner).CopyToProto(theirs)
            facts = [(f.number, f.type, f.label, f.type_name) for f in theirs.field if f.name == field.name]
            if facts != [(field.number, field.type, field.label, field.type_name)]:
                found.append(f"{owner}.{field.name}")
        for enum in file.enum_type:
            numbers = known.FindEnumTypeByName(f"{file.package}.{enum.name}").values_by_name
            found += [value.name for value in enum.value if numbers[value.name].number != value.number]
        for service in file.service:
            methods = known.FindServiceByName(f"{file.package}.{service.name}").methods_by_name
            types = {name: (f".{m.input_type.full_name}", f".{m.output_type.full_name}") for name, m in methods.items()}
            found += [m.name for m in service.method if types[m.name] != (m.input_type, m.output_type)]
    return found


def asked(model: str, signature: str, feeds: dict[str, Any]) -> Any:
    """Return a PredictRequest."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for name, value in feeds.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def refused(call: Any, request: Any) -> list[str]:
    """Return the status code and the details of the error that a call raises."""
    try:
        call(request, timeout=60)
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    raise AssertionError("nothing was refused")


def main(address: str, model: str, feeds_path: str, answers_path: str, messages_path: str) -> None:
    """Send all of it."""
    with np.load(feeds_path) as kept:
        feeds, answers = dict(kept), {}
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for key, value in feeds.items():
            name, _, kind = key.partition("/")
            for wanted, signature in WANTED.items():
                outputs = stub.Predict(asked(model, signature, {name: value}), timeout=60).outputs
                answers |= {f"{kind}/{wanted}/{out}": tf.make_ndarray(tensor) for out, tensor in outputs.items()}
        about = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        about.model_spec.name = model
        signatures = get_model_metadata_pb2.SignatureDefMap()
        assert stub.GetModelMetadata(about, timeout=60).metadata["signature_def"].Unpack(signatures)
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = model
        versions = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(status, timeout=60)
        said = {
            "signatures": {
                key: {name: tf.as_dtype(info.dtype).name for name, info in (*one.inputs.items(), *one.outputs.items())}
                for key, one in signatures.signature_def.items()
            },
            "versions": [[v.version, v.state, v.status.error_code] for v in versions.model_version_status],
            "unknown": refused(stub.Predict, asked("absent", "", {name: value})),
            "extra": refused(stub.Predict, asked(model, "", {name: value, "more": value})),
            "differences": differences(messages_path),
        }
    print(json.dumps(said))
    np.savez(answers_path, **answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
