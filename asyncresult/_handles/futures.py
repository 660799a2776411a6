"""Callbacks and futures of users, on a handle.

A future is held by the one who waits for it; the handle holds it weakly. A future that was dropped, as one does with
the pending ones behind ``asyncio.wait(..., timeout=1)``, takes its subscription with it. While it has callbacks,
somebody is to be called, and it stays: a task that awaits it, and perhaps is held by nothing else, is one of these.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from .._background import call_from_finalizer
from ..errors import BackendClosed
from ..promise import AwaitedPromise, Promise
from .handle import Handle, unlisten
from .known import Reason, fresh, settled
from .measured import Measured, listen_measured

__all__ = ["DoneCallback", "concurrent_future", "result_future", "result_promise"]

T = TypeVar("T")


class DoneCallback:
    """A user's callback as the handle keeps it: equal when the function is, keeps its context."""

    __slots__ = ("_context", "_fn")

    def __init__(self, fn: Callable[[Any], object]) -> None:
        if not callable(fn):
            raise TypeError(f"a callback must be callable, not {type(fn).__name__}")
        self._fn = fn
        self._context = contextvars.copy_context()

    def __call__(self, handle: Handle[Any], reason: Reason | None) -> None:
        # In a tick of its own: what it raises reaches the loop's exception handler, not the next waiter.
        asyncio.get_running_loop().call_soon(self._fn, handle, context=self._context)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DoneCallback) and self._fn == other._fn

    __hash__ = None  # type: ignore[assignment]


def result_future(handle: Handle[T]) -> asyncio.Future[T]:
    """A future with the task's outcome. Cancelling or dropping it ends the wait."""
    future: _Future[T] = _Future(loop=asyncio.get_running_loop())
    future.settler = _settler(future, handle)
    return future


def concurrent_future(handle: Handle[T]) -> concurrent.futures.Future[T]:
    """The same for another thread."""
    future: _ConcurrentFuture[T] = _ConcurrentFuture()
    future.settler = _settler(future, handle)
    return future


def _settler(future: Any, handle: Handle[Any]) -> _Settler:
    """One that has begun to wait. Raises: as :func:`.listen`."""
    settler = _Settler(future, handle)
    try:
        settler.measured = listen_measured(handle, settler)
    except BaseException:
        settler.ignore_the_future()
        raise
    return settler


def result_promise(handle: Handle[T]) -> Promise[T]:
    """A promise with the task's outcome. When nothing that was derived from it is wanted, the wait ends."""
    promise: AwaitedPromise[T] = AwaitedPromise()

    def settle(handle: Handle[Any], reason: Reason | None) -> None:
        value, error = (None, fresh(reason)) if reason is not None else settled(handle)
        promise.settle(value, error)
        measured.note(handle, reason)
        measured.end(error)

    def give_up() -> None:
        unlisten(handle, settle)
        measured.end(outcome="cancelled")

    measured = listen_measured(handle, settle)
    promise.ends_with(give_up)
    return promise


def _no_future() -> None:
    return None


class _Settler:
    """The handle's callback that gives the outcome to a future."""

    __slots__ = ("_future", "_handle", "_loop", "held", "measured")

    def __init__(self, future: Any, handle: Handle[Any]) -> None:
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._future: Callable[[], Any] = weakref.ref(future, self._dropped)
        self.held: Any = None  # the future, while it has callbacks
        self.measured: Measured

    def __call__(self, handle: Handle[Any], reason: Reason | None) -> None:
        future, self.held = self._future(), None
        self.ignore_the_future()
        if future is None or future.done():
            self.measured.end(outcome="cancelled")
            return
        value, error = (None, fresh(reason)) if reason is not None else settled(handle)
        self.measured.note(handle, reason)
        self.measured.end(error)
        try:
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
                if isinstance(error, BackendClosed):
                    future.exception()  # a clean shutdown is nothing that anybody must see
        except (asyncio.InvalidStateError, concurrent.futures.InvalidStateError):
            pass  # another thread has cancelled it meanwhile

    def ignore_the_future(self) -> None:
        """Its end is none of ours."""
        self._future = _no_future

    def cancelled(self) -> None:
        """Called on any thread."""
        self.held = None
        call_from_finalizer(self._loop, self._give_up)

    def _dropped(self, _: object) -> None:
        call_from_finalizer(self._loop, self._give_up)

    def _give_up(self) -> None:
        unlisten(self._handle, self)
        self.measured.end(outcome="cancelled")


class _Future(asyncio.Future[T]):
    settler: _Settler
    _called_back = 0

    def add_done_callback(self, fn: Any, /, *, context: contextvars.Context | None = None) -> None:
        super().add_done_callback(fn, context=context)
        if not self.done():
            self._called_back += 1
            self.settler.held = self

    def remove_done_callback(self, fn: Any, /) -> int:
        removed = super().remove_done_callback(fn)
        self._called_back -= removed
        if removed and not self._called_back:
            self.settler.held = None
        return removed

    def cancel(self, msg: Any = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled:
            self.settler.cancelled()
        return cancelled


class _ConcurrentFuture(concurrent.futures.Future[T]):
    settler: _Settler

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[T]], object]) -> None:
        self.settler.held = self  # before: it may be done, and let go of, at any time
        super().add_done_callback(fn)
        if self.done():
            self.settler.held = None

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if cancelled:
            self.settler.cancelled()
        return cancelled
