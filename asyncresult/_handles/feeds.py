"""What streams have in common: a queue between handles and one reader, and how a stream ends.

A stream is fed by its handles and read by one consumer. The feed is what the handles hold; it knows the stream only
weakly, so a stream that was left by ``break`` and forgotten takes its subscription with it.
"""

from __future__ import annotations

import asyncio
import weakref
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar

from .._background import call_from_finalizer
from .._checks import LOOK_ONCE_TIMEOUT
from ..errors import AsyncResultError
from .known import Reason

__all__ = ["Feed", "Stream", "deadline_of_look", "is_over"]

ItemT = TypeVar("ItemT")


class Feed(Generic[ItemT]):
    """A bounded queue between handles, which put, and one stream, which takes.

    Args:
        owner: The stream; held weakly.
        detach: Takes the feed off its handles. Called on the loop, once.
        maxsize: Items kept; beyond that the oldest is dropped that is not final.
        final: Whether an item must not be dropped.
    """

    __slots__ = ("_detach", "_final", "_loop", "_maxsize", "_owner", "dropped", "items", "reason", "waiter")
    follows: ClassVar[bool] = True

    def __init__(
        self, owner: object, detach: Callable[[], None], *, maxsize: int, final: Callable[[ItemT], bool]
    ) -> None:
        self.items: deque[ItemT] = deque()
        self.reason: Reason | None = None
        self.dropped = 0
        self.waiter: asyncio.Future[None] | None = None
        self._detach: Callable[[], None] | None = detach
        self._final = final
        self._maxsize = maxsize
        self._loop = asyncio.get_running_loop()
        self._owner = weakref.ref(owner, self._abandoned)

    def put(self, item: ItemT) -> None:
        if len(self.items) >= self._maxsize:
            for i, old in enumerate(self.items):
                if not self._final(old):
                    del self.items[i]
                    self.dropped += 1
                    break
        self.items.append(item)
        waiter = self.waiter  # wake(), without a call (benchmarks: updates)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def fail(self, reason: Reason) -> None:
        self.reason = reason
        self.wake()

    def wake(self, _: object = None) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def close(self) -> None:
        """Take the feed off its handles. Harmless when repeated."""
        detach, self._detach = self._detach, None
        if detach is not None:
            detach()
            if not self._loop.is_closed():
                self.wake()  # whoever reads sees that the stream is over

    def _abandoned(self, _: object) -> None:
        call_from_finalizer(self._loop, self.close)

    def woken(self) -> asyncio.Future[None]:
        """Done when something is put, or upon :meth:`wake`. To be awaited at once: no coroutine for it (benchmarks:
        updates)."""
        if self.waiter is not None and not self.waiter.done():
            raise RuntimeError("a stream has one reader at a time")
        self.waiter = self._loop.create_future()
        return self.waiter

    async def wait(self, deadline: float | None) -> None:
        """Wait until something is put, until :meth:`wake`, or until the deadline."""
        woken = self.woken()
        timer = self._loop.call_at(deadline, self.wake) if deadline is not None else None
        try:
            await woken
        finally:
            if timer is not None:
                timer.cancel()


class Stream(AsyncIterator[ItemT]):
    """An async iterator, and an async context manager that stops waiting at the end of the block.

    A cancelled ``anext()``, as by a timeout of the reader's own, loses nothing: the next one goes on.
    """

    def __init__(self) -> None:
        self._feed: Feed[Any] | None = None
        self._over = False
        self._waits_for: asyncio.Future[Any] | None = None  # beside the feed

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ItemT:
        if self._over:
            raise StopAsyncIteration
        try:
            return await self._next_item()
        except (AsyncResultError, StopAsyncIteration):
            self._end()
            raise

    @abstractmethod
    async def _next_item(self) -> ItemT:
        """The next item. StopAsyncIteration when there is none. Cancelling it must lose nothing."""

    def _end(self) -> None:
        self._over = True
        if self._feed is not None:
            self._feed.close()
        if self._waits_for is not None:
            _give_up(self._waits_for)

    async def _wait_for(self, future: asyncio.Future[Any], timeout: float | None = None) -> bool:
        """Wait for something of this stream's own; whether it is done in time.

        It is cancelled otherwise, and with the reader, and when the stream is ended: then there is no next item.
        """
        self._waits_for = future
        try:
            done, _ = await asyncio.wait([future], timeout=timeout)
        finally:
            self._waits_for = None
            _give_up(future)
        if self._over:
            raise StopAsyncIteration
        return bool(done)

    async def aclose(self) -> None:
        """End the stream; a reader that waits sees its end. Harmless when repeated."""
        self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._end()


def _give_up(future: asyncio.Future[Any]) -> None:
    """Cancel it. If it has failed already, that is not reported: nobody is there to look at it."""
    if not future.get_loop().is_closed():  # under its reader, which is collected now
        future.cancel()


def is_over(stream: Stream[Any]) -> bool:
    """Whether the stream gives nothing more. Not a method, as the stream is the users'."""
    return stream._over


def deadline_of_look(timeout: float | None) -> float | None:
    """When a stream must have its first answer: with the end of its budget, but a mere look takes a round trip."""
    if timeout is None:
        return None
    return asyncio.get_running_loop().time() + (timeout if timeout > 0 else LOOK_ONCE_TIMEOUT)
