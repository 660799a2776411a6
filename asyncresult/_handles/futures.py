"""Callbacks and futures of users, on a handle."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
from collections.abc import Callable
from typing import Any

from ..errors import AsyncResultError, BackendClosed
from .handle import Handle

__all__ = ["DoneCallback", "settle_later"]


class DoneCallback:
    """A user's callback as the handle keeps it: equal when the function is, keeps its context."""

    __slots__ = ("_context", "_fn")

    def __init__(self, fn: Callable[[Any], object]) -> None:
        if not callable(fn):
            raise TypeError(f"a callback must be callable, not {type(fn).__name__}")
        self._fn = fn
        self._context = contextvars.copy_context()

    def __call__(self, handle: Handle[Any], error: AsyncResultError | None) -> None:
        # In a tick of its own: what it raises reaches the loop's exception handler, not the next waiter.
        asyncio.get_running_loop().call_soon(self._fn, handle, context=self._context)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DoneCallback) and self._fn == other._fn

    __hash__ = None  # type: ignore[assignment]


def settle_later(future: Any, handle: Handle[Any]) -> None:
    """Give the task's outcome to a future, of asyncio's or of another thread. Cancelling it ends the wait."""
    loop = asyncio.get_running_loop()

    def settle(handle: Handle[Any], error: AsyncResultError | None) -> None:
        if future.done():
            return
        try:
            if error is not None:
                raise error
            outcome = handle._outcome(propagate=True)
        except Exception as failure:
            _unless_cancelled(future.set_exception, failure)
            if isinstance(failure, BackendClosed) and not future.cancelled():
                future.exception()  # a clean shutdown is nothing that anybody must see
        else:
            _unless_cancelled(future.set_result, outcome)

    def given_up(ended: Any) -> None:
        if ended.cancelled() and not loop.is_closed():
            loop.call_soon_threadsafe(handle._unlisten, settle)

    handle._listen(settle)
    future.add_done_callback(given_up)


def _unless_cancelled(settle: Callable[[Any], None], outcome: Any) -> None:
    """Settle a concurrent future, which another thread may have cancelled meanwhile."""
    try:
        settle(outcome)
    except (asyncio.InvalidStateError, concurrent.futures.InvalidStateError):
        pass
