"""A stream of server-sent events about some tasks, as an ASGI response."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..errors import AsyncResultError
from ..result import AsyncResult
from .counts import counts_of
from .documents import dump, failure_before, status_document
from .forms import FORMS, comment, end_event, sse_event
from .problems import Problem, problem_of
from .settings import Settings
from .stopping import stop_of

__all__ = ["EventStream", "Followed", "Position"]

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would collect the events
    "Content-Encoding": "identity",  # middleware that compresses would too
}
LAST_WORDS = 1.0
"""Seconds for the end of a stream to be sent: a client that does not read must not keep a server from stopping."""
ENDED = "!"
_PLACE = re.compile(r"[0-9]{1,20}(-[0-9]{1,20})?")


@dataclass(frozen=True)
class Followed:
    """A task that a stream is about.

    Attributes:
        name: Its name in URLs.
    """

    handle: AsyncResult[Any]
    name: str


class Position:
    """Where a client is in the histories of the tasks that it follows, as the ids of events say it.

    Such an id is a checksum of the tasks, so that one of another stream counts for nothing, and for each task the place
    in its history, or that its end has been sent.
    """

    def __init__(self, ids: list[str], last_event_id: str = "") -> None:
        self._check = hashlib.blake2b("\n".join(ids).encode(errors="replace"), digest_size=4).hexdigest()
        self._at = dict.fromkeys(ids, "")
        check, _, places = last_event_id.partition(":")
        at = places.split(",")
        if check == self._check and len(at) == len(ids) and all(map(_is_place, at)):
            self._at = dict(zip(ids, at, strict=True))

    def since(self, id: str) -> str | None:
        """From where to go on: after the state that the client has seen last, or at the beginning. None: nowhere."""
        at = self._at[id]
        return None if at == ENDED else at or "0"

    @property
    def over(self) -> bool:
        """Whether the client has been sent the end of every task."""
        return all(at == ENDED for at in self._at.values())

    def moved(self, id: str, place: str | None, *, ready: bool) -> str:
        """Note what the client is sent; returns the id of that event, empty where there is nothing to go on with."""
        if ready:
            self._at[id] = ENDED
        elif place is not None and place.strip("0-"):
            self._at[id] = place
        return str(self) if any(self._at.values()) else ""

    def __str__(self) -> str:
        return f"{self._check}:{','.join(self._at.values())}"


def _is_place(text: str) -> bool:
    if text in ("", ENDED):
        return True
    return _PLACE.fullmatch(text) is not None and all(int(part) < 2**64 for part in text.split("-"))


class EventStream(Response):
    """Follows tasks until all have ended, the client has gone, the server stops, or the stream's life is over.

    A slow client costs no memory: nothing is taken from a task's updates before the state before it is on its way, and
    they keep a bounded number (and, where a history is kept, lose none).

    Args:
        tasks: What to follow.
        settings: For how long, and how many.
        form: One of :data:`.forms.FORMS`.
        position: Where the client is already.
    """

    def __init__(self, tasks: Sequence[Followed], settings: Settings, *, form: str, position: Position) -> None:
        super().__init__(None, headers=HEADERS)
        del self.headers["Content-Length"]
        self._tasks = tasks
        self._settings = settings
        self._form = form
        self._position = position
        self._sending = asyncio.Lock()
        self._last_sent = 0.0
        self._is_slow = False
        self._counts = counts_of(tasks[0].handle.backend)  # that of all: what is mounted has one

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await self._start(send)
            await send({"type": "http.response.body", "body": b""})
            return
        client = (scope.get("client") or ("",))[0]
        try:
            self._settings.open_stream(client)
        except Problem as problem:
            self._counts.refused_streams += 1
            await problem.response()(scope, receive, send)
            return
        self._counts.streams += 1
        try:
            await self._serve(receive, send)
        except* OSError:  # the client has gone, and the server says so here
            pass
        finally:
            self._counts.streams -= 1
            self._settings.close_stream(client)

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

    async def _send(self, send: Send, chunk: bytes) -> None:
        async with self._sending:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        self._last_sent = asyncio.get_running_loop().time()

    async def _send_event(self, send: Send, event: bytes) -> None:
        await self._send(send, event)
        self._counts.streamed += 1

    async def _serve(self, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        life_ends = loop.time() + self._settings.stream_life
        await self._start(send)
        await self._send(send, f"retry: {round(1000 * self._settings.retry)}\n\n".encode())
        stop = stop_of(loop).future()
        gone = loop.create_task(disconnected(receive), name="asyncresult web: client")
        following = loop.create_task(self._follow_all(send), name="asyncresult web: stream")
        try:
            await self._keep_alive({following, gone, stop}, life_ends, send)
            if following.done():
                following.result()
        finally:
            stop.cancel()
            await end_tasks(gone, following)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _keep_alive(self, ends: set[asyncio.Future[Any]], life_ends: float, send: Send) -> None:
        """Send comments in silences, until one of these is done or the time is over.

        A client that reads nothing holds up the comment, too, but not the end.
        """
        loop = asyncio.get_running_loop()
        ping: asyncio.Task[None] | None = None
        try:
            while (now := loop.time()) < life_ends:
                due = self._last_sent + self._settings.ping
                if due <= now:
                    if self._sending.locked():
                        self._found_slow()
                    else:
                        if ping is not None:
                            ping.result()  # raises where the client has gone
                        ping = loop.create_task(self._send(send, comment()), name="asyncresult web: ping")
                    due = now + self._settings.ping
                left = min(due, life_ends) - now
                done, _ = await asyncio.wait(ends, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    return
        finally:
            if ping is not None:
                await end_tasks(ping)

    def _found_slow(self) -> None:
        if not self._is_slow:
            self._is_slow = True
            self._counts.slow_streams += 1

    async def _follow_all(self, send: Send) -> None:
        async with asyncio.TaskGroup() as group:
            following = [
                group.create_task(self._follow(task, send), name="asyncresult web: stream of one")
                for task in self._tasks
            ]
        if all(task.result() for task in following):
            await self._send_event(send, end_event(self._form, str(self._position)))

    async def _follow(self, task: Followed, send: Send) -> bool:
        """Whether the end of the task has been sent: a client may come back for those of others."""
        since = self._position.since(task.handle.id)
        if since is None:
            return True
        form, reveal = FORMS[self._form], self._settings.reveal_errors
        try:
            async with task.handle.updates(since=since) as updates:
                dropped = 0
                async for meta in updates:
                    document = status_document(meta, task.name, reveal_errors=reveal)
                    place = self._position.moved(task.handle.id, updates.last_id, ready=meta.ready)
                    await self._send_event(send, form(document, place))
                    self._counts.dropped += updates.dropped - dropped
                    dropped = updates.dropped
            return True
        except Exception as error:
            before = failure_before(task.handle)
            if before is not None:
                document = status_document(before, task.name, reveal_errors=reveal)
                await self._send_event(send, form(document, self._position.moved(task.handle.id, None, ready=True)))
                return True
            if not isinstance(error, AsyncResultError):
                raise
            problem = problem_of(error) or Problem(502, "Unreadable result")
            text = dump({"id": task.name, **problem.document()}).decode()
            final = problem.status == 502  # it will not become readable
            place = self._position.moved(task.handle.id, None, ready=final)
            await self._send_event(send, sse_event(text, name="problem", id=place))
            return final


async def disconnected(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait for their ends."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
