"""Backends for Django's tasks framework."""

from __future__ import annotations

import asyncio
import functools
import uuid
from typing import Any

from django.utils import timezone
from django.utils.asyncio import async_unsafe

from ..._portal import run
from ...backend import Backend
from ...meta import TaskMeta
from ...states import PENDING
from ..celery.app import connect
from ..celery.control import in_thread
from .documents import NAME, describe, restore
from .framework import BaseTaskBackend, TaskResultDoesNotExist, base, signals
from .running import perform
from .settings import celery_app, own_setting

__all__ = ["CeleryBackend", "run_task"]

#: The one Celery task that runs every task of Django's.
TASK = "asyncresult.django.run"


class CeleryBackend(BaseTaskBackend):  # type: ignore[misc]
    """Django's tasks, run by the workers of a Celery app.

    ::

        TASKS = {"default": {
            "BACKEND": "asyncresult.integrations.django.CeleryBackend",
            "OPTIONS": {"CELERY_APP": "shop.celery:app"},
        }}

    ``OPTIONS``: ``CELERY_APP``, by default that of the setting ``ASYNCRESULT``; ``TASK_MODULES``, the names of the
    modules of apps in which tasks are, by default ``["tasks"]``. A queue of Django's is the Celery queue of that name.
    """

    supports_defer = True
    supports_async_task = True
    supports_get_result = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        self.modules: tuple[str, ...] = tuple(self.options.get("TASK_MODULES", ("tasks",)))

    @functools.cached_property
    def app(self) -> Any:
        """The Celery app. Raises ImproperlyConfigured: there is none."""
        return celery_app(self.options.get("CELERY_APP") or own_setting().get("CELERY_APP") or "")

    @functools.cached_property
    def store(self) -> Backend:
        """Where its results are."""
        return connect(self.app)

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Send a task. Raises, as everything that blocks does, SynchronousOnlyOperation in a coroutine."""
        return self._enqueue(task, args, kwargs)

    @async_unsafe("in a coroutine, await aenqueue()")  # type: ignore[untyped-decorator]
    def _enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        result = self._make(task, args, kwargs)
        document = describe(result)
        run(self._announce, result, document)
        self._send(result, document)
        signals.task_enqueued.send(type(self), task_result=result)
        return result

    async def aenqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Send a task, without blocking the event loop."""
        result = self._make(task, args, kwargs)
        document = describe(result)
        await self._announce(result, document)
        await in_thread(lambda: self._send(result, document))
        await signals.task_enqueued.asend(type(self), task_result=result)
        return result

    def _make(self, task: Any, args: Any, kwargs: Any) -> Any:
        self.validate_task(task)
        return base.TaskResult(
            task=task,
            id=str(uuid.uuid4()),
            status=base.TaskResultStatus.READY,
            enqueued_at=timezone.now(),
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )

    async def _announce(self, result: Any, document: Any) -> None:
        """Before it is sent: an id that is not announced is unknown."""
        after = result.task.run_after
        delay = max(0.0, after.timestamp() - timezone.now().timestamp()) if after is not None else 0.0
        expires = self.store.expires
        await self.store.put_beside(result.id, NAME, document, expires=expires + delay if expires is not None else None)

    def _send(self, result: Any, document: Any) -> None:
        # The document travels along: a task may wait in its queue for longer than records are kept.
        queue = result.task.queue_name
        options: dict[str, Any] = {} if queue == base.DEFAULT_TASK_QUEUE_NAME else {"queue": queue}
        if result.task.run_after is not None:
            options["eta"] = result.task.run_after
        self.app.send_task(TASK, (self.alias, result.id, document), task_id=result.id, **options)

    @async_unsafe("in a coroutine, await aget_result()")  # type: ignore[untyped-decorator]
    def get_result(self, result_id: str) -> Any:
        """The result of this id. Raises TaskResultDoesNotExist: no task was sent with it."""
        return run(self.aget_result, result_id)

    async def aget_result(self, result_id: str) -> Any:
        """The result of this id. Raises TaskResultDoesNotExist: no task was sent with it."""
        try:
            document, meta = await asyncio.gather(
                self.store.get_beside(result_id, NAME), self.store.get_meta(result_id)
            )
        except ValueError:  # it cannot be an id
            raise TaskResultDoesNotExist(result_id) from None
        return restore(self.alias, result_id, document, meta, self.modules)

    def save(self, result: Any) -> None:
        """Keep what Django wants beside the record."""
        run(self.store.put_beside, result.id, NAME, describe(result))


def run_task(backend: CeleryBackend, id: str, document: Any, worker: str) -> Any:
    """The work of the Celery task."""
    result = restore(backend.alias, id, document, TaskMeta(task_id=id, status=PENDING), backend.modules)
    return perform(type(backend), result, worker, backend.save)
