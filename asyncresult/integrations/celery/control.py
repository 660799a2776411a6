"""Reaching Celery's workers, through the app's own control interface.

kombu blocks, so it works in a thread. One limiter for all of them: kombu keeps ten connections by default,
and more threads would only queue for one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from kombu.exceptions import OperationalError

from ...control import Reply
from ...errors import BackendUnavailable

__all__ = ["CeleryController", "in_thread"]

T = TypeVar("T")

#: Threads that talk to the broker at a time: the default of broker_pool_limit.
MAX_THREADS = 10

_limiter: RunVar[CapacityLimiter] = RunVar("asyncresult_celery_threads")


async def in_thread(function: Callable[[], T]) -> T:
    """Call ``function`` in a thread, with the context variables of the caller.

    Cancelling returns at once; what the thread has begun, it may still complete.
    """
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = CapacityLimiter(MAX_THREADS)
        _limiter.set(limiter)
    return await to_thread.run_sync(function, abandon_on_cancel=True, limiter=limiter)


class CeleryController:
    """A way to reach the workers of a Celery app; see :mod:`asyncresult.control`.

    Args:
        app: The app; its broker carries the request.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def revoke(
        self, ids: Sequence[str], *, terminate: bool, signal: str | None, wait: bool, timeout: float | None
    ) -> list[Reply]:
        """See :func:`asyncresult.control.revoke`. With ``wait`` it takes the whole timeout: nobody knows how
        many workers there are.

        Raises:
            BackendUnavailable: The broker cannot be reached.
        """
        return await self._ask(self.app.control.revoke, list(ids), terminate, signal, wait, timeout)

    async def revoke_by_stamped_headers(
        self, headers: Mapping[str, Any], *, terminate: bool, signal: str | None, wait: bool, timeout: float | None
    ) -> list[Reply]:
        """See :func:`asyncresult.control.revoke_by_stamped_headers`; otherwise as :meth:`revoke`."""
        return await self._ask(
            self.app.control.revoke_by_stamped_headers, dict(headers), terminate, signal, wait, timeout
        )

    async def _ask(
        self, command: Any, what: Any, terminate: bool, signal: str | None, wait: bool, timeout: float | None
    ) -> list[Reply]:
        options = {"reply": wait, "timeout": 1.0 if timeout is None else timeout}
        request = functools.partial(command, what, terminate=terminate, signal=signal or "SIGTERM", **options)
        try:
            answers = await in_thread(request)
        except (OperationalError, OSError) as error:
            raise BackendUnavailable(f"the broker of {self.app!r} cannot be reached: {error}") from error
        return [_reply(worker, said) for answer in answers or () for worker, said in answer.items()]


def _reply(worker: str, said: Any) -> Reply:
    if isinstance(said, Mapping) and ("ok" in said or "error" in said):
        return Reply(worker, "ok" in said, str(said.get("ok", said.get("error"))))
    return Reply(worker, ok=True, detail=str(said))
