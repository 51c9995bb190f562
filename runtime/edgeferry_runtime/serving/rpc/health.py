"""``grpc.health.v1.Health``: what Kubernetes' gRPC probes ask.

Source: gRPC, "GRPC Health Checking Protocol". ``Watch`` is not here, which clients take as no news of health.
"""

from __future__ import annotations

from typing import Any

from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.rpc.calls import Method, unimplemented
from edgeferry_runtime.serving.rpc.messages import message
from edgeferry_runtime.serving.service import Service

SERVICE = "grpc.health.v1.Health"

KNOWN = ("", "inference.GRPCInferenceService", "tensorflow.serving.PredictionService")
"""Services whose health is that of the server, which the empty name means."""


def methods(service: Service) -> dict[str, Method]:
    """Return its methods by name."""

    async def check(request: Any, timeout_s: float | None) -> Any:
        if request.service not in KNOWN:
            fix = f"ask for none, or for one of: {', '.join(KNOWN[1:])}"
            raise RefusedError(Kind.NOT_FOUND, f"service {request.service[:80]!r}", "is not here", fix)
        status = "SERVING" if service.ready() else "NOT_SERVING"
        return message("grpc.health.v1.HealthCheckResponse")(status=status)

    return {
        "Check": Method("grpc.health.v1.HealthCheckRequest", check, free=True),
        "Watch": unimplemented("Watch", "tells nothing by itself", "call Check"),
    }
