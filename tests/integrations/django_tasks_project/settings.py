from __future__ import annotations

import os
from typing import Any

import django

SECRET_KEY = "only for tests"
DEBUG = False
USE_TZ = True
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["asyncresult.integrations.django", "tests.integrations.django_tasks_project"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DJANGO_DATABASE"]}}
CELERY_BROKER_URL = os.environ["DJANGO_RESULTS"]
CELERY_RESULT_BACKEND = os.environ.get("DJANGO_RESULT_BACKEND", CELERY_BROKER_URL)
if CELERY_RESULT_BACKEND == "django-db":
    INSTALLED_APPS.append("django_celery_results")
ASYNCRESULT: dict[str, Any] = {
    "URL": os.environ["DJANGO_RESULTS"],
    "AUTHORIZE": "tests.integrations.django_tasks_project.views.may_see",
    "WEB_OPTIONS": {"revoke": True},
}
ROOT_URLCONF = "tests.integrations.django_tasks_project.urls"
MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware", "django.middleware.csrf.CsrfViewMiddleware"]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]

OURS = "asyncresult.integrations.django."
CHOICES: dict[str, dict[str, Any]] = {
    "celery": {
        "BACKEND": f"{OURS}CeleryBackend",
        "OPTIONS": {"CELERY_APP": "tests.integrations.django_tasks_project.celery:app"},
    },
    "executor": {"BACKEND": f"{OURS}ExecutorBackend", "OPTIONS": {"SHUTDOWN_TIMEOUT": 0.5}},
}
FRAMEWORK = "django.tasks" if django.VERSION >= (6,) else "django_tasks"
_chosen = CHOICES[os.environ["DJANGO_TASKS_BACKEND"]]
TASKS = {
    "default": {**_chosen, "QUEUES": ["default", "mail"]},
    "later": {**_chosen, "OPTIONS": {**_chosen["OPTIONS"], "ENQUEUE_ON_COMMIT": True}},
    "immediate": {"BACKEND": f"{FRAMEWORK}.backends.immediate.ImmediateBackend"},
    "dummy": {"BACKEND": f"{FRAMEWORK}.backends.dummy.DummyBackend"},
    "elsewhere": {"BACKEND": "tests.integrations.django_tasks_project.elsewhere.ElsewhereBackend"},
}
