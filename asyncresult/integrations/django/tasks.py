"""The Celery task that runs Django's. Celery's ``autodiscover_tasks()`` finds it in INSTALLED_APPS."""

from __future__ import annotations

from typing import Any

from celery import shared_task

from .backends import TASK, run_task
from .framework import task_backends

__all__ = ["run"]


@shared_task(name=TASK, bind=True, track_started=True, ignore_result=False)  # type: ignore[untyped-decorator]
def run(self: Any, alias: str, id: str, document: Any) -> Any:
    """Run the task ``id`` of the backend ``alias``."""
    return run_task(task_backends[alias], id, document, self.request.hostname)
