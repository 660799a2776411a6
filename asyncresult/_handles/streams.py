"""Streams over many results: handles in the order in which their tasks end, and the states of all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Generic, Self

from .._checks import looks_once
from ..errors import AsyncResultError, BackendUnavailable
from ..meta import TaskMeta
from .base import T
from .joins import Handle, Many, look_at_all, look_at_each, over, timed_out
from .result import AsyncResult
from .updates import Feed, deadline_of_look, same_state

__all__ = ["Completed", "SetUpdates"]

# A handle is small enough that no stream of completions has to drop any.
_UNBOUNDED = 2**62


class Completed(AsyncIterator[AsyncResult[T]], Generic[T]):
    """Handles in the order in which their tasks end: ``async for handle in rs.as_completed()``.

    Each handle is done when it comes out; ``handle.value`` gives its value or raises its failure. Also an
    async context manager, which stops waiting at the end of the block.

    Raises (while iterating):
        ResultTimeout: Not all ended within the budget.
    """

    def __init__(self, handles: Iterable[AsyncResult[T]], timeout: float | None) -> None:
        self._handles: list[AsyncResult[T]] = []
        self._pending = 0
        self._timeout = timeout
        self._only_looks = looks_once(timeout)
        loop = asyncio.get_running_loop()
        self._deadline = None if timeout is None else loop.time() + timeout
        waits: list[Many] = []
        self._waits = waits
        self._feed: Feed[AsyncResult[T]] = Feed(self, lambda: _end(waits), maxsize=_UNBOUNDED, final=lambda _: True)
        self._join(handles)

    def _join(self, handles: Iterable[AsyncResult[T]]) -> None:
        feed = self._feed
        waiting: list[AsyncResult[T]] = []
        for handle in handles:
            self._pending += 1
            if handle.ignored:
                feed.put(handle)
            else:
                waiting.append(handle)
        self._handles += waiting
        self._waits.append(Many(waiting, lambda handle, error: feed.put(handle)))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AsyncResult[T]:
        if not self._pending:
            self._feed.close()
            raise StopAsyncIteration
        try:
            if self._only_looks:
                self._only_looks = False
                await look_at_each(self._handles)
            arrived = await self._feed.take(self._deadline)
        except asyncio.CancelledError:
            self._feed.close()
            raise
        if not arrived:
            self._feed.close()
            raise timed_out([h for h in self._handles if not over(h)], self._handles, self._timeout)
        self._pending -= 1
        return self._feed.items.popleft()

    async def aclose(self) -> None:
        """Stop waiting. Harmless when repeated."""
        self._feed.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._feed.close()


def _end(waits: list[Many]) -> None:
    for wait in waits:
        wait.end()


class SetUpdates(AsyncIterator[tuple[AsyncResult[Any], TaskMeta]]):
    """The states of several tasks in one stream. Made by :meth:`ResultSet.updates`.

    First comes each member's record as it is now, then each published state with its handle; a member's
    final record comes exactly once, and after the last of them the stream ends. See :class:`Updates` for
    slow readers; ``maxsize`` and ``dropped`` count for all members together.
    """

    def __init__(self, handles: list[Handle], *, timeout: float | None, maxsize: int) -> None:
        unique = {id(handle): handle for handle in handles if not handle.ignored}
        self._handles = list(unique.values())
        self._timeout = timeout
        self._only_looks = looks_once(timeout)
        self._maxsize = max(maxsize, len(self._handles))
        self._deadline: float | None = None
        self._feed: Feed[tuple[Handle, TaskMeta]] | None = None
        self._last: dict[int, TaskMeta] = {}
        self._running = len(self._handles)

    @property
    def dropped(self) -> int:
        """How many states were lost because nobody took them."""
        return self._feed.dropped if self._feed is not None else 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[AsyncResult[Any], TaskMeta]:
        """Raises: as :meth:`Updates.__anext__`."""
        feed = self._feed
        try:
            if feed is None:
                feed = await self._start()
            while self._running:
                if not await feed.take(self._deadline):
                    waiting = [handle for handle in self._handles if not handle._is_ready()]
                    raise timed_out(waiting, self._handles, self._timeout)
                if not feed.items:
                    assert feed.error is not None
                    raise feed.error
                handle, meta = feed.items.popleft()
                last = self._last.get(id(handle))
                if last is not None and (last.ready or same_state(last, meta)):
                    continue
                self._last[id(handle)] = meta
                self._running -= meta.ready
                return handle, meta
        except (AsyncResultError, asyncio.CancelledError):
            self._end()
            raise
        self._end()
        raise StopAsyncIteration

    async def _start(self) -> Feed[tuple[Handle, TaskMeta]]:
        self._deadline = deadline_of_look(self._timeout)
        tagged: list[_Tagged] = []
        feed: Feed[tuple[Handle, TaskMeta]] = Feed(
            self,
            lambda: _untag(tagged),
            maxsize=self._maxsize,
            final=lambda item: item[1].ready,
        )
        self._feed = feed
        for handle in self._handles:
            if not handle._is_ready():
                tagged.append(tag := _Tagged(handle, feed))
                handle._observe(tag)
        while True:
            try:
                async with asyncio.timeout_at(self._deadline):
                    metas = await look_at_all(self._handles)
                break
            except TimeoutError:
                raise timed_out(self._handles, self._handles, self._timeout) from None
            except BackendUnavailable:
                pass  # an outage does not end a wait
        if self._only_looks:
            self._deadline = asyncio.get_running_loop().time()
        # What arrived meanwhile is newer than the look, or is the look: it comes behind.
        feed.items.extendleft(reversed(list(zip(self._handles, metas, strict=True))))
        return feed

    def _end(self) -> None:
        self._running = 0
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


class _Tagged:
    """A handle's entrance to the feed of a whole set."""

    __slots__ = ("feed", "handle")

    def __init__(self, handle: Handle, feed: Feed[tuple[Handle, TaskMeta]]) -> None:
        self.handle = handle
        self.feed = feed

    def put(self, meta: TaskMeta) -> None:
        self.feed.put((self.handle, meta))

    def fail(self, error: AsyncResultError) -> None:
        self.feed.fail(error)


def _untag(tagged: list[_Tagged]) -> None:
    for tag in tagged:
        tag.handle._unobserve(tag)
