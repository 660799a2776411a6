"""Waiting for many results at once, and looking at them once.

A join is one future and a counter, whatever the number of members: every member is given the same
callback. Failing fast, a timeout or a cancellation takes that callback off the others and leaves them,
and their tasks, alone.

Of many members, those whose results are stored already are found by reading first: they need neither a place
in the table of waiters nor a subscription. The others are listened for, as each single one would be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .._checks import LOOK_ONCE_TIMEOUT
from .._storage.store import Store
from .._storage.waiters import READ_CHUNK
from ..codec.codec import Codec, LargeRecord
from ..errors import AsyncResultError, ResultDecodeError, ResultTimeout
from ..meta import TaskMeta
from ..states import SUCCESS
from .handle import Callback
from .result import AsyncResult

__all__ = ["Handle", "Join", "Many", "finish", "look_at_all", "look_at_each", "over", "timed_out"]

Handle = AsyncResult[Any]

#: From so many handles on, reading comes first. For fewer, a round trip more costs more than their subscriptions.
READ_FIRST = 100
#: Seconds until an answer counts as overdue. Then all are listened for: their results need no read to arrive.
OVERDUE = 0.5


class Many:
    """Has one callback told about many handles, once each and never at once; see :data:`Callback`.

    Raises:
        RuntimeError, BackendClosed: As :meth:`AsyncResult.get`.
    """

    __slots__ = ("_callback", "_ended", "_handles")

    def __init__(self, handles: Sequence[Handle], callback: Callback) -> None:
        self._handles = handles
        self._callback = callback
        self._ended = False
        unread: dict[Store, list[Handle]] = {}
        for handle in handles:
            # What stands in the table was read for somebody else, or is about to be.
            if len(handles) < READ_FIRST or handle._table is not None or handle._is_ready():
                handle._listen(callback)
            else:
                unread.setdefault(handle.backend, []).append(handle)
        for backend, own in unread.items():
            self._read(backend, own, 0)

    def end(self) -> None:
        """Take the callback off whoever still holds it."""
        self._ended = True
        for handle in self._handles:
            if handle._callbacks is not None:
                handle._unlisten(self._callback)

    def _read(self, backend: Store, handles: list[Handle], start: int) -> None:
        """Read a chunk of the handles from ``start`` on, and see what to do about the others."""
        chunk, others = handles[start : start + READ_CHUNK], start + READ_CHUNK
        engine = backend._engine()
        answer = engine.read_many([backend.task_key(handle.id) for handle in chunk])
        timer = engine.loop.call_later(OVERDUE, answer.cancel)

        def answered(_: object) -> None:
            timer.cancel()
            failed = answer.cancelled() or answer.exception() is not None
            if self._ended:
                return
            if failed:
                self._listen(handles[start:], read_early=True)  # the table will try again, for ever
                return
            payloads = answer.result()
            # Where most are not stored yet, most of the others will not be either.
            if sum(map(bool, payloads)) <= len(chunk) // 2:
                self._listen(handles[others:], read_early=False)
            elif others < len(handles):
                self._read(backend, handles, others)
            # A turn later: the next question leaves before these are decoded (benchmarks: join-stored).
            engine.loop.call_soon(self._take, chunk, payloads, backend.codec)

        answer.add_done_callback(answered)

    def _take(self, handles: list[Handle], payloads: list[bytes | None], codec: Codec) -> None:
        for handle, payload in zip(handles, payloads, strict=True):
            done = False
            if payload:
                try:
                    done = handle._learn(codec.decode(handle.id, payload, True))
                except (LargeRecord, ResultDecodeError):
                    pass  # the table will read it again, and see to it
            if self._ended:
                return
            if done:
                self._callback(handle, None)
            else:
                self._listen([handle], read_early=False)

    def _listen(self, handles: Iterable[Handle], *, read_early: bool) -> None:
        for handle in handles:
            try:
                handle._listen(self._callback, read_early=read_early)
            except (AsyncResultError, RuntimeError) as error:  # closed meanwhile, or awaited on another loop
                handle._error = error if isinstance(error, AsyncResultError) else AsyncResultError(str(error))
                self._callback(handle, handle._error)


class Join:
    """The callback of all members of a join."""

    __slots__ = ("callback", "fail_fast", "future", "many", "pending")

    def __init__(
        self, handles: Iterable[Handle], fail_fast: bool, callback: Callable[[str, Any], object] | None = None
    ) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.fail_fast = fail_fast
        self.callback = callback
        waiting: list[Handle] = []
        for handle in handles:
            if handle._is_ready():
                self._look_at(handle, None)
            elif not handle.ignored:
                waiting.append(handle)
        self.pending = len(waiting)
        self.many = Many(waiting, self)
        if not waiting:
            self.end(None)

    def __call__(self, handle: Handle, error: AsyncResultError | None) -> None:
        self.pending -= 1
        meta = handle._meta
        # What needs no look is the rule: no call for it (benchmarks: join).
        if error is not None or self.callback is not None or meta is None or meta.status != SUCCESS:
            self._look_at(handle, error)
        if not self.pending:
            self.end(None)

    def _look_at(self, handle: Handle, error: AsyncResultError | None) -> None:
        if self.future.done():
            return
        if self.fail_fast:
            if error is not None:
                self.end(error)
                return
            if handle._meta is not None and handle._meta.status != SUCCESS:
                self.end(handle.exception)
                return
        if self.callback is not None:
            try:
                self.callback(handle.id, error or handle._outcome(propagate=False))
            except Exception as failure:
                self.end(failure)

    def end(self, error: Exception | None) -> None:
        if not self.future.done():
            if error is None:
                self.future.set_result(None)
            else:
                self.future.set_exception(error)

    def detach(self) -> None:
        """Take the callback off whoever still holds it."""
        if self.pending:
            self.many.end()


async def finish(join: Join, leaves: list[Handle], timeout: float | None) -> None:
    """Wait for a join, within its budget; leave nothing behind."""
    timer = None
    future = join.future
    if timeout is not None and not future.done():

        def expire() -> None:
            join.end(timed_out([leaf for leaf in leaves if not over(leaf)], leaves, timeout))

        timer = asyncio.get_running_loop().call_later(timeout, expire)
    try:
        await future
    finally:
        if timer is not None:
            timer.cancel()
        join.detach()


async def look_at_all(leaves: list[Handle]) -> list[TaskMeta]:
    """The records of all leaves; one series of reads for each backend among them."""
    unknown: dict[Store, list[Handle]] = {}
    for leaf in leaves:
        if not leaf._is_ready():
            unknown.setdefault(leaf.backend, []).append(leaf)
    for backend, some in unknown.items():
        for leaf, meta in zip(some, await backend.get_many(leaf.id for leaf in some), strict=True):
            leaf._learn(meta)
    return [leaf._meta for leaf in leaves if leaf._meta is not None]


async def look_at_each(handles: Iterable[Handle]) -> None:
    """Have the handles learn what is stored now, as far as that can be had in the time of a look."""
    looks = [handle._look() for handle in handles if not over(handle)]
    if looks:
        await asyncio.wait(looks, timeout=LOOK_ONCE_TIMEOUT)


def timed_out(waiting: Sequence[Handle], all: Sequence[Handle], timeout: float | None) -> ResultTimeout:
    """What a join says when its budget is used up."""
    named = ", ".join(handle.id for handle in waiting[:3]) + (", …" if len(waiting) > 3 else "")
    return ResultTimeout(f"{len(waiting)} of {len(all)} tasks did not end within {timeout} s: {named}", timeout=timeout)


def over(handle: Handle) -> bool:
    """Whether nothing more is to be learned about it."""
    return handle.done() or handle.ignored
