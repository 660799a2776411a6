"""Results over HTTP: status, long polling, server-sent events and a progress page. Needs ``asyncresult[web]``.

::

    app.mount("/tasks", create_app(authorize=may_see), name="tasks")      # any ASGI app
    api.include_router(router(authorize=may_see), prefix="/tasks")        # FastAPI, from asyncresult.web.fastapi

    async def start(request):                                             # a handler of one's own
        return await accepted(request, await resize.adelay(picture))      # 202, Location, or the result (Prefer: wait)

Theory of operation
===================

A task's id in a URL is a capability: who may use it is decided by ``authorize``, which has no default, and what it
refuses looks like what does not exist. What is shown of a task is decided in one place (:mod:`.documents`), as data;
the forms of it (JSON, HTML for htmx, Datastar) are made from that. Streams end when the client goes away, when the
server begins to stop (:mod:`.stopping`), and after ``stream_life`` seconds; the client then comes back with
``Last-Event-ID`` and gets what it has missed, as far as the task keeps a history.

Source: RFC 9110 (202, Location, Retry-After, ETag), RFC 7240 (Prefer), RFC 9457 (problem documents), and the HTML
standard, section 9.2 (server-sent events).
"""

from __future__ import annotations

from .._extensions import without_extra

try:
    from .app import create_app
    from .documents import status_json
    from .endpoints import accepted, events, status
    from .forms import sse_event
    from .health import healthz
    from .lifespan import lifespan
    from .problems import Problem, exception_handlers
    from .settings import Settings
    from .stopping import server_stops
    from .tokens import Tokens
except ModuleNotFoundError as _error:
    raise without_extra("web", _error) from None

__all__ = [
    "Problem",
    "Settings",
    "Tokens",
    "accepted",
    "create_app",
    "events",
    "exception_handlers",
    "healthz",
    "lifespan",
    "server_stops",
    "sse_event",
    "status",
    "status_json",
]
