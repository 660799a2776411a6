"""Waiting for Celery's own results: what their ``get()`` and ``join()`` call, on the loop of :mod:`..._portal`.

What a wait brings is handed to Celery's result object as the record that it would have read itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from celery.exceptions import TimeoutError as CeleryTimeoutError

from ... import _portal
from ..._handles.result import AsyncResult
from ..._handles.sets import ResultSet
from ..._handles.streams import Completed, has_more
from ...backend import Backend
from ...errors import ResultTimeout
from ...meta import TaskMeta, stored_fields

__all__ = ["Waiting"]

#: Seconds between two calls of ``on_interval``, as in Celery.
INTERVAL = 1.0


class Waiting(ABC):
    """The waiting half of a Celery backend, in front of Celery's own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # One for all threads: redis-py's client is made for that, and waiting needs nothing of a thread.
        self.thread_safe = True

    @property
    @abstractmethod
    def _awaited(self) -> Backend:
        """The backend on which is waited: the app's, not this object's. And not that of connect(app), which is closed
        when the event loop's block ends."""

    # -- nothing is pending -------------------------------------------------------------------------------

    def on_task_call(self, producer: Any, task_id: str) -> None:  # noqa: B027 (Celery calls it)
        """Nothing is to be prepared before a task is sent."""

    def add_pending_result(self, result: Any, weak: bool = False, start_drainer: bool = True) -> Any:
        return result

    def add_pending_results(self, results: Any, weak: bool = False) -> Any:
        return list(results)

    def remove_pending_result(self, result: Any) -> Any:
        return result

    # -- waiting ------------------------------------------------------------------------------------------

    def wait_for_pending(
        self,
        result: Any,
        callback: Callable[[str, Any], object] | None = None,
        propagate: bool = True,
        timeout: float | None = None,
        on_interval: Callable[[], object] | None = None,
        on_message: Callable[[dict[str, Any]], object] | None = None,
        **_: object,
    ) -> Any:
        """What ``celery.result.AsyncResult.get()`` calls. ``on_message`` gets the records of this task only."""
        self._ensure_not_eager()  # type: ignore[attr-defined]
        handle: AsyncResult[Any] = self._awaited.result(result.id)

        async def wait(post: _portal.Post) -> TaskMeta:
            def watch(meta: TaskMeta) -> None:
                post(on_message, stored_fields(meta))

            await handle.get(timeout, propagate=False, on_message=watch if on_message is not None else None)
            return await handle.meta()

        try:
            meta = _portal.run_with_callbacks(wait, interval=INTERVAL, on_interval=on_interval)
        except ResultTimeout:
            raise CeleryTimeoutError("The operation timed out.") from None
        if on_interval is not None:
            on_interval()  # as Celery does before it looks at the result: a parent's failure comes first
        result._maybe_set_cache(stored_fields(meta))
        return result.maybe_throw(callback=callback, propagate=propagate)

    def iter_native(
        self,
        result: Any,
        no_ack: bool = True,
        timeout: float | None = None,
        on_interval: Callable[[], object] | None = None,
        on_message: Callable[[dict[str, Any]], object] | None = None,
        **_: object,
    ) -> Iterator[tuple[str, Any]]:
        """What ``celery.result.ResultSet.join_native()`` calls: the members' records as they come.

        ``on_message`` gets the members' final records; ``on_interval`` is called whenever some have come.
        """
        self._ensure_not_eager()  # type: ignore[attr-defined]
        backend = self._awaited
        waiting: dict[AsyncResult[Any], list[Any]] = {}
        for node in result.results:
            if not hasattr(node, "_cache"):  # a group: its members are looked at by who gets it
                yield node.id, node.children
            elif node._cache:
                yield node.id, node._cache
            else:
                waiting.setdefault(backend.result(node.id), []).append(node)
        if not waiting:
            return
        completed = _portal.run(_start, list(waiting), timeout)
        try:
            while done := _portal.run(_take, completed):
                for handle in done:
                    meta = handle.snapshot
                    if meta is None or not meta.ready:  # its record cannot be read
                        raise handle.exception or AssertionError("a handle that is done knows why")
                    for node in waiting[handle]:
                        node._maybe_set_cache(stored_fields(meta))
                        if on_message is not None:
                            on_message(stored_fields(meta))
                        yield node.id, node._cache
                if on_interval is not None:
                    on_interval()
        except ResultTimeout:
            raise CeleryTimeoutError("The operation timed out.") from None
        finally:
            _portal.start(completed.aclose)


async def _start(handles: list[AsyncResult[Any]], timeout: float | None) -> Completed[Any]:
    return ResultSet(handles).as_completed(timeout=timeout)


async def _take(completed: Completed[Any]) -> list[AsyncResult[Any]]:
    """The handles that are done by now, at least one; none when all have come."""
    done = []
    async for handle in completed:
        done.append(handle)
        if not has_more(completed):
            break
    return done
