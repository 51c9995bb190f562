"""The Open Inference Protocol over gRPC, message by message."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeferry_runtime import __version__
from edgeferry_runtime.model import load
from edgeferry_runtime.serving.datatypes import DTYPES, NAMES
from edgeferry_runtime.serving.rpc.inference_messages import CONTENTS, read_inputs, takes_long
from edgeferry_runtime.serving.rpc.messages import message
from edgeferry_runtime.serving.rpc.values import MOST_NAMED, ONE_BY_ONE

Array = np.ndarray[Any, Any]


def expected(server: Any, model: str, image: Array, stored: bool = False) -> dict[str, Array]:
    """What the model gives in this process."""
    with load(server.service.repository.find(model).bundle.path) as ours:
        parts = [ours.run({"image": row[None]}, raw=stored) for row in image]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def same(found: dict[str, Array], wanted: dict[str, Array]) -> None:
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, strict=True)


def test_health(rpc: Any) -> None:
    assert rpc.call("inference/ServerLive", "ServerLiveRequest", "ServerLiveResponse").live
    assert rpc.call("inference/ServerReady", "ServerReadyRequest", "ServerReadyResponse").ready
    for name, version, ready in (("digits", "", True), ("digits", "1", True), ("digits", "2", False), ("x", "", False)):
        found = rpc.call("inference/ModelReady", "ModelReadyRequest", "ModelReadyResponse", name=name, version=version)
        assert found.ready is ready


def test_what_is_said_of_the_server_and_its_models(rpc: Any) -> None:
    server = rpc.call("inference/ServerMetadata", "ServerMetadataRequest", "ServerMetadataResponse")
    assert (server.name, server.version) == ("edgeferry", __version__)
    digits = rpc.call("inference/ModelMetadata", "ModelMetadataRequest", "ModelMetadataResponse", name="digits")
    assert (digits.name, list(digits.versions), digits.platform) == ("digits", ["1"], "litert_tflite")
    told = [(t.name, t.datatype, list(t.shape)) for t in (*digits.inputs, *digits.outputs)]
    assert told[0] == ("image", "FP32", [-1, 1, 8, 8])
    assert told[1] == ("digit", "FP32", [-1, 10])
    index = rpc.call("inference/RepositoryIndex", "RepositoryIndexRequest", "RepositoryIndexResponse", ready=True)
    assert [(m.name, m.version, m.state) for m in index.models] == [
        (name, "1", "READY") for name in ("digits", "float", "onnx")
    ]


@pytest.mark.parametrize("model", ["digits", "float", "onnx"])
@pytest.mark.parametrize("rows", [1, 3])
def test_raw_contents(rpc: Any, server: Any, pictures: Array, model: str, rows: int) -> None:
    request = rpc.asked(model, image=pictures[:rows])
    request.id = "mine"
    response = rpc.infer(request)
    assert (response.model_name, response.model_version, response.id) == (model, "1", "mine")
    assert not any(out.HasField("contents") for out in response.outputs)
    same(rpc.arrays(response), expected(server, model, pictures[:rows]))


def test_contents_are_answered_by_contents(rpc: Any, server: Any, pictures: Array) -> None:
    request = message("inference.ModelInferRequest")(model_name="digits")
    values = request.inputs.add(name="image", datatype="FP32", shape=(2, 1, 8, 8)).contents
    values.fp32_contents.extend(pictures[:2].ravel().tolist())
    response = rpc.infer(request)
    assert not response.raw_output_contents
    found = {o.name: np.float32(o.contents.fp32_contents).reshape(o.shape) for o in response.outputs}
    same(found, expected(server, "digits", pictures[:2]))


def test_stored_values_go_in_and_come_out(rpc: Any, server: Any, pictures: Array) -> None:
    (image,) = server.service.repository.find("digits").primary.inputs
    stored = image.quantization.quantize(pictures[:2], "int8")
    request = rpc.asked("digits", image=stored)
    request.parameters["stored"].bool_param = True
    same(rpc.arrays(rpc.infer(request)), expected(server, "digits", stored, stored=True))
    request.outputs.add(name="features").parameters["stored"].bool_param = False
    request.outputs.add(name="digit")
    response = rpc.infer(request)
    assert [(out.name, out.datatype) for out in response.outputs] == [("features", "FP32"), ("digit", "INT8")]
    typed = message("inference.ModelInferRequest")(model_name="digits", parameters=request.parameters)
    typed.inputs.add(name="image", datatype="INT8", shape=stored.shape).contents.int_contents.extend(stored.ravel())
    values = {out.name: list(out.contents.int_contents) for out in rpc.infer(typed).outputs}
    assert values["digit"] == rpc.arrays(response)["digit"].ravel().tolist()


def test_halves_are_raw(rpc: Any, server: Any, pictures: Array) -> None:
    halves = pictures[:1].astype(np.float16)
    same(rpc.arrays(rpc.infer(rpc.asked("float", image=halves))), expected(server, "float", halves.astype(np.float32)))


def test_classes_in_place_of_scores(rpc: Any, server: Any, pictures: Array) -> None:
    request = rpc.asked("float", image=pictures[:2])
    request.outputs.add(name="digit").parameters["classification"].int64_param = 1
    response = rpc.infer(request)
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", [2, 1])
    scores = expected(server, "float", pictures[:2])["digit"]
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    best = [f"{row.max()!s}:{row.argmax()}:{names[row.argmax()]}".encode() for row in scores]
    assert response.raw_output_contents[0] == b"".join(len(text).to_bytes(4, "little") + text for text in best)


def changed(request: Any, **fields: Any) -> Any:
    """Change the first input, or the request."""
    for name, value in fields.items():
        owner = request.inputs[0] if name in ("datatype", "shape") else request
        if name in ("datatype", "model_name", "model_version"):
            setattr(owner, name, value)
        else:
            getattr(owner, name)[:] = value
    return request


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"model_name": "digit"}, "NOT_FOUND", "model 'digit': is not here; there are: digits, float, onnx"),
        ({"model_version": "9"}, "NOT_FOUND", "version 9 of model 'digits': is not here; there are: 1"),
        ({"datatype": "FP99"}, "INVALID_ARGUMENT", "valid are BOOL"),
        ({"shape": (1, 1, 8, 9)}, "INVALID_ARGUMENT", "has 256 bytes, and its shape [1, 1, 8, 9] of float32 takes 288"),
        ({"shape": (1 << 40, 1 << 40)}, "RESOURCE_EXHAUSTED", "and 67108864 are allowed"),
        ({"shape": (-1, 64)}, "INVALID_ARGUMENT", "send real sizes"),
        ({"shape": (64,)}, "INVALID_ARGUMENT", "input image: takes float32[?x1x8x8], and was given float32[64]"),
        ({"raw_input_contents": [b"", b""]}, "INVALID_ARGUMENT", "has 1 inputs and 2 raw contents"),
        ({"raw_input_contents": []}, "INVALID_ARGUMENT", "has 0 values in fp32_contents, and its shape"),
        ({"raw_input_contents": [], "datatype": "FP16"}, "INVALID_ARGUMENT", "is FP16, which contents cannot hold"),
        ({"datatype": "BYTES"}, "INVALID_ARGUMENT", "bytes"),
    ],
)
def test_what_cannot_be_done_is_refused(
    rpc: Any, pictures: Array, fields: dict[str, Any], code: str, said: str
) -> None:
    request = changed(rpc.asked("digits", image=pictures[:1]), **fields)
    found, details = rpc.refused("inference/ModelInfer", request)
    assert (found, said in details) == (code, True), details


@pytest.mark.parametrize(
    ("key", "parameter", "code", "said"),
    [
        ("sequence_id", {"int64_param": 1}, "INVALID_ARGUMENT", "send each request on its own"),
        ("stored", {"string_param": "yes"}, "INVALID_ARGUMENT", "has 'yes' for 'stored'"),
        ("timeout", {"int64_param": 1}, "DEADLINE_EXCEEDED", "was not done by its deadline"),
    ],
)
def test_parameters_that_cannot_be_followed_are_refused(
    rpc: Any, pictures: Array, key: str, parameter: dict[str, Any], code: str, said: str
) -> None:
    request = rpc.asked("digits", image=pictures[:1])
    request.parameters[key].CopyFrom(message("inference.InferParameter")(**parameter))
    found, details = rpc.refused("inference/ModelInfer", request)
    assert (found, said in details) == (code, True), details


def test_inputs_that_contradict_themselves_are_refused(rpc: Any, pictures: Array) -> None:
    request = rpc.asked("digits", image=pictures[:1])
    request.inputs[0].contents.fp32_contents.append(1)
    assert "has contents beside raw contents" in rpc.refused("inference/ModelInfer", request)[1]
    request = rpc.asked("digits", image=pictures[:1])
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])
    assert "names an input twice" in rpc.refused("inference/ModelInfer", request)[1]
    request = rpc.asked("digits", image=pictures[:1])
    for _ in range(2):
        request.outputs.add(name="digit")
    assert "names an output twice" in rpc.refused("inference/ModelInfer", request)[1]
    request = rpc.asked("digits", image=pictures[:1])
    request.inputs[0].parameters["shared_memory_region"].string_param = "mine"
    assert "shared memory" in rpc.refused("inference/ModelInfer", request)[1]


def test_every_datatype_has_a_list_of_values_but_halves() -> None:
    lists = message("inference.InferTensorContents").DESCRIPTOR.fields_by_name
    assert set(CONTENTS.values()) == set(lists)
    assert set(CONTENTS) == set(DTYPES) - {"FP16"}


TENSORS = st.sampled_from(sorted(CONTENTS.keys() - {"BYTES"})).flatmap(
    lambda datatype: arrays.arrays(DTYPES[datatype], arrays.array_shapes(min_dims=0, min_side=0))
)


@given(st.lists(TENSORS, min_size=1, max_size=3))
def test_raw_contents_and_contents_say_the_same(values: list[Array]) -> None:
    raw, typed = (message("inference.ModelInferRequest")() for _ in range(2))
    for i, value in enumerate(values):
        datatype = NAMES[value.dtype]
        for request in (raw, typed):
            request.inputs.add(name=str(i), datatype=datatype, shape=value.shape)
        raw.raw_input_contents.append(value.tobytes())
        getattr(typed.inputs[i].contents, CONTENTS[datatype]).extend(value.ravel().tolist())
    for request in (raw, typed):
        same(read_inputs(request, lambda *_: None), {str(i): value for i, value in enumerate(values)})


def test_texts_of_both_forms() -> None:
    raw, typed = (message("inference.ModelInferRequest")() for _ in range(2))
    for request in (raw, typed):
        request.inputs.add(name="x", datatype="BYTES", shape=(2,))
    raw.raw_input_contents.append(b"\1\0\0\0a\2\0\0\0\xc3\xa4")
    typed.inputs[0].contents.bytes_contents.extend([b"a", "ä".encode()])
    for request in (raw, typed):
        assert read_inputs(request, lambda *_: None)["x"].tolist() == ["a", "ä"]


def test_what_is_read_one_by_one_is_read_aside() -> None:
    few, many = (message("inference.ModelInferRequest")() for _ in range(2))
    for request, count in ((few, ONE_BY_ONE), (many, ONE_BY_ONE + 1)):
        request.inputs.add(name="x", datatype="INT8").contents.int_contents.extend([0] * count)
    texts, numbers = (message("inference.ModelInferRequest")(raw_input_contents=[bytes(1 << 20)]) for _ in range(2))
    texts.inputs.add(name="x", datatype="BYTES")
    numbers.inputs.add(name="x", datatype="FP32")
    sizes = message("inference.ModelInferRequest")()
    sizes.inputs.add(name="x", datatype="FP32", shape=[1] * (ONE_BY_ONE + 1))
    found = [takes_long(request) for request in (few, many, texts, numbers, sizes)]
    assert found == [False, True, True, False, True]


def crowds() -> Iterator[Any]:
    """Requests that name 1,025 things of each kind."""
    for kind in ("inputs", "outputs", "raw_input_contents", "parameters", "parameters of an input"):
        request = message("inference.ModelInferRequest")(model_name="digits")
        one = request.inputs.add(name="x") if kind.endswith("input") else request
        for i in range(MOST_NAMED + 1):
            if kind.startswith("parameters"):
                one.parameters[str(i)].bool_param = True
            elif kind == "raw_input_contents":
                request.raw_input_contents.append(b"")
            else:
                getattr(request, kind).add(name=str(i))
        yield request


def test_too_many_names_are_refused(rpc: Any) -> None:
    for request in crowds():
        code, details = rpc.refused("inference/ModelInfer", request)
        assert (code, "names 1025 tensors and parameters, and" in details) == ("INVALID_ARGUMENT", True), details


def test_the_release_that_is_meant_stays_while_a_request_is_read(withdrawn: Any, pictures: Array) -> None:
    many = np.concatenate([pictures] * 17)
    request = message("inference.ModelInferRequest")(model_name="digits")
    values = request.inputs.add(name="image", datatype="FP32", shape=many.shape).contents
    values.fp32_contents.extend(many.ravel().tolist())
    assert takes_long(request)
    answer = message("inference.ModelInferResponse").FromString(withdrawn("inference/ModelInfer", request))
    assert answer.model_version == "1"


def test_the_earlier_of_two_deadlines_counts(
    rpc: Any, server: Any, pictures: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, infer = [], server.service.infer

    async def watched(call: Any, release: Any) -> Any:
        seen.append(call.timeout_s)
        return await infer(call, release)

    monkeypatch.setattr(server.service, "infer", watched)
    request = rpc.asked("digits", image=pictures[:1])
    rpc.send("inference/ModelInfer", request.SerializeToString(), timeout=None)
    rpc.send("inference/ModelInfer", request.SerializeToString(), timeout=40)
    request.parameters["timeout"].int64_param = 20_000_000
    rpc.send("inference/ModelInfer", request.SerializeToString(), timeout=40)
    assert seen[0] is None
    assert 20 < seen[1] < 45
    assert seen[2] == 20


def test_a_stream_answers_each_request_in_turn_and_survives_an_error(rpc: Any, server: Any, pictures: Array) -> None:
    requests = [rpc.asked(model, image=pictures[i : i + 1]) for i, model in enumerate(("digits", "absent", "digits"))]
    for i, request in enumerate(requests):
        request.id = str(i)
    stream = rpc.channel.stream_stream(rpc.path("inference/ModelStreamInfer"))
    answers = stream((request.SerializeToString() for request in requests), timeout=60)
    found = [message("inference.ModelStreamInferResponse").FromString(answer) for answer in answers]
    assert [answer.infer_response.id for answer in found] == ["0", "1", "2"]
    assert [bool(answer.error_message) for answer in found] == [False, True, False]
    assert found[1].error_message == "model 'absent': is not here; there are: digits, float, onnx"
    for i in (0, 2):
        same(rpc.arrays(found[i].infer_response), expected(server, "digits", pictures[i : i + 1]))


@pytest.mark.parametrize("name", ["ModelConfig", "ModelStatistics", "SystemSharedMemoryRegister", "LogSettings"])
def test_methods_that_are_not_here_say_why(rpc: Any, name: str) -> None:
    code, details = rpc.refused(f"inference/{name}", b"\n\6digits")
    assert (code, details.startswith(f"{name}: ")) == ("UNIMPLEMENTED", True)


def test_a_model_is_let_go_and_loaded_again(serve: Any, connect: Any, bundles: dict[str, Path]) -> None:
    with serve(digits=bundles["float"]) as server, connect(server.grpc) as rpc:
        fields = {"model_name": "digits"}
        args = ("RepositoryModelUnloadRequest", "RepositoryModelUnloadResponse")
        rpc.call("inference/RepositoryModelUnload", *args, **fields)
        index = rpc.call("inference/RepositoryIndex", "RepositoryIndexRequest", "RepositoryIndexResponse")
        assert [m.state for m in index.models] == ["UNAVAILABLE"]
        args = ("RepositoryModelLoadRequest", "RepositoryModelLoadResponse")
        rpc.call("inference/RepositoryModelLoad", *args, **fields)
        ready = rpc.call("inference/ModelReady", "ModelReadyRequest", "ModelReadyResponse", name="digits")
        assert ready.ready
        request = message("inference.RepositoryModelLoadRequest")(model_name="digits")
        request.parameters["file:1/model.tflite"].bytes_param = b"TFL3"
        code, details = rpc.refused("inference/RepositoryModelLoad", request)
        assert (code, "nothing but a model's name comes in" in details) == ("INVALID_ARGUMENT", True)
        request = message("inference.RepositoryModelLoadRequest")(model_name="../x")
        assert rpc.refused("inference/RepositoryModelLoad", request)[0] in ("INVALID_ARGUMENT", "NOT_FOUND")
