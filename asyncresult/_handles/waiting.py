"""One wait for one task: a future, a timer, and callbacks on the handle.

The future is never given an exception: it would keep, by way of the traceback, the frame that awaits it, which keeps
the future. It is given the reason, and the exception is made where it is raised.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Generator, Sequence
from typing import Any, ClassVar, NoReturn, TypeVar

from .._checks import LOOK_ONCE_TIMEOUT, looks_once
from .._storage.store import engine_of
from ..codec.exceptions import printable
from ..errors import AsyncResultError, BackendClosed, ResultTimeout
from ..meta import TaskMeta
from .handle import Callback, Handle, ancestors, listen, looks_at, observe, read_record, unlisten, unobserve
from .known import Reason, fresh, has_failed, is_ready, is_settled, needs_cause, outcome, set_cause
from .measured import Measured

__all__ = ["await_outcome", "many_timed_out", "raise_reason", "timed_out", "wait"]

T = TypeVar("T")

_EXPIRED: Any = object()
_RAISED: Any = object()


def await_outcome(handle: Handle[T], measured: Measured | None = None) -> Generator[Any, None, T]:
    """``get()`` for a task without parents. Two frames less: a quarter of the memory of a task that waits, and of
    the time to wake it (benchmarks: gather, waiting-tasks)."""
    if not is_settled(handle):
        if measured is None and handle.backend.probe is not None:
            with Measured(handle.backend.probe, (handle,)) as measured:
                return (yield from await_outcome(handle, measured))
        future: asyncio.Future[Reason | None] = asyncio.get_running_loop().create_future()
        wake: Callback = functools.partial(_wake, future)
        if measured is not None:
            wake = measured.noting(wake)
        listen(handle, wake)
        try:
            reason = yield from future
        finally:
            unlisten(handle, wake)
        if reason is not None:
            raise_reason(reason)
    return outcome(handle, propagate=True)  # type: ignore[no-any-return]


async def wait(
    handle: Handle[Any],
    timeout: float | None,
    follow_parents: bool,
    on_message: Callable[[TaskMeta], object] | None,
    measured: Measured,
) -> Handle[Any] | None:
    """Wait until the handle is done; raise what ends the wait otherwise.

    Args:
        follow_parents: Whether the failure of a task before this one ends the wait, too.

    Returns:
        None, or the task before this one that has failed, where this one has no record.
    """
    if is_ready(handle):
        on_message = None  # there is none to come
    if looks_once(timeout):
        measured.note_read()
        return await _look_once(handle, timeout, follow_parents)
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    end = measured.noting(functools.partial(_wake, future))
    feed = _Alone(handle, end) if on_message is None else _MessageFeed(handle, end, on_message)
    # Who sees the records learns of the end by the last of them; the others come before it.
    wake = end if on_message is None else functools.partial(_wake_without_record, end)
    timer = None
    try:
        if follow_parents:
            listen(handle, wake)
        if on_message is not None or not follow_parents:
            observe(handle, feed)
        if timeout is not None:
            timer = loop.call_later(timeout, _wake, future, handle, _EXPIRED)
        reason = await future
    finally:
        if timer is not None:
            timer.cancel()
        unlisten(handle, wake)
        unobserve(handle, feed)
        raised, feed.error = feed.error, None
    if reason is None and follow_parents and needs_cause(handle):
        return await wait(handle, None, True, None, measured)  # of whom the messages said nothing
    if reason is None or isinstance(reason, Handle):
        return reason
    if reason is _EXPIRED:
        if is_ready(handle):
            return None  # only messages are missing
        raise timed_out(handle, timeout)
    try:
        raise_reason(raised if reason is _RAISED else reason)
    finally:
        del reason, raised  # they would hold this frame, which holds them


async def _look_once(handle: Handle[Any], timeout: float | None, follow_parents: bool) -> Handle[Any] | None:
    above = ancestors(handle) if follow_parents else []
    look = read_record(handle)
    looks = [look, *looks_at(above)]
    done, _ = await asyncio.wait(looks, timeout=LOOK_ONCE_TIMEOUT)
    if look in done and look.exception() is not None:
        raise_reason(look.exception())
    if is_ready(handle):
        if follow_parents:
            set_cause(handle, above)
        return None
    failed = next((task for task in above if has_failed(task)), None)
    if failed is None:
        raise timed_out(handle, timeout)
    return failed


def raise_reason(reason: Any) -> NoReturn:
    """Raise a new instance of an error of ours or of a task's failure; any other exception as it is."""
    error = fresh(reason) if isinstance(reason, AsyncResultError | Handle) else reason
    try:
        raise error
    finally:
        del error, reason  # they would hold this frame, which holds them


def timed_out(handle: Handle[Any], timeout: float | None) -> ResultTimeout:
    """What a wait for one task says when its budget is used up."""
    error = f"task {printable(handle.id)} did not end within {timeout} s{_outage_of(handle)}"
    return ResultTimeout(error, task_id=handle.id, timeout=timeout)


def many_timed_out(waiting: Sequence[Handle[Any]], all: Sequence[Handle[Any]], timeout: float | None) -> ResultTimeout:
    """What a wait for several tasks says when its budget is used up."""
    named = ", ".join(printable(handle.id) for handle in waiting[:3]) + (", …" if len(waiting) > 3 else "")
    error = f"{len(waiting)} of {len(all)} tasks did not end within {timeout} s: {named}"
    return ResultTimeout(error + "".join(map(_outage_of, waiting[:1])), timeout=timeout)


def _outage_of(handle: Handle[Any]) -> str:
    """That nothing could come, if that is so."""
    try:
        trouble = engine_of(handle.backend).last_error
    except BackendClosed:
        return ""  # this may be a callback of the loop, whose error nobody would see
    return f" (and {handle.backend} is not reachable: {trouble})" if trouble else ""


class _Alone:
    """Waits for a task's own record, whatever becomes of those before it: feeds see nothing else."""

    __slots__ = ("_end", "_handle", "error")
    follows: ClassVar[bool] = False

    def __init__(self, handle: Handle[Any], end: Callback) -> None:
        self._handle = handle
        self._end = end
        self.error: Any = None  # not in the future, which would keep it

    def put(self, meta: TaskMeta) -> None:
        if meta.ready:
            self.fail(None)

    def fail(self, reason: Any) -> None:
        self._end(self._handle, reason)


class _MessageFeed(_Alone):
    """``get(on_message=…)``: a feed that keeps nothing. What the function raises ends the wait."""

    __slots__ = ("_fn",)
    follows: ClassVar[bool] = True

    def __init__(self, handle: Handle[Any], end: Callback, fn: Callable[[TaskMeta], object]) -> None:
        super().__init__(handle, end)
        self._fn = fn

    def put(self, meta: TaskMeta) -> None:
        try:
            self._fn(meta)
        except BaseException as error:  # KeyboardInterrupt, too: it leaves the loop by way of who waits
            self.error = error if self.error is None else self.error
            self.fail(_RAISED)
        super().put(meta)


def _wake(future: asyncio.Future[Any], handle: Handle[Any], reason: Reason | None) -> None:
    if not future.done():
        future.set_result(reason)


def _wake_without_record(end: Callback, handle: Handle[Any], reason: Reason | None) -> None:
    if reason is not None:
        end(handle, reason)
