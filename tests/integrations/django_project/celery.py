"""The project's Celery app, as Celery's documentation writes it, with one line more: ``task_cls``."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.integrations.django_project.settings")

app = Celery("django_project", task_cls="asyncresult.integrations.celery:Task")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["tests.integrations.django_project"])
