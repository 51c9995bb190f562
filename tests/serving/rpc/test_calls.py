"""What stands around every call, and calls that mean harm: each is answered by a status, and the server goes on."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from edgeferry_runtime.serving.rpc.messages import message
from edgeferry_runtime.serving.rpc.tensor_protos import write_tensor
from edgeferry_runtime.serving.settings import Limits

Array = np.ndarray[Any, Any]
MUTATIONS = 400
NO_WINDOW = b"\0\4\0\0\0\0"
"""SETTINGS_INITIAL_WINDOW_SIZE of 0: a client that takes no body at all."""


@pytest.fixture(scope="module")
def far(apart: Any, connect: Any) -> Iterator[Any]:
    """Calls of the server that is in a process of its own."""
    with connect(apart.grpc) as found:
        yield found


def answers(far: Any, pictures: Array) -> bool:
    return len(far.infer(far.asked("digits", image=pictures[:1])).outputs) == 2


def test_a_server_on_uvloop_answers(far: Any, pictures: Array) -> None:
    assert answers(far, pictures)


def requests(rpc: Any, pictures: Array) -> list[tuple[str, bytes]]:
    """Return good requests of every kind."""
    raw = rpc.asked("digits", image=pictures[:1])
    raw.outputs.add(name="digit").parameters["stored"].bool_param = True
    contents = message("inference.ModelInferRequest")(model_name="digits")
    values = contents.inputs.add(name="image", datatype="FP32", shape=(1, 1, 8, 8)).contents
    values.fp32_contents.extend(pictures[0].ravel().tolist())
    predict = message("tensorflow.serving.PredictRequest")(model_spec={"name": "digits"}, output_filter=["digit"])
    write_tensor(pictures[:1], predict.inputs["image"])
    status = message("tensorflow.serving.GetModelStatusRequest")(model_spec={"name": "digits"})
    metadata = message("tensorflow.serving.GetModelMetadataRequest")(
        model_spec={"name": "digits"}, metadata_field=["signature_def"]
    )
    index = message("inference.RepositoryIndexRequest")(repository_name="x", ready=True)
    return [
        ("inference/ModelInfer", raw.SerializeToString()),
        ("inference/ModelInfer", contents.SerializeToString()),
        ("prediction/Predict", predict.SerializeToString()),
        ("prediction/GetModelMetadata", metadata.SerializeToString()),
        ("models/GetModelStatus", status.SerializeToString()),
        ("inference/RepositoryIndex", index.SerializeToString()),
    ]


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Flip, cut, insert or repeat bytes, mostly near the beginning, where the structure is."""
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(dice.choice((min(40, len(data)), len(data))) or 1)
        kind = dice.randrange(5)
        if kind == 0:
            data = data[:at] + bytes([data[at : at + 1][0] ^ 1 << dice.randrange(8)] if data else []) + data[at + 1 :]
        elif kind == 1:
            data = data[:at]
        elif kind == 2:
            data = data[:at] + dice.randbytes(dice.randint(1, 8)) + data[at:]
        elif kind == 3:
            data = data[:at] + data[at + dice.randint(1, 8) :]
        else:
            data = data[:at] + data[at : at + 16] * dice.randint(2, 20) + data[at:]
    return data


