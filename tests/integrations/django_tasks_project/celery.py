from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.integrations.django_tasks_project.settings")

app = Celery("django_tasks_project")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
