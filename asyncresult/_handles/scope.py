"""Structured concurrency that reaches the remote task."""

from __future__ import annotations

import asyncio
import functools
from types import TracebackType
from typing import Any, Self, TypeVar

from .. import _background
from .._checks import DetachOrRevoke, check_choice
from .._log import Log, get_logger
from .._stored_later import even_at_the_end
from ..errors import BackendClosed, BackendError, add_note
from .base import SupportsAsyncResult, as_result, handles_in
from .result import AsyncResult
from .sets import ResultSet

__all__ = ["Scope", "scope"]

logger: Log = get_logger("asyncresult")

H = TypeVar("H", bound="AsyncResult[Any] | ResultSet[Any] | SupportsAsyncResult[Any]")

#: Seconds that revoking may take when a block is left: a dead broker must not hold up the failure.
REVOKE_TIMEOUT = 5.0


class Scope:
    """A block that owns the tasks it adopts. Made by :func:`scope`."""

    def __init__(self, on_error: DetachOrRevoke, on_cancel: DetachOrRevoke) -> None:
        check_choice("on_error", on_error, "detach", "revoke")
        check_choice("on_cancel", on_cancel, "detach", "revoke")
        self._on_error = on_error
        self._on_cancel = on_cancel
        self._adopted: ResultSet[Any] = ResultSet([])

    def adopt(self, handle: H) -> H:
        """Revoke this task, or set of tasks, if the block fails before it is over. Returns the handle.

        Raises:
            TypeError: It is no result.
        """
        self._adopted.results.append(as_result(handle))
        return handle

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if exc is None:
            return
        choice = self._on_cancel if isinstance(exc, asyncio.CancelledError) else self._on_error
        running: ResultSet[Any] = ResultSet([leaf for leaf in handles_in(self._adopted) if _may_run(leaf)])
        if choice != "revoke" or not running:
            return
        # A task of its own: this one may be cancelled, and the revocation must go out all the same.
        revoking = _background.start(running[0].backend, _revoke(running, exc), name="revoke")
        if not isinstance(exc, GeneratorExit):  # the coroutine is closed, and cannot wait
            _, late = await asyncio.wait([revoking], timeout=REVOKE_TIMEOUT)
            if late:
                add_note(exc, f"asyncresult: the scope's tasks were not revoked within {REVOKE_TIMEOUT:g} s")


def _may_run(task: AsyncResult[Any]) -> bool:
    """Whether its end is not known. That the connections were closed first, as the loop ends, says nothing about it."""
    return not task.done() or isinstance(task._error, BackendError | BackendClosed)


async def _revoke(tasks: ResultSet[Any], exc: BaseException) -> None:
    backend = tasks[0].backend
    try:
        await even_at_the_end(backend, functools.partial(tasks.revoke, terminate=True))
    except Exception as error:  # of a broker's client, too: it must not be lost in a task
        about = {"event": "not revoked", "backend": str(backend)}
        logger.warning("%d tasks of a failed scope were not revoked: %s", len(tasks), error, extra=about)
        add_note(exc, f"asyncresult: the scope's tasks were not revoked: {error}")


def scope(*, on_error: DetachOrRevoke = "revoke", on_cancel: DetachOrRevoke = "revoke") -> Scope:
    """An async context manager: the tasks that it adopts are revoked when its block fails or is cancelled.

    ::

        async with asyncresult.scope() as tasks:
            a = tasks.adopt(resize.delay(1))
            b = tasks.adopt(resize.delay(2))
            await asyncresult.gather(a, b)          # if one fails, the other is revoked

    The failure itself passes through. If the tasks cannot be revoked, a note on it says so.

    Args:
        on_error, on_cancel: ``"revoke"``, or ``"detach"`` to leave the tasks alone.
    """
    return Scope(on_error, on_cancel)
