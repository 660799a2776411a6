"""Django's tasks framework: ``django.tasks`` from Django 6.0 on, the package ``django_tasks`` before."""

from __future__ import annotations

try:
    from django.tasks import base, signals, task_backends
    from django.tasks.backends.base import BaseTaskBackend
    from django.tasks.exceptions import TaskResultDoesNotExist
    from django.utils.json import normalize_json
except ImportError:
    from django_tasks import base, signals, task_backends
    from django_tasks.backends.base import BaseTaskBackend
    from django_tasks.exceptions import TaskResultDoesNotExist
    from django_tasks.utils import normalize_json

__all__ = ["BaseTaskBackend", "TaskResultDoesNotExist", "base", "normalize_json", "signals", "task_backends"]
