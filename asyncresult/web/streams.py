"""A stream of server-sent events about some tasks, as an ASGI response."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..errors import AsyncResultError
from ..meta import TaskMeta
from ..result import AsyncResult
from .forms import FORMS, comment, end_event, event
from .problems import problem_of
from .settings import Settings
from .stopping import stop_of

__all__ = ["ENDED", "EventStream", "Position"]

ENDED = "end"
"""The id of the last event: a client that comes back with it gets 204, which ends an EventSource for good."""
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would collect the events
    "Content-Encoding": "identity",  # middleware that compresses would too
}


class Position:
    """Where a client is in the histories of the tasks that it follows, as the ids of events say it.

    An id names the tasks by a checksum, so that one of another stream counts for nothing.
    """

    def __init__(self, ids: list[str], last_event_id: str = "") -> None:
        self._check = hashlib.blake2b("\n".join(ids).encode(), digest_size=4).hexdigest()
        self._at: dict[str, str | None] = dict.fromkeys(ids)
        check, _, places = last_event_id.partition(":")
        at = places.split(",")
        if check == self._check and len(at) == len(ids):
            self._at = {id: place if _is_place(place) else None for id, place in zip(ids, at, strict=True)}

    def since(self, id: str) -> str:
        """From where to go on: after the state that the client has seen last, or at the beginning."""
        return self._at[id] or "0"

    def moved(self, id: str, place: str | None) -> str:
        """Note what the client is sent; returns the id of that event, empty where nothing is kept."""
        if place is None or not _is_place(place) or place.strip("0-") == "":
            return ""
        self._at[id] = place
        return f"{self._check}:{','.join(at or '-' for at in self._at.values())}"


def _is_place(text: str) -> bool:
    first, _, second = text.partition("-")
    return first.isascii() and first.isdigit() and (not second or (second.isascii() and second.isdigit()))


class EventStream(Response):
    """Follows tasks until all have ended, the client has gone, the server stops, or the stream's life is over.

    Args:
        handles: The tasks.
        settings: For how long, and how many.
        form: One of :data:`.forms.FORMS`.
        view: From a record to the document that the client may see.
        last_event_id: What the client sent as ``Last-Event-ID``.
    """

    def __init__(
        self,
        handles: list[AsyncResult[Any]],
        settings: Settings,
        *,
        form: str,
        view: Callable[[TaskMeta], dict[str, Any]],
        last_event_id: str = "",
    ) -> None:
        super().__init__(None, headers=HEADERS)
        del self.headers["Content-Length"]
        self._handles = handles
        self._settings = settings
        self._form = form
        self._view = view
        self._position = Position([handle.id for handle in handles], last_event_id)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = (scope.get("client") or ("",))[0]
        if scope["method"] == "HEAD":
            await self._start(send)
            await send({"type": "http.response.body", "body": b""})
            return
        self._settings.open_stream(client)
        try:
            await self._serve(receive, send)
        finally:
            self._settings.close_stream(client)

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

    async def _serve(self, receive: Receive, send: Send) -> None:
        await self._start(send)
        with contextlib.suppress(OSError):  # the client has gone, and the server says so here
            await self._send(send, f"retry: {round(1000 * self._settings.retry)}\n\n".encode())
            async for chunk in self._chunks(receive):
                await self._send(send, chunk)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    @staticmethod
    async def _send(send: Send, chunk: bytes) -> None:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def _chunks(self, receive: Receive) -> AsyncIterator[bytes]:
        """Events as they come, comments in between."""
        loop = asyncio.get_running_loop()
        life_ends = loop.time() + self._settings.stream_life
        news: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=64)
        stop = stop_of(loop).future()
        gone = loop.create_task(_disconnected(receive), name="asyncresult web: client")
        following = loop.create_task(self._follow_all(news), name="asyncresult web: stream")
        try:
            while True:
                getting = loop.create_task(news.get())
                left = life_ends - loop.time()
                sources: set[asyncio.Future[Any]] = {getting, stop, gone}
                await asyncio.wait(sources, timeout=min(self._settings.ping, left), return_when=asyncio.FIRST_COMPLETED)
                if getting.done():
                    chunk = getting.result()
                    if chunk is None:
                        return
                    yield chunk
                    continue
                getting.cancel()
                if stop.done() or gone.done() or loop.time() >= life_ends:
                    return
                yield comment()
        finally:
            stop.cancel()
            for task in (gone, following):
                task.cancel()
            await asyncio.gather(gone, following, return_exceptions=True)

    async def _follow_all(self, news: asyncio.Queue[bytes | None]) -> None:
        async with asyncio.TaskGroup() as group:
            for handle in self._handles:
                group.create_task(self._follow(handle, news))
        await news.put(end_event(self._form, ENDED))
        await news.put(None)

    async def _follow(self, handle: AsyncResult[Any], news: asyncio.Queue[bytes | None]) -> None:
        form = FORMS[self._form]
        try:
            async with handle.updates(since=self._position.since(handle.id)) as updates:
                async for meta in updates:
                    await news.put(form(self._view(meta), self._position.moved(handle.id, updates.last_id)))
        except AsyncResultError as error:
            problem = problem_of(error)
            text = problem.title if problem is not None else "error"
            await news.put(event(text, name="problem"))


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
