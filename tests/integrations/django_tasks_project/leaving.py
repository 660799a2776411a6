"""A process that ends while tasks of its executor run and wait. It prints their ids."""

from __future__ import annotations

import sys
import time

import django

django.setup()

from tests.integrations.django_tasks_project import tasks  # noqa: E402 - after Django is set up

if __name__ == "__main__":
    # Ten run at a time: one that ends in the time that is left, nine that do not, and one that waits.
    results = [tasks.sleep.enqueue(seconds) for seconds in (0.3, *[3600] * 9, 0)]
    while not results[-2].worker_ids:
        results[-2].refresh()
        time.sleep(0.01)
    sys.stdout.write(" ".join(result.id for result in results))
