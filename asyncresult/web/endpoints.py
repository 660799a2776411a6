"""What the routes do; also for handlers of one's own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from .._handles.base import as_result
from ..errors import ResultTimeout
from ..meta import TaskMeta
from ..result import AsyncResult
from ..states import READY_STATES
from .documents import dump, etag_of, failure_before, status_document
from .forms import FORMS
from .problems import Problem
from .settings import Settings
from .stopping import stop_of
from .streams import EventStream, Followed, Position, disconnected, end_tasks
from .urls import find_served, links_of

__all__ = ["accepted", "answer", "events", "refuse_unknown", "status", "stream", "wait_with_client"]

RETRY_AFTER = 1
"""Seconds after which a client that does not wait should poll again."""

_defaults = Settings(authorize=lambda request, task_id: False)
"""For handlers in apps that serve no tasks."""


async def accepted(request: Request, handle: Any, *, base: str | None = None) -> Response:
    """The answer to a request that has sent a task: 202 with ``Location``; or, if the client waits
    (``Prefer: wait=N``) and the task has ended meanwhile, 200 with the result.

    Args:
        handle: What ``adelay()``, ``delay()`` or ``submit()`` gave.
        base: The path below which tasks are served; found by itself where ``create_app()`` is mounted in, or
            ``router()`` included by, the same app.

    Raises:
        RuntimeError: It cannot be found, and is not given.
        BackendError, BackendClosed: The backend cannot be reached; see :func:`.exception_handlers`.
    """
    settings, place = find_served(request, base)
    if place is None:
        raise RuntimeError(
            "nothing serves tasks here: mount asyncresult.web.create_app(…), include"
            " asyncresult.web.fastapi.router(…), or give base="
        )
    settings = settings or _defaults
    handle = as_result(handle)
    name = settings.name_of(request, handle.id)
    links = links_of(place, name)
    seconds = _wanted_wait(request, settings.max_wait)
    try:
        meta = await _meta_after(request, handle, seconds, settings)
    except Problem:  # too many wait already, but the task has been sent
        seconds = 0.0
        meta = await handle.meta()
    body = dump(status_document(meta, name, reveal_errors=settings.reveal_errors, links=links))
    headers = {"Cache-Control": "no-store", "Vary": "Prefer"}
    if seconds and meta.ready:
        return _json(body, 200, {**headers, "Preference-Applied": f"wait={seconds:g}"})
    return _json(body, 202, {**headers, "Location": links["self"], "Retry-After": str(RETRY_AFTER)})


async def status(request: Request, handle: AsyncResult[Any], *, base: str | None = None) -> Response:
    """The status document of a task, from a handler of your own, which has decided who may see it.

    A failed task is 200 too: its status was read well. Honours ``Prefer: wait=N`` (or ``?wait=N``) and
    ``If-None-Match``. There are links where the same app serves tasks, see :func:`accepted`. An id of no task is 404
    where the backend notes what is sent (``register=True``).

    Raises:
        Problem, BackendError, BackendClosed, ResultDecodeError: See :func:`.exception_handlers`.
    """
    await refuse_unknown(handle)
    settings, place = find_served(request, base)
    settings = settings or _defaults
    name = settings.name_of(request, handle.id)
    return await answer(request, handle, settings, name, None if place is None else links_of(place, name))


async def answer(
    request: Request, handle: AsyncResult[Any], settings: Settings, name: str, links: dict[str, str] | None
) -> Response:
    """The status document."""
    seconds = _wanted_wait(request, settings.max_wait)
    meta = await _meta_after(request, handle, seconds, settings)
    body = dump(status_document(meta, name, reveal_errors=settings.reveal_errors, links=links))
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


async def refuse_unknown(handle: AsyncResult[Any]) -> None:
    """See that a task was sent, where its backend registers those that are.

    Raises:
        Problem: 404, as for one that may not be seen.
    """
    if handle.backend.registers and not await handle.known():
        raise Problem.not_found()


async def events(request: Request, handles: AsyncResult[Any] | Iterable[AsyncResult[Any]]) -> Response:
    """A stream of server-sent events about tasks, from a handler of your own, which has decided who may see them.

    Its form is what ``?format=`` (json, html, htmx2, datastar) or Accept says.

    Raises:
        Problem: 400 or 406, for another form; see :func:`.exception_handlers`.
    """
    settings = find_served(request, None)[0] or _defaults
    given = [handles] if isinstance(handles, AsyncResult) else handles
    return stream(request, [Followed(handle, settings.name_of(request, handle.id)) for handle in given], settings)


def stream(request: Request, tasks: Sequence[Followed], settings: Settings) -> Response:
    """The stream about tasks, from where the client is; 204 where nothing is left to be sent."""
    form = request.query_params.get("format") or _accepted_form(request.headers)
    if form not in FORMS:
        raise Problem(400, "Unknown format", f"format is one of {', '.join(FORMS)}.")
    last = request.headers.get("last-event-id") or request.query_params.get("last-event-id", "")
    position = Position([task.handle.id for task in tasks], last)
    if position.over:
        return Response(status_code=204)
    return EventStream(tasks, settings, form=form, position=position)


def _accepted_form(headers: Headers) -> str:
    """What Accept says; Datastar accepts the same as others, and says its name instead."""
    accept = headers.get("accept", "")
    if "datastar-request" in headers:
        return "datastar"
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


async def _meta_after(request: Request, handle: AsyncResult[Any], seconds: float, settings: Settings) -> TaskMeta:
    if seconds:
        client = request.client.host if request.client else ""
        settings.open_stream(client)
        try:
            return await wait_with_client(request, handle, seconds)
        except ResultTimeout:
            pass
        finally:
            settings.close_stream(client)
    return await handle.meta()


async def wait_with_client(request: Request, handle: AsyncResult[Any], timeout: float | None) -> TaskMeta:
    """Wait for the end of a task, as long as the client is there and the server runs.

    Raises:
        ResultTimeout: It has not ended in time, or the client or the server has gone.
    """
    loop = asyncio.get_running_loop()
    waiting = loop.create_task(_end_of(handle, timeout), name="asyncresult web: wait")
    gone = loop.create_task(disconnected(request.receive), name="asyncresult web: client")
    stop = stop_of(loop).future()
    try:
        sources: set[asyncio.Future[Any]] = {waiting, gone, stop}
        await asyncio.wait(sources, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        raise ResultTimeout("the client or the server has gone")
    finally:
        stop.cancel()
        await end_tasks(waiting, gone)


async def _end_of(handle: AsyncResult[Any], timeout: float | None) -> TaskMeta:
    """The final record; or that of a task before this one that has failed, in which case there will be none."""
    try:
        return await handle.until(*READY_STATES, timeout=timeout)
    except Exception:
        before = failure_before(handle)
        if before is None:
            raise
        return before
