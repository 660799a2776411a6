"""Noticing that the server begins to stop, while requests of it are still open.

An ASGI server sends ``lifespan.shutdown`` only when all its requests have ended, and a stream would go on until the
server ends: each waits for the other, until the server's patience is over. uvicorn (and its gunicorn worker) keeps what
we need to know in an attribute of its server object, ``should_exit``, and hypercorn in an event of its context,
``terminated``. These objects are found as local variables of the coroutines that serve, so nothing is patched and no
signal handler is replaced. Other servers (daphne) cancel their open requests at the end of a patience of their own.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["Stop", "server_stops", "stop_of"]

LOOK_INTERVAL = 0.1
"""Seconds between two looks, while something is open."""

_stops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Stop] = weakref.WeakKeyDictionary()


class Stop:
    """Whether the server of one event loop begins to stop."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()
        self._is_stopping: Callable[[], bool] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def future(self) -> asyncio.Future[None]:
        """A future that is done when the server begins to stop. Cancel it when it is not needed any more."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if not self._waiting:
            self._is_stopping = _find_server(loop)  # not the one that has ended: its task is gone
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        if self._timer is None and self._is_stopping is not None:
            self._look()
        return future

    def _look(self) -> None:
        self._timer = None
        if self._is_stopping is None:  # the server that the timer was for is gone, and no other is there
            return
        if self._is_stopping():
            for future in list(self._waiting):
                if not future.done():
                    future.set_result(None)
        elif self._waiting:
            self._timer = asyncio.get_running_loop().call_later(LOOK_INTERVAL, self._look)


def stop_of(loop: asyncio.AbstractEventLoop) -> Stop:
    """The one of a loop."""
    stop = _stops.get(loop)
    if stop is None:
        stop = _stops[loop] = Stop()
    return stop


def server_stops() -> asyncio.Future[None]:
    """A future that is done when the server of this loop begins to stop, for streams and waits of one's own.

    Cancel it when it is not needed any more.
    """
    return stop_of(asyncio.get_running_loop()).future()


def _find_server(loop: asyncio.AbstractEventLoop) -> Callable[[], bool] | None:
    """What says that a server stops, of the one that is among the local variables of the tasks that run."""
    for task in asyncio.all_tasks(loop):
        coroutine: Any = task.get_coro()
        while coroutine is not None:
            frame = getattr(coroutine, "cr_frame", None)
            for value in (frame.f_locals if frame is not None else {}).values():
                found = _uvicorn(value) or _hypercorn(value)
                if found is not None:
                    return found
            coroutine = getattr(coroutine, "cr_await", None)
    return None


def _uvicorn(value: Any) -> Callable[[], bool] | None:
    """For its server; known by what it has, so that subclasses and the likes of it are found too."""
    if hasattr(type(value), "handle_exit") and hasattr(value, "should_exit"):
        return lambda: bool(value.should_exit)
    return None


def _hypercorn(value: Any) -> Callable[[], bool] | None:
    """For the context of one of its workers."""
    if type(value).__module__ == "hypercorn.asyncio.worker_context" and hasattr(value, "terminated"):
        return lambda: bool(value.terminated.is_set())
    return None
