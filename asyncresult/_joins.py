"""Waiting for many results at once, and looking at them once.

A join is one future and a counter, whatever the number of members: every member is given the same
callback. Failing fast, a timeout or a cancellation takes that callback off the others and leaves them,
and their tasks, alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ._handle import AsyncResult
from .backends.base import LOOK_ONCE_TIMEOUT, Backend
from .errors import AsyncResultError, ResultTimeout
from .meta import TaskMeta
from .states import SUCCESS

__all__ = ["Handle", "Join", "finish", "look_at_all", "look_at_each", "over", "timed_out"]

Handle = AsyncResult[Any]


class Join:
    """The callback of all members of a join."""

    __slots__ = ("callback", "fail_fast", "future", "pending")

    def __init__(
        self, handles: Iterable[Handle], fail_fast: bool, callback: Callable[[str, Any], object] | None = None
    ) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.fail_fast = fail_fast
        self.callback = callback
        self.pending = 0
        for handle in handles:
            if handle.ignored:
                continue
            if handle._is_ready():
                self._look_at(handle, None)
            else:
                handle._listen(self)
                self.pending += 1
        if not self.pending:
            self.end(None)

    def __call__(self, handle: Handle, error: AsyncResultError | None) -> None:
        self.pending -= 1
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

    def detach(self, handles: Iterable[Handle]) -> None:
        """Take the callback off whoever still holds it."""
        if self.pending:
            for handle in handles:
                if handle._callbacks is not None:
                    handle._unlisten(self)


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
        join.detach(leaves)


async def look_at_all(leaves: list[Handle]) -> list[TaskMeta]:
    """The records of all leaves; one series of reads for each backend among them."""
    unknown: dict[Backend, list[Handle]] = {}
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
