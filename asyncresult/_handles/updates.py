"""The stream of a task's states: ``async for meta in r.updates()``."""

from __future__ import annotations

import asyncio
import functools
import re
import time
import weakref
from collections import deque
from typing import Any

import msgspec

from .._checks import check_count, looks_once
from .._storage.keys import HISTORY
from .._storage.store import engine_of
from ..errors import AsyncResultError, BackendUnavailable, copy_error
from ..meta import TaskMeta, same_record
from ..states import READY_STATES
from .feeds import Feed, Stream, deadline_of_look, is_over
from .handle import Handle, listen, observe, read_record, unlisten, unobserve
from .known import Reason, is_of_look, is_ready
from .waiting import raise_reason, timed_out

__all__ = ["Updates", "is_last", "same_state"]


class Updates(Stream[TaskMeta]):
    """The states of one task as they are published. Made by :meth:`AsyncResult.updates`.

    The first item is the record as it is now (PENDING if there is none); then each published state; the
    final record comes exactly once and ends the stream. Equal consecutive records are given once. A reader
    slower than the task loses the oldest states (``dropped`` counts them), never the final one.

    With ``since`` nothing is lost that the task keeps (``track(history=…)``): the stream goes on behind the
    state of that id, and gives all that are kept from there on, with the id of each in :attr:`last_id`. A
    task that keeps none is followed as without ``since``.

    If a worker's heartbeats (``track(heartbeat=…)``) stop, the stream gives its last record once more:
    by its last record again, whose ``stale`` is true now. The signs themselves are not given.

    States are given in the order in which the task had them; none is skipped that was published while the stream was
    subscribed, unless its reader is slow or the connection is lost, or messages are not believed (``verify_key``, or
    a database other than 0): then the key is read, which holds the latest. A cancelled ``anext()`` loses nothing. An
    ignored result has no updates.

    Use as an async iterator, or also as an async context manager, which ends the subscription at the end
    of the block instead of at the next garbage collection.

    Attributes:
        last_id: The id of the kept state that was given last, to go on with later.

    Raises (while iterating):
        ResultTimeout: The task did not end within the budget.
        Exception: What a task before this one in a chain has raised: this one will not run.
        ResultDecodeError, BackendError, BackendClosed: As :meth:`AsyncResult.get`. The stream is over then.
    """

    def __init__(self, handle: Handle[Any], *, timeout: float | None, maxsize: int, since: str | None = None) -> None:
        super().__init__()
        check_count("maxsize", maxsize)
        if since is not None and not _HISTORY_ID.fullmatch(since):
            raise ValueError(f"since is the last_id of another stream, or '0' for all there is; not {since!r}")
        self.last_id = since
        # Whether the task keeps a history, as far as we know; None: not looked for.
        self._keeps = None if since is None else since.strip("0-") != ""
        self._kept: deque[tuple[str | None, TaskMeta]] = deque()
        self._announced: TaskMeta | None = None
        self._reported_stale = False
        self._handle = handle
        self._timeout = timeout
        self._only_looks = looks_once(timeout)
        self._maxsize = maxsize
        self._deadline: float | None = None
        self._looking = False
        self._last: TaskMeta | None = None

    @property
    def dropped(self) -> int:
        """How many states were lost because nobody took them."""
        return self._feed.dropped if self._feed is not None else 0

    async def _next_item(self) -> TaskMeta:
        while True:
            meta = await (self._next() if self._keeps is None else self._next_kept())
            if self._is_news(meta):
                return self._hand_out(meta)

    def _begin(self) -> Feed[TaskMeta]:
        """Listen, then look: what is published meanwhile is behind the look, or is the look."""
        self._deadline = deadline_of_look(self._timeout)
        handle = self._handle

        def parent_failed(_: Handle[Any], reason: Reason | None) -> None:
            if isinstance(reason, Handle):
                feed.fail(reason)

        def detach() -> None:
            unobserve(handle, feed)
            unlisten(handle, parent_failed)

        feed: Feed[TaskMeta] = Feed(self, detach, maxsize=self._maxsize, final=_is_ready)
        self._feed = feed
        meta = handle.snapshot
        if is_ready(handle) and meta is not None:
            feed.put(meta)
        elif handle.ignored:
            self._end()
        else:
            observe(handle, feed)
            if handle.parent is not None:
                listen(handle, parent_failed)
            self._look(feed)
        return feed

    def _look(self, feed: Feed[TaskMeta]) -> None:
        """Have the record as it is now put behind what has come so far; it is never older than that."""
        try:
            look = read_record(self._handle)
        except AsyncResultError as closed:
            feed.fail(copy_error(closed))
            return
        self._looking = True
        look.add_done_callback(functools.partial(_looked, weakref.ref(self), feed))

    async def _next(self) -> TaskMeta:
        feed = self._feed or self._begin()
        loop = asyncio.get_running_loop()
        while not self._over:
            if feed.items:
                return feed.items.popleft()
            if feed.reason is not None:
                self._end()
                raise_reason(feed.reason)
            if self._deadline is None and not self._may_fall_silent():  # the rule (benchmarks: updates)
                await feed.woken()
                continue
            now = loop.time()
            if self._deadline is not None and now >= self._deadline:
                if is_ready(self._handle) and self._handle.snapshot is not None:
                    return self._handle.snapshot  # states before it are still on their way
                raise timed_out(self._handle, self._timeout)
            due = self._due(now)
            if due is not None and due <= now:
                self._look(feed)  # no heartbeat; or it was lost, and the key has it
                due = self._deadline
            await feed.wait(due)
        raise StopAsyncIteration

    def _may_fall_silent(self) -> bool:
        """Whether the worker has promised heartbeats."""
        return self._last is not None and self._last.heartbeat is not None

    def _due(self, now: float) -> float | None:
        """When to stop waiting: at the deadline, or when the worker has missed its heartbeats."""
        stale_at = self._last.stale_at if self._last is not None and not self._reported_stale else None
        if stale_at is None or self._looking:
            return self._deadline
        silent = now + max(0.0, stale_at - time.time())
        return silent if self._deadline is None else min(silent, self._deadline)

    async def _next_kept(self) -> TaskMeta:
        """The next of the kept states. What is published only wakes us: what it skips is kept all the same."""
        while not self._kept:
            meta = self._announced = self._announced or await self._next()  # not lost when this is cancelled
            kept = await self._read_kept()
            self._announced = None
            self._keeps = self._keeps or bool(kept)
            self._kept.extend(kept)
            if (meta.ready or meta.stale or not self._keeps) and not any(same_record(meta, other) for _, other in kept):
                self._kept.append((kept[-1][0] if kept else self.last_id, meta))  # not kept: another wrote it
        self.last_id, meta = self._kept.popleft()
        return meta

    async def _read_kept(self) -> list[tuple[str, TaskMeta]]:
        backend, task_id = self._handle.backend, self._handle.id
        engine = engine_of(backend)
        reading = engine.history(backend.key_beside(task_id, HISTORY), self.last_id or "0")
        left = None if self._deadline is None else max(0.0, self._deadline - asyncio.get_running_loop().time())
        if not await self._wait_for(reading, left):
            raise timed_out(self._handle, self._timeout)
        return [(id, await engine.decoder.whole(task_id, payload)) for id, payload in reading.result()]

    def _is_news(self, meta: TaskMeta) -> bool:
        """Whether more has changed than the time of the last heartbeat; or that came too late."""
        last, self._last = self._last, meta
        reported, self._reported_stale = self._reported_stale, meta.heartbeat is not None and meta.stale
        return last is None or not same_state(meta, last) or (self._reported_stale and not reported)

    def _hand_out(self, meta: TaskMeta) -> TaskMeta:
        if is_last(self._handle, meta):
            self._end()
        elif self._only_looks:
            self._deadline = asyncio.get_running_loop().time()
        return meta


