"""TensorFlow Serving over gRPC, message by message: Predict, GetModelMetadata and GetModelStatus."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeferry_runtime.model import load
from edgeferry_runtime.serving.rpc.messages import message
from edgeferry_runtime.serving.rpc.tensor_protos import read_tensor, takes_long, write_tensor
from edgeferry_runtime.serving.rpc.values import ONE_BY_ONE

Array = np.ndarray[Any, Any]
PACKAGE = "tensorflow.serving"


def spec(name: str, **fields: Any) -> Any:
    version = fields.pop("version", None)
    made = message(f"{PACKAGE}.ModelSpec")(name=name, **fields)
    if version is not None:
        made.version.value = version
    return made


def predict_request(meant: Any, /, *output_filter: str, **feeds: Array) -> Any:
    request = message(f"{PACKAGE}.PredictRequest")(model_spec=meant, output_filter=output_filter)
    for name, value in feeds.items():
        write_tensor(value, request.inputs[name])
    return request


def predict(rpc: Any, request: Any) -> tuple[Any, dict[str, Array]]:
    """Send a request; return the answer's model_spec and outputs."""
    answer = message(f"{PACKAGE}.PredictResponse").FromString(
        rpc.send("prediction/Predict", request.SerializeToString())
    )
    return answer.model_spec, {name: read_tensor(name, t, lambda *_: None) for name, t in answer.outputs.items()}


@pytest.mark.parametrize("model", ["digits", "float", "onnx"])
def test_predict(rpc: Any, server: Any, pictures: Array, model: str) -> None:
    meant, outputs = predict(rpc, predict_request(spec(model), image=pictures[:3]))
    assert (meant.name, meant.version.value, meant.signature_name) == (model, 1, "serving_default")
    with load(server.service.repository.find(model).bundle.path) as ours:
        alone = [ours.run({"image": row[None]}) for row in pictures[:3]]
    for name in ("digit", "features"):
        np.testing.assert_array_equal(outputs[name], np.concatenate([one[name] for one in alone]), strict=True)


def test_many_values_one_by_one(rpc: Any, pictures: Array) -> None:
    many = np.concatenate([pictures] * 17)
    request = message(f"{PACKAGE}.PredictRequest")(model_spec=spec("onnx"))
    write_tensor(many, request.inputs["image"])
    request.inputs["image"].ClearField("tensor_content")
    request.inputs["image"].float_val.extend(many.ravel().tolist())
    assert takes_long(request.inputs.values())
    _, outputs = predict(rpc, request)
    _, expected = predict(rpc, predict_request(spec("onnx"), image=many))
    np.testing.assert_array_equal(outputs["digit"], expected["digit"])


def test_an_output_that_is_asked_for_comes_alone(rpc: Any, pictures: Array) -> None:
    _, outputs = predict(rpc, predict_request(spec("digits", version=1), "digit", image=pictures[:1]))
    assert list(outputs) == ["digit"]


def test_a_signature_of_stored_values(rpc: Any, server: Any, pictures: Array) -> None:
    release = server.service.repository.find("digits")
    (image,), (digit, _) = release.primary.inputs, release.primary.outputs
    stored = image.quantization.quantize(pictures[:1], "int8")
    meant, outputs = predict(
        rpc, predict_request(spec("digits", signature_name="serving_default:stored"), image=stored)
    )
    assert (meant.signature_name, outputs["digit"].dtype) == ("serving_default:stored", np.int8)
    _, real = predict(rpc, predict_request(spec("digits"), image=stored))
    np.testing.assert_array_equal(digit.quantization.dequantize(outputs["digit"]), real["digit"])


