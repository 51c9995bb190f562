"""The Open Inference Protocol over HTTP, byte by byte."""

from __future__ import annotations

import gzip
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_runtime import __version__
from edgeferry_runtime.model import load
from edgeferry_runtime.serving.rest.oip_request import HEAD_LENGTH
from edgeferry_runtime.serving.settings import Limits

Array = np.ndarray[Any, Any]
ALL_BINARY = {"binary_data_output": True}


@dataclass(frozen=True)
class Found:
    """An answer: its status, its headers in lower case, and its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body[: int(self.headers.get(HEAD_LENGTH.lower(), len(self.body)))])

    @property
    def outputs(self) -> dict[str, Array]:
        """The outputs of an answer, of which numbers alone are read."""
        outputs, at = {}, len(self.body) - sum(map(_size, self.json["outputs"]))
        for said in self.json["outputs"]:
            dtype = {"FP32": "<f4", "INT8": "i1", "BYTES": object}[said["datatype"]]
            data = self.body[at : at + _size(said)]
            value = np.frombuffer(data, dtype) if "data" not in said else np.array(said["data"], dtype)
            outputs[said["name"]] = value.reshape(said["shape"])
            at += _size(said)
        return outputs


def _size(output: dict[str, Any]) -> int:
    return int(output.get("parameters", {}).get("binary_data_size", 0))


def ask(server: Any, path: str, body: bytes | None = None, **headers: str) -> Found:
    """Send a request: POST where there is a body."""
    connection = http.client.HTTPConnection(server.http.removeprefix("http://"), timeout=30)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request("GET" if body is None else "POST", path, body, named)
        response = connection.getresponse()
        return Found(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def described(value: Array, datatype: str = "FP32") -> dict[str, Any]:
    return {"name": "image", "shape": value.shape, "datatype": datatype}


def infer(server: Any, model: str, value: Array, datatype: str = "FP32", **rest: Any) -> Found:
    """Send an image in JSON."""
    inputs = [{**described(value, datatype), "data": value.ravel().tolist()}]
    return ask(server, f"/v2/models/{model}/infer", json.dumps({"inputs": inputs, **rest}).encode())


def packed(value: Array, datatype: str = "FP32", **rest: Any) -> tuple[bytes, str]:
    """Return the body of a binary request, and the length of its JSON."""
    inputs = [{**described(value, datatype), "parameters": {"binary_data_size": value.nbytes}}]
    head = json.dumps({"inputs": inputs, **rest}).encode()
    return head + value.tobytes(), str(len(head))


def infer_binary(server: Any, model: str, value: Array, datatype: str = "FP32", **rest: Any) -> Found:
    """Send an image as bytes."""
    body, length = packed(value, datatype, **rest)
    return ask(server, f"/v2/models/{model}/infer", body, Inference_Header_Content_Length=length)


@pytest.mark.parametrize("model", ["digits", "float", "onnx"])
@pytest.mark.parametrize("rows", [1, 3])
def test_json_and_bytes_give_what_the_model_gives(
    server: Any, bundles: dict[str, Path], pictures: Array, model: str, rows: int
) -> None:
    with load(bundles["int8" if model == "digits" else model]) as ours:
        alone = [ours.run({"image": pictures[i : i + 1]}) for i in range(rows)]
    expected = {name: np.concatenate([one[name] for one in alone]) for name in alone[0]}
    found = infer(server, model, pictures[:rows], id="my own")
    binary = infer_binary(server, model, pictures[:rows], parameters=ALL_BINARY)
    assert (found.status, binary.status) == (200, 200)
    assert found.headers["content-type"] == "application/json"
    assert binary.headers["content-type"] == "application/octet-stream"
    assert (found.json["id"], found.json["model_name"], found.json["model_version"]) == ("my own", model, "1")
    assert "id" not in binary.json
    for outputs in (found.outputs, binary.outputs):
        assert list(outputs) == ["digit", "features"]
        for name, value in expected.items():
            np.testing.assert_array_equal(outputs[name], value, strict=True)


def test_stored_values_go_in_and_come_out(server: Any, bundles: dict[str, Path], pictures: Array) -> None:
    with load(bundles["int8"]) as ours:
        (image,), (digit, _) = ours.inputs, ours.outputs
        stored = image.quantization.quantize(pictures[:2], image.dtype)
        expected = np.concatenate([ours.run({"image": one[None]}, raw=True)["digit"] for one in stored])
    wanted = [{"name": "digit", "parameters": {"stored": True}}]
    for found in (
        infer(server, "digits", stored, "INT8", outputs=wanted),
        infer_binary(server, "digits", stored, "INT8", outputs=[{"name": "digit"}], parameters={"stored": True}),
        infer_binary(server, "digits", pictures[:2], outputs=[{"name": "digit"}], parameters={"stored": True}),
    ):
        np.testing.assert_array_equal(found.outputs["digit"], expected, strict=True)
    real = infer(server, "digits", stored, "INT8", outputs=[{"name": "digit"}]).outputs["digit"]
    np.testing.assert_array_equal(real, digit.quantization.dequantize(expected))


def test_outputs_come_in_the_order_and_form_that_was_asked_for(server: Any, pictures: Array) -> None:
    wanted = [{"name": "features"}, {"name": "digit", "parameters": {"binary_data": True, "stored": True}}]
    found = infer(server, "digits", pictures[:1], outputs=wanted)
    features, digit = found.json["outputs"]
    assert (features["name"], features["shape"], len(features["data"])) == ("features", [1, 16, 1, 1], 16)
    assert digit == {"name": "digit", "datatype": "INT8", "shape": [1, 10], "parameters": {"binary_data_size": 10}}
    assert len(found.body) == int(found.headers[HEAD_LENGTH.lower()]) + 10


def test_classes_come_in_place_of_values(server: Any, pictures: Array) -> None:
    scores = infer(server, "digits", pictures[:2]).outputs["digit"]
    wanted = [{"name": "digit", "parameters": {"classification": 2}}]
    found = infer(server, "digits", pictures[:2], outputs=wanted)
    (said,) = found.json["outputs"]
    assert (said["datatype"], said["shape"]) == ("BYTES", [2, 2])
    value, index, label = said["data"][0].split(":")
    assert (float(value), int(index)) == (scores[0].max(), scores[0].argmax())
    assert label == ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")[int(index)]
    wanted[0]["parameters"]["binary_data"] = True  # type: ignore[index]
    binary = infer(server, "digits", pictures[:2], outputs=wanted)
    assert binary.body.endswith(b"".join(len(text).to_bytes(4, "little") + text.encode() for text in said["data"]))


def test_a_model_is_described(server: Any) -> None:
    for path in ("/v2/models/digits", "/v2/models/digits/versions/1"):
        found = ask(server, path).json
        assert (found["name"], found["versions"], found["platform"]) == ("digits", ["1"], "litert_tflite")
        (image,), (digit, features) = found["inputs"], found["outputs"]
        assert (image["name"], image["datatype"], image["shape"]) == ("image", "FP32", [-1, 1, 8, 8])
        assert (digit["shape"], features["shape"]) == ([-1, 10], [-1, 16, 1, 1])
        assert digit["parameters"] == {"stored_datatype": "INT8", "scale": 1 / 256, "zero_point": -128}
        assert ask(server, f"{path}/ready").json == {"name": "digits", "ready": True}
    assert ask(server, "/v2/models/onnx").json["platform"] == "onnxruntime_onnx"


def test_the_server_is_described(server: Any) -> None:
    found = ask(server, "/v2").json
    assert (found["name"], found["version"]) == ("edgeferry", __version__)
    assert "binary_tensor_data" in found["extensions"]
    assert ask(server, "/v2/health/live").json == {"live": True}
    assert ask(server, "/v2/health/ready").json == {"ready": True}


def test_models_are_let_go_and_loaded_by_name_alone(serve: Any, bundles: dict[str, Path], pictures: Array) -> None:
    with serve(digits=bundles["int8"], float=bundles["float"]) as server:
        load_path, path = "/v2/repository/models/float/load", "/v2/models/float"
        brought = ask(server, load_path, b'{"parameters": {"file:1/model.tflite": "AAAA"}}')
        assert (brought.status, "nothing but a model's name comes in" in brought.json["error"]) == (400, True)
        assert ask(server, f"{path}/ready").status == 200
        let_go = ask(server, "/v2/repository/models/float/unload", b'{"parameters": {"unload_dependents": false}}')
        assert (let_go.status, let_go.body) == (200, b"")
        assert (ask(server, f"{path}/ready").status, infer(server, "float", pictures[:1]).status) == (503, 503)
        states = {line["name"]: line["state"] for line in ask(server, "/v2/repository/index", b"").json}
        assert states == {"digits": "READY", "float": "UNAVAILABLE"}
        ready = ask(server, "/v2/repository/index", b'{"ready": true}').json
        assert ready == [{"name": "digits", "version": "1", "state": "READY", "reason": ""}]
        assert ask(server, load_path, b"").status == 200
        assert infer(server, "float", pictures[:1]).status == 200
        server.service.stopping = True
        about_to_stop = ask(server, "/v2/health/ready")
        assert (about_to_stop.status, about_to_stop.json) == (503, {"ready": False})


def test_a_compressed_body_is_read_up_to_the_limit(serve: Any, bundles: dict[str, Path], pictures: Array) -> None:
    with serve({"limits": Limits(body_bytes=2000)}, float=bundles["float"]) as server:
        body, length = packed(pictures[:1], parameters=ALL_BINARY)
        headers = {"Content_Encoding": "gzip", "Inference_Header_Content_Length": length}
        path = "/v2/models/float/infer"
        plain = ask(server, path, body, Inference_Header_Content_Length=length)
        assert ask(server, path, gzip.compress(body), **headers).outputs["digit"].tolist() == (
            plain.outputs["digit"].tolist()
        )
        assert ask(server, path, gzip.compress(body + bytes(3000)), **headers).status == 413
        assert ask(server, path, body, Content_Encoding="br").status == 415


def test_a_large_body_is_read_as_a_small_one_is(server: Any, pictures: Array) -> None:
    found = infer(server, "float", np.resize(pictures, (4097, 1, 8, 8)), outputs=[{"name": "digit"}])
    np.testing.assert_array_equal(found.outputs["digit"][-1:], infer(server, "float", pictures[:1]).outputs["digit"])


@pytest.mark.parametrize(
    ("path", "changed", "status", "said"),
    [
        ("/v2/models/digit/infer", {}, 404, "model 'digit': is not here; there are: digits, float, onnx"),
        ("/v2/models/digits/versions/9/infer", {}, 404, "version 9 of model 'digits': is not here; there are: 1"),
        ("/v2/models/digits/versions/x/infer", {}, 404, "is no number"),
        ("/v2/models/digits/infer", {"inputs": []}, 400, "was given no input image"),
        ("/v2/models/digits/infer", {"outputs": [{"name": "x"}]}, 400, "output 'x': is none of the model's"),
        ("/v2/models/digits/infer", {"parameters": {"timeout": 1}}, 504, "was not done by its deadline"),
        ("/v2/models/digits/infer", {"parameters": {"stored": 1}}, 400, "give true or false"),
    ],
)
def test_what_cannot_be_done_is_refused(
    server: Any, pictures: Array, path: str, changed: dict[str, Any], status: int, said: str
) -> None:
    inputs = [{**described(pictures[:1]), "data": pictures[:1].ravel().tolist()}]
    found = ask(server, path, json.dumps({"inputs": inputs, **changed}).encode())
    assert (found.status, list(found.json)) == (status, ["error"])
    assert said in found.json["error"]


@pytest.mark.parametrize("shape", [[1 << 20, 1 << 20], [0, 1 << 20, 1 << 20], [1 << 40, 0]])
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_a_tensor_beyond_the_limit_is_refused_before_it_is_made(server: Any, shape: list[int], datatype: str) -> None:
    huge = {"name": "image", "shape": shape, "datatype": datatype, "data": []}
    found = ask(server, "/v2/models/digits/infer", json.dumps({"inputs": [huge]}).encode())
    assert (found.status, " bytes, and 67108864 are allowed" in found.json["error"]) == (413, True)


@given(data=st.data())
def test_a_binary_body_with_changed_bytes_is_answered_or_refused(
    server: Any, pictures: Array, data: st.DataObject
) -> None:
    body, length = packed(pictures[:1], outputs=[{"name": "digit", "parameters": {"binary_data": True}}])
    changed, head = bytearray(body), int(length)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, head - 1) | st.integers(head, len(changed) - 1))
        changed[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    said = data.draw(st.sampled_from([length, str(head + 1), "0", "x"]))
    found = ask(server, "/v2/models/digits/infer", bytes(changed), Inference_Header_Content_Length=said)
    assert found.status == 200 or (400 <= found.status < 500 and found.json["error"]), found
