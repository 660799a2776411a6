from __future__ import annotations

import os

SECRET_KEY = "only for tests"
USE_TZ = True
INSTALLED_APPS = ["asyncresult.integrations.django", "tests.integrations.django_tasks_project"]
CELERY_BROKER_URL = CELERY_RESULT_BACKEND = os.environ["DJANGO_RESULTS"]
TASKS = {
    "default": {
        "BACKEND": "asyncresult.integrations.django.CeleryBackend",
        "OPTIONS": {"CELERY_APP": "tests.integrations.django_tasks_project.celery:app"},
    }
}
