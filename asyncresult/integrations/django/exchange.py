"""A request to an ASGI app from within the process, and its answer piece by piece."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

__all__ = ["Answer", "Exchange"]


@dataclass(frozen=True)
class Answer:
    """The beginning of an answer.

    Attributes:
        body: Its first bytes; all of them if it is ``whole``.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    whole: bool


class Exchange:
    """One request without a body, and its answer. All methods are for the event loop that :meth:`begin` runs on.

    The app goes on only as fast as its answer is taken.

    Args:
        app: The ASGI app.
        scope: Of the request.
    """

    def __init__(self, app: Any, scope: dict[str, Any]) -> None:
        self._app = app
        self._scope = scope
        self._requested = False

    async def begin(self) -> Answer:
        """Send the request; returns when the answer has begun. Raises: what the app raises."""
        #: What the app sends; behind that its exception, or None.
        self._messages: asyncio.Queue[dict[str, Any] | Exception | None] = asyncio.Queue(1)
        self._task = asyncio.create_task(self._serve(), name="asyncresult django: request")
        try:
            head, body = await self._take(), await self._take()
            if head is None or body is None:
                raise RuntimeError("the app has not answered")
            whole = not body.get("more_body", False)
            if whole:
                await self._take()
            return Answer(head["status"], head["headers"], body.get("body", b""), whole)
        except BaseException:
            self.close()
            raise

    async def next(self) -> bytes | None:
        """The next bytes of a body that is not whole; None at the end. Raises: what the app raises."""
        message = await self._take()
        body: bytes | None = message.get("body", b"") if message is not None else None
        return body

    def close(self) -> None:
        """The client has gone, or has all of it."""
        self._task.cancel()

    async def _take(self) -> dict[str, Any] | None:
        message = await self._messages.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def _serve(self) -> None:
        end: Exception | None = None
        try:
            await self._app(self._scope, self._receive, self._messages.put)
        except Exception as error:
            end = error
        await self._messages.put(end)

    async def _receive(self) -> dict[str, Any]:
        if self._requested:  # whoever calls it wants to know when the client goes: then this is cancelled
            await asyncio.get_running_loop().create_future()
        self._requested = True
        return {"type": "http.request", "body": b"", "more_body": False}
