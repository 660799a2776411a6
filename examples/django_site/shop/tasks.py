import time
from typing import Any

from asyncresult.integrations.django import report_progress

try:
    from django.tasks import task  # Django 6.0 and later
except ImportError:
    from django_tasks import task


@task
def resize(pictures: int) -> str:
    for done in range(pictures):
        report_progress(done, pictures, note="resizing")
        time.sleep(0.05)
    return f"{pictures} pictures"


@task
def fail(reason: str) -> Any:
    raise ValueError(reason)
