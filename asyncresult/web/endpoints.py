"""What the routes do; also for handlers of one's own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..errors import ResultTimeout
from ..meta import TaskMeta
from ..result import AsyncResult
from ..states import READY_STATES
from .documents import dump, etag_of, status_document
from .forms import FORMS
from .problems import Problem
from .settings import Settings
from .stopping import stop_of
from .streams import ENDED, EventStream
from .urls import links_of, settings_of

__all__ = ["accepted", "events", "status", "wait_with_client"]

RETRY_AFTER = 1
"""Seconds after which a client that does not wait should ask again."""


async def accepted(request: Request, handle: Any, *, base: str | None = None) -> Response:
    """The answer to a request that has sent a task: 202 with ``Location``; or, if the client has asked to wait by
    ``Prefer: wait=N`` and the task has ended meanwhile, 200 with the result.

    Args:
        handle: What ``adelay()``, ``delay()`` or ``submit()`` gave.
        base: The path below which tasks are served; found by itself where ``create_app()`` is mounted in, or
            ``router()`` included by, the same app.

    Raises:
        RuntimeError: They are not, and ``base`` is not given.
    """
    handle = getattr(handle, "handle", handle)
    settings, links = settings_of(request), links_of(request, handle.id, base)
    seconds = _wanted_wait(request, settings.max_wait)
    meta = await _meta_after(request, handle, seconds)
    body = dump(status_document(meta, reveal_errors=settings.reveal_errors, links=links))
    headers = {"Cache-Control": "no-store", "Vary": "Prefer"}
    if seconds and meta.ready:
        return _json(body, 200, {**headers, "Preference-Applied": f"wait={seconds:g}"})
    return _json(body, 202, {**headers, "Location": links["self"], "Retry-After": str(RETRY_AFTER)})


async def status(
    request: Request, handle: AsyncResult[Any], settings: Settings, *, base: str | None = None
) -> Response:
    """The status document of a task. A failed task is 200 too: its status was read well.

    Honours ``Prefer: wait=N`` (or ``?wait=N``), ``If-None-Match``, and Accept for the page.
    """
    seconds = _wanted_wait(request, settings.max_wait)
    meta = await _meta_after(request, handle, seconds)
    links = links_of(request, handle.id, base)
    body = dump(status_document(meta, reveal_errors=settings.reveal_errors, links=links))
    tag = etag_of(body)
    headers = {
        "ETag": tag,
        "Vary": "Prefer, Accept",
        "Cache-Control": "private, no-cache" if meta.ready else "no-store",
    }
    if not meta.ready:
        headers["Retry-After"] = str(RETRY_AFTER)
    if seconds:
        headers["Preference-Applied"] = f"wait={seconds:g}"
    if _matches(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    return _json(body, 200, headers)


async def events(request: Request, handles: Sequence[AsyncResult[Any]], settings: Settings) -> Response:
    """A stream of server-sent events about tasks, in the form that ``?format=`` or Accept asks for."""
    last_event_id = request.headers.get("last-event-id") or request.query_params.get("last-event-id", "")
    if last_event_id == ENDED:
        return Response(status_code=204)
    form = request.query_params.get("format") or _accepted_form(request.headers.get("accept", ""))
    if form not in FORMS:
        raise Problem(400, "Unknown format", f"format is one of {', '.join(FORMS)}.")
    return EventStream(
        list(handles),
        settings,
        form=form,
        view=lambda meta: status_document(meta, reveal_errors=settings.reveal_errors),
        last_event_id=last_event_id,
    )


def _accepted_form(accept: str) -> str:
    types = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    if not types or types == [""] or {"*/*", "text/*", "text/event-stream"} & set(types):
        return "html" if "text/html" in types else "json"
    raise Problem(406, "Not acceptable", "Events come as text/event-stream.")


def _json(body: bytes, status_code: int, headers: dict[str, str]) -> Response:
    return Response(body, status_code, headers, media_type="application/json")


def _matches(header: str, tag: str) -> bool:
    """RFC 9110, section 13.1.2: weak comparison, or ``*``."""
    return header.strip() == "*" or tag in [part.strip().removeprefix("W/") for part in header.split(",")]


_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,6})\"?", re.IGNORECASE)


def _wanted_wait(request: Request, most: float) -> float:
    """Seconds that the client is ready to wait (RFC 7240, section 4.3), at most ``most``."""
    given = request.query_params.get("wait")
    if given is not None:
        try:
            seconds = float(given)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < 1e6:
            raise Problem(400, "Malformed wait", "wait is a number of seconds.")
        return min(seconds, most)
    found = _WAIT.search(request.headers.get("prefer", ""))
    return min(float(found[1]), most) if found else 0.0


async def _meta_after(request: Request, handle: AsyncResult[Any], seconds: float) -> TaskMeta:
    if seconds:
        try:
            return await wait_with_client(request, handle, seconds)
        except ResultTimeout:
            pass
    return await handle.meta()


async def wait_with_client(request: Request, handle: AsyncResult[Any], timeout: float | None) -> TaskMeta:
    """Wait for the end of a task, as long as the client is there and the server runs.

    Raises:
        ResultTimeout: It has not ended in time, or the client or the server has gone.
    """
    loop = asyncio.get_running_loop()
    waiting = loop.create_task(handle.until(*READY_STATES, timeout=timeout), name="asyncresult web: wait")
    gone = loop.create_task(_gone(request), name="asyncresult web: client")
    stop = stop_of(loop).future()
    try:
        sources: set[asyncio.Future[Any]] = {waiting, gone, stop}
        await asyncio.wait(sources, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        raise ResultTimeout("the client or the server has gone")
    finally:
        stop.cancel()
        for task in (waiting, gone):
            task.cancel()
        await asyncio.gather(waiting, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
