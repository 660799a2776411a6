"""Awaiting the results of Django's tasks."""

from __future__ import annotations

from typing import Any

from ...result import AsyncResult

__all__ = ["handle", "wait"]


def handle(task_result: Any) -> AsyncResult[Any]:
    """The handle of a task result, to be awaited, joined with others, or followed by ``updates()``."""
    made: AsyncResult[Any] = task_result.task.get_backend().store.result(task_result.id)
    return made


async def wait(task_result: Any, timeout: float | None = None) -> Any:
    """Wait until the task has ended, refresh its result, and return that. A failure does not raise.

    Raises:
        TimeoutError: It has not ended within ``timeout`` seconds.
    """
    await handle(task_result).get(timeout=timeout, propagate=False)
    await task_result.arefresh()
    return task_result
