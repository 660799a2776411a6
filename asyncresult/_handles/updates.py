"""The stream of a task's states: ``async for meta in r.updates()``.

A stream is fed by its handle and read by one consumer. The feed is what the handle holds; it knows the
stream only weakly, so a stream that was left by ``break`` and forgotten takes its subscription with it.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import msgspec

from .._checks import LOOK_ONCE_TIMEOUT, looks_once
from .._storage.keys import HISTORY
from ..errors import AsyncResultError, BackendUnavailable, ResultTimeout
from ..meta import TaskMeta
from .handle import Handle

__all__ = ["Feed", "Updates", "deadline_of_look", "same_state"]

ItemT = TypeVar("ItemT")


class Feed(Generic[ItemT]):
    """A bounded queue between handles, which put, and one stream, which takes.

    Args:
        owner: The stream; held weakly.
        detach: Takes the feed off its handles. Called on the loop, once.
        maxsize: Items kept; beyond that the oldest is dropped that is not final.
        final: Whether an item must not be dropped.
    """

    __slots__ = ("_detach", "_final", "_loop", "_maxsize", "_owner", "_thread", "dropped", "error", "items", "waiter")

    def __init__(
        self, owner: object, detach: Callable[[], None], *, maxsize: int, final: Callable[[ItemT], bool]
    ) -> None:
        self.items: deque[ItemT] = deque()
        self.error: AsyncResultError | None = None
        self.dropped = 0
        self.waiter: asyncio.Future[None] | None = None
        self._detach: Callable[[], None] | None = detach
        self._final = final
        self._maxsize = maxsize
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._owner = weakref.ref(owner, self._abandoned)

    def put(self, item: ItemT) -> None:
        if self._owner() is None:  # collected on another thread
            self.close()
            return
        if len(self.items) >= self._maxsize:
            for i, old in enumerate(self.items):
                if not self._final(old):
                    del self.items[i]
                    self.dropped += 1
                    break
        self.items.append(item)
        self.wake()

    def fail(self, error: AsyncResultError) -> None:
        self.error = error
        self.wake()

    def wake(self, _: object = None) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def close(self) -> None:
        """Take the feed off its handles. Harmless when repeated."""
        detach, self._detach = self._detach, None
        if detach is not None:
            detach()

    def _abandoned(self, _: object) -> None:
        # The collector may run on any thread and at any time: no I/O, no lock. Elsewhere than on the loop's
        # own thread the next record, or the end of the task, finds the owner gone.
        if threading.get_ident() == self._thread and not self._loop.is_closed():
            self._loop.call_soon(self.close)

    async def take(self, deadline: float | None) -> bool:
        """Wait until there is an item or an error. False when the deadline passed first."""
        if not self.items and self.error is None:
            await self.wait(deadline)
        return bool(self.items) or self.error is not None

    async def wait(self, deadline: float | None) -> None:
        """Wait until something is put, until :meth:`wake`, or until the deadline."""
        if self.waiter is not None:
            raise RuntimeError("a stream of updates has one reader at a time")
        self.waiter = self._loop.create_future()
        timer = self._loop.call_at(deadline, self.wake) if deadline is not None else None
        try:
            await self.waiter
        finally:
            self.waiter = None
            if timer is not None:
                timer.cancel()


class Updates(AsyncIterator[TaskMeta]):
    """The states of one task as they are published. Made by :meth:`AsyncResult.updates`.

    The first item is the record as it is now (PENDING if there is none); then each published state; the
    final record comes exactly once and ends the stream. Equal consecutive records are given once. A reader
    slower than the task loses the oldest states (``dropped`` counts them), never the final one.

    With ``since`` nothing is lost that the task keeps (``track(history=…)``): the stream goes on behind the
    state of that id, and gives all that are kept from there on, with the id of each in :attr:`last_id`. A
    task that keeps none is followed as without ``since``.

    A worker that promised signs of life (``track(heartbeat=…)``) and gives none any more is told of once:
    by its last record again, whose ``stale`` is true now. The signs themselves are not given.

    Use as an async iterator, or also as an async context manager, which ends the subscription at the end
    of the block instead of at the next garbage collection.

    Attributes:
        last_id: The id of the kept state that was given last, to go on with later.

    Raises (while iterating):
        ResultTimeout: The task did not end within the budget.
        ResultDecodeError, BackendError, BackendClosed: As :meth:`AsyncResult.get`. The stream is over then.
    """

    def __init__(self, handle: Handle[Any], *, timeout: float | None, maxsize: int, since: str | None = None) -> None:
        if maxsize < 1:
            raise ValueError(f"maxsize must be at least 1, not {maxsize!r}")
        if since is not None and not _HISTORY_ID.fullmatch(since):
            raise ValueError(f"since is the last_id of another stream, or '0' for all there is; not {since!r}")
        self.last_id = since
        # Whether the task keeps a history, as far as we know; None: not asked for one.
        self._keeps = None if since is None else since.strip("0-") != ""
        self._kept: deque[tuple[str | None, TaskMeta]] = deque()
        self._told_stale = False
        self._handle = handle
        self._timeout = timeout
        self._only_looks = looks_once(timeout)
        self._maxsize = maxsize
        self._deadline: float | None = None
        self._feed: Feed[TaskMeta] | None = None
        self._last: TaskMeta | None = None
        self._over = False

    @property
    def dropped(self) -> int:
        """How many states were lost because nobody took them."""
        return self._feed.dropped if self._feed is not None else 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TaskMeta:
        if self._over:
            raise StopAsyncIteration
        try:
            while True:
                meta = await (self._next() if self._keeps is None else self._next_kept())
                if self._is_news(meta):
                    return self._hand_out(meta)
        except (AsyncResultError, asyncio.CancelledError):
            self._end()
            raise

    async def _first(self) -> TaskMeta:
        """Listen, then look: what is published meanwhile is behind the look, or is the look."""
        loop = asyncio.get_running_loop()
        self._deadline = deadline_of_look(self._timeout)
        handle = self._handle
        feed = self._feed = Feed(self, lambda: handle._unobserve(feed), maxsize=self._maxsize, final=_is_ready)
        if handle.done():
            return await handle.meta()
        handle._observe(feed)
        look = handle._look()
        look.add_done_callback(feed.wake)
        # The look comes first, whatever else arrives before it; but it need not come if the end does.
        while feed.error is None and not handle._is_ready():
            if look.done():
                if not isinstance(look.exception(), BackendUnavailable):
                    break
                look = handle._look()  # an outage does not end a wait
                look.add_done_callback(feed.wake)
            await feed.wait(self._deadline)
            if not look.done() and self._deadline is not None and loop.time() >= self._deadline:
                raise self._timed_out()
        if feed.error is not None:
            raise feed.error
        if handle._is_ready():
            return feed.items.popleft()
        meta = look.result()
        if meta in feed.items:
            while feed.items.popleft() != meta:
                pass
        return meta

    async def _next(self) -> TaskMeta:
        feed = self._feed
        if feed is None:
            return await self._first()
        loop = asyncio.get_running_loop()
        while not await feed.take(self._due(loop.time())):
            if self._deadline is not None and loop.time() >= self._deadline:
                raise self._timed_out()
            try:
                return await self._handle.meta()  # no sign of life; or it was lost, and the key has it
            except BackendUnavailable:
                pass  # an outage says nothing about the worker
        if feed.items:
            return feed.items.popleft()
        assert feed.error is not None
        raise feed.error

    def _due(self, now: float) -> float | None:
        """When to stop waiting: at the deadline, or when the worker has missed its heartbeats."""
        stale_at = self._last.stale_at if self._last is not None and not self._told_stale else None
        if stale_at is None:
            return self._deadline
        silent = now + max(0.0, stale_at - time.time())
        return silent if self._deadline is None else min(silent, self._deadline)

    async def _next_kept(self) -> TaskMeta:
        """The next of the kept states. What is published only wakes us: what it skips is kept all the same."""
        while not self._kept:
            meta = await self._next()
            kept = await self._read_kept()
            self._keeps = self._keeps or bool(kept)
            self._kept.extend(kept)
            if (meta.ready or meta.stale or not self._keeps) and all(meta != other for _, other in kept):
                self._kept.append((kept[-1][0] if kept else self.last_id, meta))  # not kept: another wrote it
        self.last_id, meta = self._kept.popleft()
        return meta

    async def _read_kept(self) -> list[tuple[str, TaskMeta]]:
        backend, task_id = self._handle.backend, self._handle.id
        reading = backend._engine().history(backend.key_beside(task_id, HISTORY), self.last_id or "0")
        try:
            left = None if self._deadline is None else max(0.0, self._deadline - asyncio.get_running_loop().time())
            await asyncio.wait([reading], timeout=left)
            if not reading.done():
                raise self._timed_out()
        finally:
            reading.cancel()
        return [(id, await backend._decoded(task_id, payload)) for id, payload in reading.result()]

    def _is_news(self, meta: TaskMeta) -> bool:
        """Whether more has changed than the time of the last sign of life; or that came too late."""
        last, self._last = self._last, meta
        if last is None or not same_state(meta, last):
            self._told_stale = meta.stale
            return True
        told, self._told_stale = self._told_stale, meta.stale
        return meta.stale and not told

    def _hand_out(self, meta: TaskMeta) -> TaskMeta:
        if meta.ready:
            self._end()
        elif self._only_looks:
            self._deadline = asyncio.get_running_loop().time()
        return meta

    def _timed_out(self) -> ResultTimeout:
        return ResultTimeout(
            f"task {self._handle.id} did not end within {self._timeout} s",
            task_id=self._handle.id,
            timeout=self._timeout,
        )

    def _end(self) -> None:
        self._over = True
        if self._feed is not None:
            self._feed.close()

    async def aclose(self) -> None:
        """End the stream. Harmless when repeated."""
        self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._end()


#: Ids of a Redis stream, which the memory backend imitates.
_HISTORY_ID = re.compile(r"[0-9]{1,20}(-[0-9]{1,20})?")


def same_state(meta: TaskMeta, other: TaskMeta) -> bool:
    """Whether two records say the same, but for the time of the last sign of life."""
    return meta == msgspec.structs.replace(other, heartbeat=meta.heartbeat)


def deadline_of_look(timeout: float | None) -> float | None:
    """When a stream must have its first answer: with the end of its budget, but a mere look takes a round trip."""
    if timeout is None:
        return None
    return asyncio.get_running_loop().time() + (timeout if timeout > 0 else LOOK_ONCE_TIMEOUT)


def _is_ready(meta: TaskMeta) -> bool:
    return meta.ready
