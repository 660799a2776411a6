"""Django's tasks, with results that can be awaited: ``await wait(await send.aenqueue("a@b.c"))``.

* :class:`CeleryBackend`, :class:`ExecutorBackend`: backends for the setting ``TASKS``.
* :func:`wait`, :func:`handle`: awaiting a task result, of these backends and of any other.
* :func:`report_progress`: how far a task is, from its own code.
* :func:`get_backend`: the backend that the setting ``ASYNCRESULT`` names.
* :func:`shared_task`: Celery's, with types, for tasks whose results can be awaited.

Theory of operation
===================

A task's record is Celery's, under the id of Django's task result. What Django wants besides (the task's path, its
arguments, times, attempts, errors) is in a document beside the record (:mod:`.documents`), written before the task
is sent: so an unknown id differs from one that waits, and a worker, which writes records only, cannot erase it.

With ``"asyncresult.integrations.django"`` in ``INSTALLED_APPS`` the backend of the settings is also the one that
``AsyncResult(id)`` means where no other one is entered; there are system checks, ``manage.py asyncresult``, a template
tag, and URLs (:mod:`.urls`). Nothing here imports Celery before something of Celery's is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .celery_backend import CeleryBackend
    from .executor_backend import ExecutorBackend
    from .running import report_progress
    from .settings import get_backend
    from .shared import shared_task
    from .waiting import handle, wait

__all__ = ["CeleryBackend", "ExecutorBackend", "get_backend", "handle", "report_progress", "shared_task", "wait"]

_HOMES = {
    "CeleryBackend": "celery_backend",
    "ExecutorBackend": "executor_backend",
    "get_backend": "settings",
    "handle": "waiting",
    "report_progress": "running",
    "shared_task": "shared",
    "wait": "waiting",
}


def __getattr__(name: str) -> Any:
    """Imported when it is used: settings and models have to be there for some, Celery for others."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
