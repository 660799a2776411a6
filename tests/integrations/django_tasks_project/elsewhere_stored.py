"""Celery tasks whose results are not in Redis. Run as a program: Django's settings are for the whole process."""

from __future__ import annotations

import asyncio
import sys
import uuid

import django

django.setup()

from django.core.management import call_command  # noqa: E402 - after Django is set up

from asyncresult.integrations.django import handle, wait  # noqa: E402
from asyncresult.integrations.django.framework import TaskResultDoesNotExist  # noqa: E402
from tests.integrations.django_tasks_project import tasks  # noqa: E402
from tests.integrations.django_tasks_project.checking import PATIENCE, run_checks  # noqa: E402


def waited_and_found() -> None:
    async def main() -> None:
        good, bad = await tasks.add.aenqueue(2, 3), await tasks.fail.aenqueue()
        assert await handle(good).get(timeout=PATIENCE) == 5
        assert (await wait(good, PATIENCE)).return_value == 5
        failed = await wait(bad, PATIENCE)
        assert (failed.status, failed.errors[0].exception_class) == ("FAILED", KeyError)
        found = await tasks.add.aget_result(good.id)
        assert (found.return_value, found.args) == (5, [2, 3])

    asyncio.run(main())


def waited_for_blocking() -> None:
    result = tasks.add.enqueue(1, 1)
    assert asyncio.run(wait(result, PATIENCE)).return_value == 2


def unknown_ids() -> None:
    try:
        tasks.add.get_result(str(uuid.uuid4()))
    except TaskResultDoesNotExist:
        return
    raise AssertionError("nobody has enqueued it")


if __name__ == "__main__":
    if "migrate" in sys.argv:
        call_command("migrate", verbosity=0)
    else:
        sys.exit(run_checks([waited_and_found, waited_for_blocking, unknown_ids]))
