"""``inference.GRPCInferenceService``: the Open Inference Protocol v2 of KServe and Triton.

What Edgeferry adds: a parameter ``stored`` of a requested output, or of the request for all of them, asks for the
stored integers of a quantized output; an input whose datatype is the stored one holds them.

Sources: KServe, "Open Inference Protocol (V2)", gRPC API; Triton Inference Server, "Model Repository Extension".
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from edgeferry_runtime import __version__
from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.serving.aside import aside
from edgeferry_runtime.serving.oip import EXTENSIONS, PLATFORMS, SERVER, describe
from edgeferry_runtime.serving.refusals import Kind, RefusedError, refuse
from edgeferry_runtime.serving.release import State
from edgeferry_runtime.serving.rpc.calls import Method, unimplemented
from edgeferry_runtime.serving.rpc.inference_messages import check_count, read_call, takes_long, write_answer
from edgeferry_runtime.serving.rpc.messages import message
from edgeferry_runtime.serving.service import Service

SERVICE = "inference.GRPCInferenceService"

MEMORY = [f"{kind}SharedMemory{verb}" for kind in ("System", "Cuda") for verb in ("Status", "Register", "Unregister")]

MISSING: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "ModelConfig": ("would give a configuration of Triton's", "call ModelMetadata"),
        "ModelStatistics": ("is not how this server counts", "read /metrics over HTTP"),
        **dict.fromkeys(MEMORY, ("would open this machine's memory", "send tensors in the request")),
        **dict.fromkeys(("TraceSetting", "LogSettings"), ("is not for clients to change", "use the server's options")),
    }
)
"""Methods that Triton has and this server does not: why, and what to do instead."""


def methods(service: Service) -> dict[str, Method]:
    """Return its methods by name."""
    own = Inference(service)
    return {
        "ServerLive": Method("inference.ServerLiveRequest", own.server_live, free=True),
        "ServerReady": Method("inference.ServerReadyRequest", own.server_ready, free=True),
        "ModelReady": Method("inference.ModelReadyRequest", own.model_ready),
        "ServerMetadata": Method("inference.ServerMetadataRequest", own.server_metadata),
        "ModelMetadata": Method("inference.ModelMetadataRequest", own.model_metadata),
        "ModelInfer": Method("inference.ModelInferRequest", own.model_infer),
        "ModelStreamInfer": Method("inference.ModelInferRequest", own.model_stream_infer, stream=True),
        "RepositoryIndex": Method("inference.RepositoryIndexRequest", own.repository_index),
        "RepositoryModelLoad": Method("inference.RepositoryModelLoadRequest", own.repository_model_load),
        "RepositoryModelUnload": Method("inference.RepositoryModelUnloadRequest", own.repository_model_unload),
        **{name: unimplemented(name, *why) for name, why in MISSING.items()},
    }


class Inference:
    """Answers the service's requests; each method takes the request that its name says.

    Args:
        service: The heart of the server.
    """

    def __init__(self, service: Service) -> None:
        self._service, self._repository = service, service.repository

    async def server_live(self, request: Any, timeout_s: float | None) -> Any:
        """Tell that the server answers."""
        return message("inference.ServerLiveResponse")(live=True)

    async def server_ready(self, request: Any, timeout_s: float | None) -> Any:
        """Tell whether every model can answer."""
        return message("inference.ServerReadyResponse")(ready=self._service.ready())

    async def model_ready(self, request: Any, timeout_s: float | None) -> Any:
        """Tell whether a model can answer; one that is not here cannot."""
        try:
            self._repository.find(request.name, request.version)
        except RefusedError:
            return message("inference.ModelReadyResponse")(ready=False)
        return message("inference.ModelReadyResponse")(ready=True)

    async def server_metadata(self, request: Any, timeout_s: float | None) -> Any:
        """Tell what the server is."""
        made = message("inference.ServerMetadataResponse")
        return made(name=SERVER, version=__version__, extensions=EXTENSIONS)

    async def model_metadata(self, request: Any, timeout_s: float | None) -> Any:
        """Tell a model's versions, inputs and outputs."""
        release = self._repository.find(request.name, request.version)
        response = message("inference.ModelMetadataResponse")(
            name=release.name,
            versions=map(str, self._repository.versions(release.name)),
            platform=PLATFORMS[release.manifest.format],
        )
        for tensors, told in zip((response.inputs, response.outputs), describe(release.primary), strict=True):
            for said in told:
                tensors.add(name=said["name"], datatype=said["datatype"], shape=said["shape"])
        return response

    async def model_infer(self, request: Any, timeout_s: float | None) -> Any:
        """Run a model."""
        check_count(request)
        with self._repository.find(request.model_name, request.model_version).held() as release:
            read = partial(read_call, request, release, self._service.check_tensor, timeout_s)
            call, wanted = await aside(self._service, read) if takes_long(request) else read()
            return write_answer(request, await self._service.infer(call, release), wanted)

    async def model_stream_infer(self, request: Any, timeout_s: float | None) -> Any:
        """Run a model for one request of a stream; an error is an answer, after which the stream goes on."""
        response = message("inference.ModelStreamInferResponse")()
        try:
            response.infer_response.CopyFrom(await self.model_infer(request, timeout_s))
        except EdgeferryError as error:
            response.error_message = str(refuse(error))
            response.infer_response.id = request.id
        response.infer_response.parameters["triton_final_response"].bool_param = True
        return response

    async def repository_index(self, request: Any, timeout_s: float | None) -> Any:
        """List every version of every model that is known, or those that can answer."""
        response = message("inference.RepositoryIndexResponse")()
        for one in self._repository.index():
            if one.state is State.READY or not request.ready:
                response.models.add(name=one.name, version=str(one.version), state=one.state.value, reason=one.reason)
        return response

    async def repository_model_load(self, request: Any, timeout_s: float | None) -> Any:
        """Load a model of the server's repository; nothing of it comes from the client."""
        for name in request.parameters:
            reason = f"brings {name[:40]!r}, and nothing but a model's name comes in"
            raise RefusedError(Kind.INVALID, "the request", reason, "put a bundle into the server's repository")
        await self._repository.load(request.model_name)
        return message("inference.RepositoryModelLoadResponse")()

    async def repository_model_unload(self, request: Any, timeout_s: float | None) -> Any:
        """Let a model go, after what is in flight."""
        await self._repository.unload(request.model_name)
        return message("inference.RepositoryModelUnloadResponse")()
