"""Celery's ``shared_task``, with types: here too, because Django's apps use it."""

from __future__ import annotations

from ..celery.tasks import shared_task

__all__ = ["shared_task"]
