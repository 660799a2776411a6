"""Awaiting the results of Django's tasks."""

from __future__ import annotations

import asyncio
from typing import Any

from ...errors import BackendUnavailable
from ...result import AsyncResult
from .base import StoringBackend
from .foreign import backend_over, finished_handle

__all__ = ["handle", "wait"]


def handle(task_result: Any) -> AsyncResult[Any]:
    """The handle of a task result, to be awaited, joined with others, or followed by ``updates()``.

    The value is the task's return value; a failure is raised. Results of backends that are not ours are read by their
    own ``get_result``, on a thread and ever more rarely; one that does not exist fails with TaskResultDoesNotExist.

    Raises:
        NotImplementedError: The backend gives no results by their id.
        TypeError: It is no task result.
    """
    backend = _checked(task_result).task.get_backend()
    if isinstance(backend, StoringBackend):
        made: AsyncResult[Any] = backend.store.result(task_result.id)
        return made
    if task_result.is_finished:
        return finished_handle(task_result)
    return backend_over(backend).result(task_result.id)


async def wait(task_result: Any, timeout: float | None = None) -> Any:
    """Wait until the task has ended, refresh its result, and return that. A failure does not raise.

    ::

        result = await wait(await send.aenqueue("a@b.c"), timeout=10)
        if result.status == TaskResultStatus.SUCCESSFUL: ...

    Waiting outlasts outages of the store; give a timeout where that matters.

    Raises:
        TimeoutError: It has not ended within ``timeout`` seconds.
        TaskResultDoesNotExist: There is no such result, or no longer; or its transaction is not committed.
        NotImplementedError: The backend gives no results by their id.
        TypeError: It is no task result.
    """
    if _checked(task_result).is_finished:
        return task_result
    waiting = handle(task_result)
    async with asyncio.timeout(timeout):
        try:
            await task_result.arefresh()
        except BackendUnavailable:
            pass  # waiting goes on, and only the timeout ends it for a result that exists no more
        if not task_result.is_finished:
            await waiting.get(propagate=False)
            await task_result.arefresh()
    return task_result


def _checked(given: Any) -> Any:
    """A task result, of whichever framework: what has a task, and an id."""
    if not (hasattr(given, "task") and hasattr(given, "is_finished")):
        hint = "; of an id, await AsyncResult(id)" if isinstance(given, str) else ""
        raise TypeError(f"expected what enqueue() returned, a task result, not {type(given).__name__}{hint}")
    return given
