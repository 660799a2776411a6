"""A readiness probe."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..backend import current_backend

__all__ = ["healthz"]

SECONDS = 2.0
"""That the store may take to answer."""


async def healthz(request: Request) -> Response:
    """200 if the current backend can be used now, else 503: an endpoint for probes.

    ::

        routes = [Route("/healthz", healthz), …]        # Starlette
        app.add_route("/healthz", healthz)              # FastAPI

    The body is ``{"ok", "connected", "latency"}``, the latency in seconds. Why it fails is for the log, not for the
    client.
    """
    try:
        health = await current_backend().health(timeout=SECONDS)
    except (RuntimeError, ValueError):  # none is connected, or Celery's current app has none that we know
        return JSONResponse({"ok": False, "connected": False, "latency": None}, 503)
    found = {"ok": health.ok, "connected": health.connected, "latency": health.latency}
    return JSONResponse(found, 200 if health.ok else 503, {"Cache-Control": "no-store"})