#: Ids of a Redis stream, which the memory backend imitates.
_HISTORY_ID = re.compile(r"[0-9]{1,20}(-[0-9]{1,20})?")


def _looked(stream: weakref.ref[Updates], feed: Feed[TaskMeta], look: asyncio.Future[TaskMeta]) -> None:
    """A look was answered. Not a method: the callback of a future would hold the stream."""
    owner = stream()
    if owner is None or is_over(owner):
        return
    owner._looking = False
    error = look.exception() if not look.cancelled() else None
    if isinstance(error, BackendUnavailable):
        owner._look(feed)  # an outage does not end a wait, and says nothing about the worker
    elif isinstance(error, AsyncResultError):
        feed.fail(copy_error(error))
    elif error is None and not look.cancelled() and is_of_look(owner._handle, look.result()):
        feed.put(look.result())
    feed.wake()


def is_last(handle: Handle[Any], meta: TaskMeta) -> bool:
    """Whether no state of the task comes after this one."""
    # An eager one may end in RETRY.
    return meta.status in READY_STATES or (handle._is_eager and meta is handle.snapshot)


def same_state(meta: TaskMeta, other: TaskMeta) -> bool:
    """Whether two records say the same, but for the time of the last heartbeat."""
    if meta.status != other.status:
        return False
    if meta.heartbeat is not other.heartbeat:
        other = msgspec.structs.replace(other, heartbeat=meta.heartbeat)
    return same_record(meta, other)


def _is_ready(meta: TaskMeta) -> bool:
    return meta.ready
