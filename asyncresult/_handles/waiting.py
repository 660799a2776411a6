"""One wait for one task: a future, a timer, and callbacks on the handle and on its ancestors."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

from .._checks import LOOK_ONCE_TIMEOUT, looks_once
from ..errors import AsyncResultError, ResultTimeout
from ..meta import TaskMeta
from ..states import PROPAGATE_STATES
from .handle import Callback, Handle

__all__ = ["ancestors", "await_outcome", "wait"]

T = TypeVar("T")

_EXPIRED: Any = object()


def await_outcome(handle: Handle[T]) -> Generator[Any, None, T]:
    """``get()`` for a task without parents. Two frames less: a quarter of the memory of a task that waits, and of
    the time to wake it (benchmarks: gather, waiting-tasks)."""
    if not handle._is_ready():
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        wake = functools.partial(_wake, future)
        handle._listen(wake)
        try:
            yield from future
        finally:
            handle._unlisten(wake)
    return handle._outcome(propagate=True)  # type: ignore[no-any-return]


async def wait(
    handle: Handle[Any],
    timeout: float | None,
    ancestors: Iterator[Handle[Any]] | tuple[()],
    on_message: Callable[[TaskMeta], object] | None,
) -> None:
    """Return when the handle is done; raise what ends the wait otherwise.

    Args:
        ancestors: Handles whose failure ends the wait, too.
    """
    if looks_once(timeout):
        return await _look_once(handle, timeout)
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    wake: Callback = functools.partial(_wake, future)
    watching: list[tuple[Handle[Any], Callback]] = []
    feed = _MessageFeed(on_message, future) if on_message is not None else None
    timer = None
    try:
        for ancestor in ancestors:
            failing: Callback = functools.partial(_ancestor_ended, future)
            watching.append((ancestor, failing))
            ancestor._listen(failing)
        handle._listen(wake)
        if feed is not None:
            handle._observe(feed)
        if timeout is not None:
            timer = loop.call_later(timeout, _expire, future)
        if await future is _EXPIRED:
            raise _timed_out(handle, timeout)
    finally:
        if timer is not None:
            timer.cancel()
        handle._unlisten(wake)
        if feed is not None:
            handle._unobserve(feed)
        for ancestor, failing in watching:
            ancestor._unlisten(failing)


async def _look_once(handle: Handle[Any], timeout: float | None) -> None:
    loop = asyncio.get_running_loop()
    look = handle._look()
    timer = loop.call_later(LOOK_ONCE_TIMEOUT, look.cancel)
    try:
        await asyncio.wait([look])
    finally:
        timer.cancel()
    if look.cancelled() or not look.result().ready:
        raise _timed_out(handle, timeout)


def _timed_out(handle: Handle[Any], timeout: float | None) -> ResultTimeout:
    error = f"task {handle.id} did not end within {timeout} s"
    trouble = handle.backend._engine().last_error
    if trouble:
        error += f" (and {handle.backend} is not reachable: {trouble})"
    return ResultTimeout(error, task_id=handle.id, timeout=timeout)


def ancestors(handle: Handle[Any]) -> Iterator[Handle[Any]]:
    """The parents whose failure is this task's too: their leaves, nearest first."""
    node = handle.parent
    while node is not None:
        yield from node._leaves()
        node = node.parent


class _MessageFeed:
    """``get(on_message=…)``: a feed that keeps nothing. What the function raises ends the wait."""

    __slots__ = ("_fn", "_future")

    def __init__(self, fn: Callable[[TaskMeta], object], future: asyncio.Future[Any]) -> None:
        self._fn = fn
        self._future = future

    def put(self, meta: TaskMeta) -> None:
        try:
            self._fn(meta)
        except Exception as error:
            if not self._future.done():
                self._future.set_exception(error)

    def fail(self, error: AsyncResultError) -> None: ...


def _wake(future: asyncio.Future[Any], handle: Handle[Any], error: AsyncResultError | None) -> None:
    if not future.done():
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def _ancestor_ended(future: asyncio.Future[Any], handle: Handle[Any], error: AsyncResultError | None) -> None:
    # An ancestor whose record cannot be had says nothing about this task.
    if error is None and not future.done() and handle._meta is not None and handle._meta.status in PROPAGATE_STATES:
        failure = handle.exception
        assert failure is not None
        future.set_exception(failure)


def _expire(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(_EXPIRED)