@pytest.mark.parametrize(
    ("meant", "feeds", "code", "said"),
    [
        (spec("digit"), {}, "NOT_FOUND", "model 'digit': is not here; there are: digits, float, onnx"),
        (spec("digits", version=3), {}, "NOT_FOUND", "version 3 of model 'digits': is not here"),
        (spec("digits", version=-1), {}, "NOT_FOUND", "version '-1' of model 'digits': is no number"),
        (spec("digits", version_label="canary"), {}, "NOT_FOUND", "version 'canary': is a label"),
        (spec("digits", signature_name="x"), {}, "NOT_FOUND", "signature 'x': is none of the model's"),
        (
            spec("digits"),
            {"image": 1, "x": 1},
            "INVALID_ARGUMENT",
            "input size does not match signature: 2 != 1, len({image,x}) != len({image}); Sent extra: {x}. "
            "Missing but required: {}",
        ),
        (
            spec("digits"),
            {"x": 1},
            "INVALID_ARGUMENT",
            "input tensor alias not found in signature: x; Inputs expected to be in the set {image}",
        ),
        (
            spec("digits"),
            {"image": 1},
            "INVALID_ARGUMENT",
            "input image: takes float32[?x1x8x8], and was given int64[]",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(rpc: Any, meant: Any, feeds: dict[str, Any], code: str, said: str) -> None:
    request = predict_request(meant, **{name: np.int64(value) for name, value in sorted(feeds.items())})
    found, details = rpc.refused("prediction/Predict", request)
    assert (found, said in details) == (code, True), details


def test_an_output_that_is_not_there_is_named(rpc: Any, pictures: Array) -> None:
    request = predict_request(spec("digits"), "x", image=pictures[:1])
    code, details = rpc.refused("prediction/Predict", request)
    assert code == "INVALID_ARGUMENT"
    assert "alias not found in signature: x; Outputs expected to be in the set {digit,features}" in details


def test_metadata_tells_every_signature(rpc: Any) -> None:
    fields = {"model_spec": spec("digits"), "metadata_field": ["signature_def"]}
    found = rpc.call("prediction/GetModelMetadata", "GetModelMetadataRequest", "GetModelMetadataResponse", **fields)
    assert (found.model_spec.name, found.model_spec.version.value) == ("digits", 1)
    signatures = message(f"{PACKAGE}.SignatureDefMap")()
    assert found.metadata["signature_def"].Unpack(signatures)
    dtypes = {name: one.outputs["digit"].dtype for name, one in signatures.signature_def.items()}
    assert {"serving_default": 1, "serving_default:stored": 6}.items() <= dtypes.items()
    image = signatures.signature_def["serving_default"].inputs["image"]
    assert (image.name, image.dtype, [dim.size for dim in image.tensor_shape.dim]) == ("image:0", 1, [-1, 1, 8, 8])


def test_other_metadata_is_refused(rpc: Any) -> None:
    for fields in ([], ["x"]):
        request = message(f"{PACKAGE}.GetModelMetadataRequest")(model_spec=spec("digits"), metadata_field=fields)
        code, details = rpc.refused("prediction/GetModelMetadata", request)
        assert (code, "ask for 'signature_def'" in details) == ("INVALID_ARGUMENT", True)


def test_status(rpc: Any) -> None:
    args = ("models/GetModelStatus", "GetModelStatusRequest", "GetModelStatusResponse")
    (status,) = rpc.call(*args, model_spec=spec("digits")).model_version_status
    assert (status.version, status.state, status.status.error_code, status.status.error_message) == (1, 30, 0, "")
    request = message(f"{PACKAGE}.GetModelStatusRequest")
    for meant, said in ((spec("x"), "model 'x'"), (spec("digits", version=2), "version 2 of model 'digits'")):
        found = rpc.refused("models/GetModelStatus", request(model_spec=meant))
        assert found == ("NOT_FOUND", f"{said}: is not here; ask for one that is")


def test_what_was_unloaded_has_ended_well(serve: Any, connect: Any, bundles: Any) -> None:
    args = ("models/GetModelStatus", "GetModelStatusRequest", "GetModelStatusResponse")
    with serve(digits=bundles["float"]) as server, connect(server.grpc) as rpc:
        server.do(server.service.repository.unload("digits"))
        (status,) = rpc.call(*args, model_spec=spec("digits")).model_version_status
    assert (status.state, status.status.error_code, status.status.error_message) == (50, 0, "")


def test_too_many_names_are_refused(rpc: Any) -> None:
    request = message(f"{PACKAGE}.PredictRequest")(model_spec=spec("digits"), output_filter=["digit"] * 1000)
    for i in range(25):
        request.inputs[str(i)].dtype = 1
    code, details = rpc.refused("prediction/Predict", request)
    assert (code, "names 1025 tensors and parameters, and 1024 are allowed" in details) == ("INVALID_ARGUMENT", True)


def test_sizes_of_a_shape_are_read_aside() -> None:
    tensor = message("tensorflow.TensorProto")(dtype=1)
    for _ in range(ONE_BY_ONE + 1):
        tensor.tensor_shape.dim.add(size=1)
    assert takes_long([tensor])


def test_the_release_that_is_meant_stays_while_a_request_is_read(withdrawn: Any, pictures: Array) -> None:
    request = message(f"{PACKAGE}.PredictRequest")(model_spec=spec("digits"))
    write_tensor(np.concatenate([pictures] * 17), request.inputs["image"])
    request.inputs["image"].float_val.extend(np.frombuffer(request.inputs["image"].tensor_content, "f4").tolist())
    request.inputs["image"].ClearField("tensor_content")
    assert takes_long(request.inputs.values())
    answer = message(f"{PACKAGE}.PredictResponse").FromString(withdrawn("prediction/Predict", request))
    assert answer.model_spec.version.value == 1


@pytest.mark.parametrize("method", ["prediction/Classify", "prediction/Regress", "models/HandleReloadConfigRequest"])
def test_methods_that_are_not_here_say_why(rpc: Any, method: str) -> None:
    code, details = rpc.refused(method, b"\n\6digits")
    assert (code, details.startswith(method.partition("/")[2])) == ("UNIMPLEMENTED", True)
