"""A backend for Django's tasks framework whose tasks are run in the process that enqueues them."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import platform
from collections.abc import Callable, Coroutine
from typing import Any

from django.conf import settings
from django.core import checks
from django.db import connections

from ..._portal import run, start
from ...backend import Backend
from ...executor import Executor
from ...meta import TaskMeta
from ...states import PENDING
from .base import StoringBackend
from .documents import restore
from .running import perform
from .settings import get_backend

__all__ = ["ExecutorBackend"]


class ExecutorBackend(StoringBackend):
    """Django's tasks, run by threads of the process that enqueues them: no worker and no broker to run.

    ::

        TASKS = {"default": {"BACKEND": "asyncresult.integrations.django.ExecutorBackend"}}
        ASYNCRESULT = {"URL": "redis://localhost:6379/0"}

    For development, and for sites whose tasks may be lost with the process. Results are in the store of the setting
    ``ASYNCRESULT``, where any process finds them. Each task, a coroutine function too, has a thread for itself and
    database connections of its own. When the process ends, tasks that run get ``SHUTDOWN_TIMEOUT`` seconds; those
    that wait, and what still runs then, are FAILED. ``run_after`` and priorities are refused; every queue is the same
    one.

    ``OPTIONS``: ``CONCURRENCY``, tasks that run at a time, by default 10; ``MAX_PENDING``, tasks that may wait, by
    default 1000: then ``enqueue()`` waits; ``SHUTDOWN_TIMEOUT``, by default 10; ``TASK_MODULES`` and
    ``ENQUEUE_ON_COMMIT`` as for :class:`CeleryBackend`.
    """

    known_options: tuple[str, ...] = (*StoringBackend.known_options, "CONCURRENCY", "MAX_PENDING", "SHUTDOWN_TIMEOUT")

    @property
    def store(self) -> Backend:
        """That of the setting ``ASYNCRESULT``."""
        return get_backend()

    def deliver(self, result: Any, document: dict[str, Any]) -> None:
        """Have the executor run it. Waits while ``MAX_PENDING`` tasks wait already."""
        _without_context(run, self._accept(result.id, document))

    async def adeliver(self, result: Any, document: dict[str, Any]) -> None:
        """The same, without blocking the event loop."""
        await asyncio.wrap_future(_without_context(start, self._accept(result.id, document)))

    def _accept(self, id: str, document: dict[str, Any]) -> Callable[[], Coroutine[Any, Any, None]]:
        async def accept() -> None:
            executor = await _executor_of(self)
            await executor.wait_for_capacity()
            executor.options(task_id=id, name=document["task"]).submit(self._perform, id, document)

        return accept

    def _perform(self, id: str, document: dict[str, Any]) -> Any:
        """The work of the executor's task, in its thread."""
        try:
            result = restore(self.alias, id, document, TaskMeta(task_id=id, status=PENDING), self.modules)
            return perform(type(self), result, _WORKER, self.save)
        finally:
            connections.close_all()  # the thread may end, or idle, forever

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:
        """The system checks of this backend."""
        found = super().check(**kwargs)
        if not found and not settings.DEBUG and str(self.store).startswith("memory://"):
            found.append(
                checks.Warning(
                    f"TASKS[{self.alias!r}]: results are in the memory of each process.",
                    hint="With several processes, set ASYNCRESULT = {'URL': 'redis://…'}.",
                    id="asyncresult.W001",
                )
            )
        return found + self._checked(lambda: _make_executor(self), "asyncresult.E009")


_WORKER = f"django@{platform.node()}"

#: With the seconds that its tasks get at the end. By alias and store, because Django makes a backend for each thread
#: and request. Touched on the portal's loop only.
_executors: dict[tuple[str, int], tuple[Executor, float]] = {}


def _without_context(function: Callable[..., Any], *args: Any) -> Any:
    """Call ``function`` without the context variables of the caller.

    asgiref keeps there which thread runs the synchronous parts of a request. A task outlives the request, and would
    look for that thread in vain.
    """
    return contextvars.Context().run(function, *args)


def _make_executor(backend: ExecutorBackend) -> tuple[Executor, float]:
    options = backend.options
    grace = options.get("SHUTDOWN_TIMEOUT", 10)
    executor = Executor(
        backend.store,
        concurrency=options.get("CONCURRENCY", 10),
        max_pending=options.get("MAX_PENDING", 1000),
        cancel_pending=True,
        shutdown_timeout=grace,
    )
    return executor, grace


async def _executor_of(backend: ExecutorBackend) -> Executor:
    place = (backend.alias, id(backend.store))
    if place not in _executors:
        executor, _ = _executors[place] = _make_executor(backend)
        await executor.__aenter__()
    return _executors[place][0]


async def _close_all() -> None:
    executors = list(_executors.values())
    _executors.clear()
    await asyncio.gather(*(_close(executor, grace) for executor, grace in executors))


async def _close(executor: Executor, grace: float) -> None:
    try:
        async with asyncio.timeout(grace):
            await executor.__aexit__(None, None, None)
    except TimeoutError:
        pass  # what still ran is REVOKED


def _at_exit() -> None:
    if _executors:
        run(_close_all)


atexit.register(_at_exit)  # registered after, so called before, that of the portal
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_executors.clear)
