"""When messages are made on an event loop: so many in one of its turns as take SLICE seconds, the others in the next.

Who sends takes a place first, and does nothing else until it has come: a thousand sends that begin in one turn of the
loop must not hold it up by what each of them does first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, NamedTuple

__all__ = ["SLICE", "Settings", "Turns"]

#: Seconds of making messages in one turn of the loop. What goes with it (futures, the pipeline) takes as long again.
SLICE: float = 0.0015
#: Commands that may be on their way before other messages are made.
MAX_IN_FLIGHT = 2000
#: The share of the latest message in the estimate of what one takes.
WEIGHT = 0.1


class Settings(NamedTuple):
    """Settings of Celery's that matter for each message."""

    changes: dict[str, Any]
    always_eager: bool
    announces: bool


class Turns:
    """The turns of one event loop.

    Args:
        loop: The loop.
        app: The Celery app whose messages are made.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, app: Any) -> None:
        self._loop = loop
        self._app = app
        self._settings: Settings | None = None
        self._in_flight = 0
        self._until = 0.0
        self._cost = SLICE
        self._scheduled = False
        self._queue: deque[asyncio.Future[None]] = deque()

    def place(self) -> asyncio.Future[None] | None:
        """What to wait for before a message is made; None if it may be made now."""
        if not self._queue:
            if not self._scheduled:
                self._schedule()
            if self._loop.time() < self._until and self._in_flight < MAX_IN_FLIGHT:
                return None
        place: asyncio.Future[None] = self._loop.create_future()
        self._queue.append(place)
        return place

    def made(self, seconds: float) -> None:
        """A message was made, in so many seconds."""
        self._cost += (seconds - self._cost) * WEIGHT

    def departed(self, commands: int) -> None:
        """So many commands are on their way."""
        self._in_flight += commands

    def arrived(self, commands: int) -> None:
        """So many commands are not on their way any more."""
        self._in_flight -= commands
        if self._queue and not self._scheduled:
            self._schedule()

    @property
    def settings(self) -> Settings:
        """As they are in this turn: Celery looks each up in several mappings, under several names."""
        conf = self._app.conf
        changes = conf.changes
        if self._settings is None or self._settings.changes != changes:
            self._settings = Settings(dict(changes), bool(conf.task_always_eager), bool(conf.task_send_sent_event))
            if not self._scheduled:
                self._schedule()
        return self._settings

    def _schedule(self) -> None:
        """Begin a slice; the next begins in the loop's next turn."""
        self._scheduled = True
        self._until = self._loop.time() + SLICE
        self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._scheduled = False
        self._settings = None
        if not self._queue or self._in_flight >= MAX_IN_FLIGHT:
            return
        self._schedule()
        fitting = max(1, int(SLICE / max(self._cost, 1e-6)))
        while self._queue and fitting:
            place = self._queue.popleft()
            if not place.done():  # else given up
                place.set_result(None)
                fitting -= 1
