"""The Celery task that runs Django's. Celery's ``autodiscover_tasks()`` finds it in INSTALLED_APPS."""

from __future__ import annotations

import importlib.util
from typing import Any

__all__: list[str] = []

# Without Celery this module is imported too: the tasks of all installed apps are looked for.
if importlib.util.find_spec("celery") is not None:
    from celery import shared_task

    from .celery_backend import TASK, run_task
    from .framework import task_backends

    @shared_task(name=TASK, bind=True, track_started=True, ignore_result=False)  # type: ignore[untyped-decorator]
    def run(self: Any, alias: str, id: str, document: Any) -> Any:
        """Run the task ``id`` of the backend ``alias``."""
        return run_task(task_backends[alias], id, document, self.request.hostname)