def test_mutated_messages_are_answered_by_a_status(far: Any, pictures: Array) -> None:
    dice, good, codes = random.Random(6), requests(far, pictures), []
    for method, data in good:
        far.send(method, data)
    for i in range(MUTATIONS):
        method, data = good[i % len(good)]
        try:
            far.send(method, mutated(data, dice))
        except grpc.RpcError as error:
            codes.append(error.code().name)
            assert error.details().partition(": ")[2], error
            assert not {"Traceback", "/root", "/tmp", ".py"} & set(error.details().split())
    assert set(codes) <= {"INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
    assert len(codes) > MUTATIONS // 3
    assert answers(far, pictures)


class Wire:
    """A connection of HTTP/2 whose frames are made by hand (RFC 9113, section 4.1; RFC 7541, section 6.2.2)."""

    def __init__(self, address: str, settings: bytes = b"") -> None:
        host, _, port = address.partition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.frame(4, 0, 0, settings)

    def frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
        self.socket.sendall(head + payload)

    def head(self, path: bytes) -> None:
        """Begin a call on stream 1."""
        fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x")]
        fields += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
        packed = b"".join(b"\0" + bytes([len(k)]) + k + bytes([len(v)]) + v for k, v in fields)
        self.frame(1, 4, 1, packed)

    def heard(self, until: bytes) -> bytes:
        """Read until these bytes come, or the connection ends."""
        found = b""
        while until not in found and (more := self.socket.recv(65536)):
            found += more
        return found


def test_a_method_whose_name_is_no_text_harms_nobody(apart: Any, far: Any, pictures: Array) -> None:
    wire = Wire(apart.grpc)
    with wire.socket:
        wire.head(b"/inference.GRPCInferenceService/\xff\xfe")
        wire.frame(0, 1, 1, b"\0\0\0\0\0")
        assert b"grpc-status" in wire.heard(b"grpc-status")
    assert answers(far, pictures)


def test_a_body_that_does_not_come_is_not_waited_for(apart: Any, far: Any, pictures: Array) -> None:
    wire = Wire(apart.grpc)
    with wire.socket:
        wire.head(b"/inference.GRPCInferenceService/ModelInfer")
        wire.frame(0, 0, 1, b"\0\0\0\1\0half")
        assert b"did not come in time" in wire.heard(b"did not come in time")
    assert answers(far, pictures)


def counted(server: Any, status: str) -> list[str]:
    """Return the lines of /metrics that count calls of this status."""
    labels = ('protocol="grpc"', f'status="{status}"')
    lines = [line for line in server.figures() if line.startswith("edgeferry_requests_total")]
    return [line for line in lines if all(label in line for label in labels)]


def test_an_answer_that_is_not_read_is_given_up(serve: Any, connect: Any, bundles: Any, pictures: Array) -> None:
    limits = Limits(body_s=0.2, drain_s=0.2)
    with serve({"limits": limits}, digits=bundles["float"]) as server, connect(server.grpc) as rpc:
        wire = Wire(server.grpc, NO_WINDOW)
        with wire.socket:
            data = rpc.asked("digits", image=pictures[:1]).SerializeToString()
            wire.head(b"/inference.GRPCInferenceService/ModelInfer")
            wire.frame(0, 1, 1, b"\0" + len(data).to_bytes(4, "big") + data)
            end = time.monotonic() + 60
            while not counted(server, "CANCELLED") and time.monotonic() < end:
                assert answers(rpc, pictures)
            assert counted(server, "CANCELLED")


def test_a_connection_that_says_nothing_is_cut_off(serve: Any, connect: Any) -> None:
    with serve({"limits": Limits(head_s=0.3, idle_s=0.3)}) as server:
        host, _, port = server.grpc.partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as silent:
            while silent.recv(65536):
                pass
        wire = Wire(server.grpc)
        with wire.socket:
            wire.heard(b"nothing")


def test_what_is_no_http2_is_cut_off(apart: Any, far: Any, pictures: Array) -> None:
    host, _, port = apart.grpc.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n" * 8)
        while plain.recv(65536):
            pass
    assert answers(far, pictures)


@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [
        (b"\xff\xff", "INVALID_ARGUMENT", "the message: is no inference.ModelInferRequest; send one that protobuf"),
        (b"\n\2\xff\xfe", "INVALID_ARGUMENT", "the message: is no inference.ModelInferRequest"),
        (bytes(33 << 20), "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)
def test_messages_that_cannot_be_read_are_refused(far: Any, sent: bytes, code: str, said: str) -> None:
    found, details = far.refused("inference/ModelInfer", sent)
    assert (found, said in details) == (code, True), details


def test_a_call_without_a_message_is_refused(far: Any) -> None:
    stream = far.channel.stream_unary(far.path("inference/ServerLive"))
    with pytest.raises(grpc.RpcError) as raised:
        stream(iter(()), timeout=60)
    assert raised.value.details() == "the request: has no message; send one"


def test_what_is_compressed_is_refused(far: Any) -> None:
    code, _ = far.refused("inference/ServerLive", bytes(1000), compression=grpc.Compression.Gzip)
    assert code == "UNIMPLEMENTED"


def test_what_fails_unexpectedly_tells_its_type_alone(
    server: Any, rpc: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("/home/pi/secret")

    monkeypatch.setattr(server.service.repository, "index", fail)
    code, details = rpc.refused("inference/RepositoryIndex")
    assert code == "INTERNAL"
    assert details.startswith("the request: failed unexpectedly (ZeroDivisionError); ")
    (told,) = [record for record in caplog.records if record.name == "edgeferry_runtime.serving.rpc.calls"]
    assert told.getMessage().endswith("/RepositoryIndex failed unexpectedly")
    assert told.exc_info


def test_a_long_reason_is_cut(rpc: Any) -> None:
    request = message("tensorflow.serving.PredictRequest")(model_spec={"name": "digits"})
    for i in range(200):
        request.inputs[f"{'ä' * 200}{i}"].dtype = 1
    code, details = rpc.refused("prediction/Predict", request)
    assert (code, len(details)) == ("INVALID_ARGUMENT", 1000)


def test_each_call_is_told(serve: Any, connect: Any, bundles: Any, pictures: Array) -> None:
    with serve(digits=bundles["float"]) as fresh, connect(fresh.grpc) as rpc:
        assert answers(rpc, pictures)
        rpc.refused("inference/ModelInfer", b"\xff")
        (line,) = counted(fresh, "OK")
        assert 'model="digits"' in line
        assert line.endswith(" 1.0")
        assert len(counted(fresh, "INVALID_ARGUMENT")) == 1
