"""``tensorflow.serving.ModelService``: GetModelStatus."""

from __future__ import annotations

from typing import Any

from edgeferry_runtime.serving.entry import UNLOADED
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.release import State
from edgeferry_runtime.serving.rpc.calls import Method, unimplemented
from edgeferry_runtime.serving.rpc.messages import message
from edgeferry_runtime.serving.rpc.model_specs import version
from edgeferry_runtime.serving.service import Service

SERVICE = "tensorflow.serving.ModelService"

STATES = {
    State.LOADING: "LOADING",
    State.READY: "AVAILABLE",
    State.UNLOADING: "UNLOADING",
    State.UNAVAILABLE: "END",
}
"""What TensorFlow Serving calls each state; END is the end of a version, for whatever reason."""


def methods(service: Service) -> dict[str, Method]:
    """Return its methods by name."""

    async def get_model_status(request: Any, timeout_s: float | None) -> Any:
        name, wanted = request.model_spec.name, version(request.model_spec)
        listings = [listing for listing in service.repository.index() if listing.name == name]
        meant = [listing for listing in listings if wanted in (None, listing.version)]
        if not meant:
            subject = f"version {wanted} of model {name!r}" if listings else f"model {name[:80]!r}"
            raise RefusedError(Kind.NOT_FOUND, subject, "is not here", "ask for one that is")
        response = message("tensorflow.serving.GetModelStatusResponse")()
        for listing in meant:
            status = response.model_version_status.add(version=listing.version, state=STATES[listing.state])
            status.status.error_message = "" if listing.reason == UNLOADED else listing.reason
            status.status.error_code = "UNKNOWN" if status.status.error_message else "OK"
        return response

    reason, fix = "would let clients place models", "load a model by name with RepositoryModelLoad"
    return {
        "GetModelStatus": Method("tensorflow.serving.GetModelStatusRequest", get_model_status),
        "HandleReloadConfigRequest": unimplemented("HandleReloadConfigRequest", reason, fix),
    }
