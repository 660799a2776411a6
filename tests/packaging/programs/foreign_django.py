"""Tasks of Django backends that are not ours: django-tasks-db and django-tasks-rq, with a worker of each."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import textwrap
from pathlib import Path

from support import REDIS_URL, background, output

SITE = Path.cwd() / "site"
SITE.mkdir()
(SITE / "settings.py").write_text(
    textwrap.dedent(f"""\
    SECRET_KEY = "for tests"
    INSTALLED_APPS = ["django_tasks", "django_tasks_db", "django_rq", "django_tasks_rq"]
    INSTALLED_APPS += ["asyncresult.integrations.django"]
    DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": {str(SITE / "db")!r}}}}}
    TASKS = {{
        "default": {{"BACKEND": "django_tasks_db.DatabaseBackend"}},
        "rq": {{"BACKEND": "django_tasks_rq.RQBackend", "QUEUES": ["default"]}},
    }}
    RQ_QUEUES = {{"default": {{"URL": {REDIS_URL!r}}}}}
    ASYNCRESULT = {{"URL": {REDIS_URL!r}}}
    USE_TZ = True
    """)
)
(SITE / "shop.py").write_text(
    textwrap.dedent("""\
    from django_tasks import task

    @task
    def divide(x: int, y: int) -> float:
        return x / y
    """)
)
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
sys.path.insert(0, str(SITE))
# Programs beside this one are named django, too.
sys.path[:] = [path for path in sys.path if path not in ("", str(Path(__file__).parent))]

import django

django.setup()

from asyncresult.integrations.django import handle, wait


async def awaited(alias: str) -> None:
    task = importlib.import_module("shop").divide.using(backend=alias)
    good, bad = await task.aenqueue(6, 3), await task.aenqueue(1, 0)
    assert await handle(good).get(timeout=60) == 2.0
    assert (await wait(good, 60)).return_value == 2.0
    assert (await wait(bad, 60)).status == "FAILED"
    try:
        await handle(bad).get(timeout=60)
    except ZeroDivisionError as error:
        print(alias, "raised", repr(error))
    else:
        raise AssertionError("it had failed")


output("-m", "django", "migrate", directory=SITE)
with background("-m", "django", "db_worker", directory=SITE):
    asyncio.run(awaited("default"))
with background("-m", "django", "rqworker", "--job-class", "django_tasks_rq.Job", directory=SITE):
    asyncio.run(awaited("rq"))
