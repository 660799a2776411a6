"""A backend for Django's tasks framework whose tasks are run by the workers of a Celery app."""

from __future__ import annotations

import functools
from typing import Any

from django.core import checks

from ...backend import Backend
from ...meta import TaskMeta
from ...states import PENDING
from ..celery.app import connect
from ..celery.control import in_thread
from .base import StoringBackend
from .documents import restore
from .framework import base
from .running import perform
from .settings import celery_app, get_backend, is_url, own_setting, place_of_results

__all__ = ["TASK", "CeleryBackend", "run_task"]

#: The one Celery task that runs every task of Django's.
TASK = "asyncresult.django.run"


class CeleryBackend(StoringBackend):
    """Django's tasks, run by the workers of a Celery app.

    ::

        TASKS = {"default": {
            "BACKEND": "asyncresult.integrations.django.CeleryBackend",
            "OPTIONS": {"CELERY_APP": "shop.celery:app"},
        }}

    A queue of Django's is the Celery queue of that name; Django's ``default`` is the app's own default. ``run_after``
    becomes Celery's ``eta``. Priorities are refused: what a number means depends on the broker.

    ``OPTIONS``: ``CELERY_APP``, by default that of the setting ``ASYNCRESULT``; ``TASK_MODULES``, the names of the
    modules of apps in which tasks are, by default ``["tasks"]``; ``ENQUEUE_ON_COMMIT``, whether a task that is enqueued
    in a transaction is sent when that is committed, by default ``False``. Until then there is no result of its id.
    """

    supports_defer = True
    known_options: tuple[str, ...] = (*StoringBackend.known_options, "CELERY_APP")

    @functools.cached_property
    def app(self) -> Any:
        """The Celery app. Raises ImproperlyConfigured: there is none."""
        return celery_app(self.options.get("CELERY_APP") or own_setting().get("CELERY_APP") or "")

    @functools.cached_property
    def store(self) -> Backend:
        """Where the app's workers store results."""
        place = place_of_results()
        if place is not None and not is_url(place) and celery_app(place) is self.app:
            return get_backend()  # with its OPTIONS
        return connect(self.app)

    def deliver(self, result: Any, document: dict[str, Any]) -> None:
        """Send the Celery task. The document travels along: records are not kept forever, messages may be late."""
        queue = result.task.queue_name
        options: dict[str, Any] = {} if queue == base.DEFAULT_TASK_QUEUE_NAME else {"queue": queue}
        if result.task.run_after is not None:
            options["eta"] = result.task.run_after
        self.app.send_task(TASK, (self.alias, result.id, document), task_id=result.id, **options)

    async def adeliver(self, result: Any, document: dict[str, Any]) -> None:
        """The same, in a thread."""
        await in_thread(lambda: self.deliver(result, document))

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:
        """The system checks of this backend."""
        found = super().check(**kwargs)
        if not found and getattr(self.store, "options", None) is None:
            found.append(
                checks.Warning(
                    f"TASKS[{self.alias!r}]: the result backend of {self.app!r} keeps Celery's records only.",
                    hint="Results are found in the process that enqueued the task only, without times and attempts."
                    " Keep them in Redis.",
                    id="asyncresult.W002",
                )
            )
        return found


def run_task(backend: CeleryBackend, id: str, document: Any, worker: str) -> Any:
    """The work of the Celery task."""
    result = restore(backend.alias, id, document, TaskMeta(task_id=id, status=PENDING), backend.modules)
    return perform(type(backend), result, worker, backend.save)
