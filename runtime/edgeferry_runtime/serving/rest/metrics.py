"""``GET /metrics``: the server's figures for Prometheus.

Source: Prometheus, "Exposition formats"; OpenMetrics 1.0.0.
"""

from __future__ import annotations

from prometheus_client import exposition
from prometheus_client.openmetrics import exposition as openmetrics
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

OPENMETRICS = "application/openmetrics-text"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"


async def metrics(request: Request) -> Response:
    """Write all figures, as OpenMetrics where the client takes it."""
    registry = request.app.state.telling.figures.registry
    if OPENMETRICS in request.headers.get("accept", ""):
        text = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        return Response(text, media_type=openmetrics.CONTENT_TYPE_LATEST)
    return Response(exposition.generate_latest(registry), media_type=PLAIN)


routes = [Route("/metrics", metrics)]
