"""Django's tasks framework on Celery's workers: what the extra brings is enough to import and check a project."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[:] = [path for path in sys.path if path not in ("", str(Path(__file__).parent))]  # this file is named django

from django.conf import settings

settings.configure(
    INSTALLED_APPS=["asyncresult.integrations.django"],
    CELERY_BROKER_URL=os.environ["REDIS_URL"],
    TASKS={"default": {"BACKEND": "asyncresult.integrations.django.CeleryBackend"}},
)

import django

django.setup()

from asyncresult.integrations.django import CeleryBackend
from asyncresult.integrations.django.framework import task_backends

assert isinstance(task_backends["default"], CeleryBackend)
