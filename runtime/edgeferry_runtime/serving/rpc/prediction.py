"""``tensorflow.serving.PredictionService``: Predict and GetModelMetadata.

Source: TensorFlow Serving, ``prediction_service.proto``, and its words for what does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from edgeferry_runtime.serving.aside import aside
from edgeferry_runtime.serving.lane import Lane
from edgeferry_runtime.serving.oip import describe
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.release import Release
from edgeferry_runtime.serving.rpc.calls import Method, unimplemented
from edgeferry_runtime.serving.rpc.inference_messages import Check
from edgeferry_runtime.serving.rpc.messages import message
from edgeferry_runtime.serving.rpc.model_specs import answered, find
from edgeferry_runtime.serving.rpc.tensor_protos import number_of, read_tensor, takes_long, write_tensor
from edgeferry_runtime.serving.rpc.values import refuse_crowd
from edgeferry_runtime.serving.service import Call, Service, names
from edgeferry_runtime.serving.signatures import DEFAULT, Signature, find_signature, signatures
from edgeferry_runtime.tensors import Array

SERVICE = "tensorflow.serving.PredictionService"
FIELD = "signature_def"
MISSING = ("Classify", "Regress", "MultiInference")


def methods(service: Service) -> dict[str, Method]:
    """Return its methods by name."""
    own = Prediction(service)
    why = ("takes tf.Example over gRPC, which no model here does", "call Predict, or :classify and :regress over HTTP")
    return {
        "Predict": Method("tensorflow.serving.PredictRequest", own.predict),
        "GetModelMetadata": Method("tensorflow.serving.GetModelMetadataRequest", own.get_model_metadata),
        **{name: unimplemented(name, *why) for name in MISSING},
    }


class Prediction:
    """Answers the service's requests.

    Args:
        service: The heart of the server.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def predict(self, request: Any, timeout_s: float | None) -> Any:
        """Run a model."""
        refuse_crowd(len(request.inputs) + len(request.output_filter))
        with find(self._service.repository, request.model_spec).held() as release:
            return await self._predict(request, release, timeout_s)

    async def _predict(self, request: Any, release: Release, timeout_s: float | None) -> Any:
        spec = request.model_spec
        meant = find_signature(release, spec.signature_name)
        _check_inputs(meant.lane, request.inputs)
        wanted = list(request.output_filter) or names(meant.lane.outputs)
        _check_outputs(meant.lane, wanted)
        read = partial(_feeds, request.inputs, self._service.check_tensor)
        feeds = await aside(self._service, read) if takes_long(request.inputs.values()) else read()
        outputs = dict.fromkeys(wanted, meant.stored)
        call = Call(release.name, feeds, release.version, meant.key, outputs, timeout_s)
        answer = await self._service.infer(call, release)
        response = message("tensorflow.serving.PredictResponse")(
            model_spec=answered(answer.release, spec.signature_name or DEFAULT)
        )
        for name, value in answer.outputs.items():
            write_tensor(value, response.outputs[name])
        return response

    async def get_model_metadata(self, request: Any, timeout_s: float | None) -> Any:
        """Describe a model's signatures."""
        release = find(self._service.repository, request.model_spec)
        asked = list(request.metadata_field) or [""]
        for field in asked:
            if field != FIELD:
                raise RefusedError(Kind.INVALID, f"metadata field {field[:80]!r}", "is none", f"ask for {FIELD!r}")
        response = message("tensorflow.serving.GetModelMetadataResponse")(model_spec=answered(release, ""))
        response.metadata[FIELD].Pack(_described(release))
        return response


def _feeds(inputs: Mapping[str, Any], check: Check) -> dict[str, Array]:
    return {name: read_tensor(name, tensor, check) for name, tensor in inputs.items()}


def _described(release: Release) -> Any:
    """Return a ``SignatureDefMap``; the primary signature is ``serving_default`` too, which clients look for."""
    found = message("tensorflow.serving.SignatureDefMap")()
    known = signatures(release)
    for name, meant in {DEFAULT: next(iter(known.values())), **known}.items():
        _describe(found.signature_def[name], meant)
    return found


def _describe(definition: Any, meant: Signature) -> None:
    """Fill a ``SignatureDef``."""
    definition.method_name = "tensorflow/serving/predict"
    sides = ((definition.inputs, meant.lane.inputs), (definition.outputs, meant.lane.outputs))
    for (infos, specs), told in zip(sides, describe(meant.lane), strict=True):
        for spec, said in zip(specs, told, strict=True):
            info = infos[spec.name]
            info.name, info.dtype = f"{spec.name}:0", number_of(meant.dtype(spec))
            for size in said["shape"]:
                info.tensor_shape.dim.add(size=size)


def _check_inputs(lane: Lane, inputs: Mapping[str, Any]) -> None:
    """Name the inputs that do not fit in the words of TensorFlow Serving, which its users look for."""
    known = names(lane.inputs)
    extra, lacking = [name for name in inputs if name not in known], [name for name in known if name not in inputs]
    if len(inputs) != len(known):
        reason = f"{len(inputs)} != {len(known)}, len({_set(inputs)}) != len({_set(known)})"
        fix = f"Sent extra: {_set(extra)}. Missing but required: {_set(lacking)}"
        raise RefusedError(Kind.INVALID, "input size does not match signature", reason, fix)
    if extra:
        fix = f"Inputs expected to be in the set {_set(known)}"
        raise RefusedError(Kind.INVALID, "input tensor alias not found in signature", extra[0][:80], fix)


def _check_outputs(lane: Lane, wanted: list[str]) -> None:
    known = names(lane.outputs)
    for name in wanted:
        if name not in known:
            fix = f"Outputs expected to be in the set {_set(known)}"
            raise RefusedError(Kind.INVALID, "output tensor alias not found in signature", name[:80], fix)


def _set(found: Iterable[str]) -> str:
    return "{" + ",".join(name[:80] for name in sorted(found)[:8]) + "}"
