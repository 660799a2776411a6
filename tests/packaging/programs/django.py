"""Django's tasks framework, run in the process: what the extra brings is enough, and Celery is not needed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from support import absent

# Programs beside this one are named celery and django, too.
sys.path[:] = [path for path in sys.path if path not in ("", str(Path(__file__).parent))]
absent("celery", "kombu")

from django.conf import settings

settings.configure(
    INSTALLED_APPS=["asyncresult.integrations.django"],
    ASYNCRESULT={"URL": os.environ["REDIS_URL"]},
    TASKS={"default": {"BACKEND": "asyncresult.integrations.django.ExecutorBackend"}},
    USE_TZ=True,
)

import django

django.setup()

import asyncio

from django.core.management import call_command

from asyncresult.integrations.django import ExecutorBackend, wait
from asyncresult.integrations.django.framework import base, task_backends

call_command("check")
assert isinstance(task_backends["default"], ExecutorBackend)


@base.task
def add(x: int, y: int) -> int:
    return x + y


assert asyncio.run(wait(add.enqueue(2, 3), 30)).return_value == 5
