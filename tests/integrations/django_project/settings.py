"""As small as can be. The servers come from the environment."""

from __future__ import annotations

import os

SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.integrations.django_project.urls"
INSTALLED_APPS: list[str] = []
USE_TZ = True

CELERY_BROKER_URL = os.environ["DJANGO_BROKER"]
CELERY_RESULT_BACKEND = os.environ["DJANGO_RESULTS"]
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
