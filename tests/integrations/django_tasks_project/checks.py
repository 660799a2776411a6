"""What holds of the backend, beside a worker. Run as a program: Django's settings are for the whole process."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from typing import Any

import django

django.setup()

from django.core.exceptions import SynchronousOnlyOperation  # noqa: E402 - after Django is set up
from django.utils import timezone  # noqa: E402

from asyncresult.integrations.django import handle, wait  # noqa: E402
from asyncresult.integrations.django.framework import TaskResultDoesNotExist, signals  # noqa: E402
from tests.integrations.django_tasks_project import tasks  # noqa: E402


def raised(kind: type[BaseException], call: Any, *args: Any) -> str:
    try:
        call(*args)
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


def enqueue_blocks() -> None:
    sent: list[Any] = []
    signals.task_enqueued.connect(lambda task_result, **_: sent.append(task_result.id), weak=False)
    result = tasks.add.enqueue(2, 3)
    assert (result.status, result.args, result.attempts) == ("READY", [2, 3], 0) and sent == [result.id]
    assert raised(ValueError, lambda: result.return_value) == "Task has not finished yet"
    assert asyncio.run(wait(result, 20)) is result
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", 5, 1)
    assert result.enqueued_at <= result.started_at <= result.finished_at
    assert tasks.add.get_result(result.id) == result


def failures() -> None:
    async def main() -> None:
        for task, kind in ((tasks.fail, KeyError), (tasks.unserializable, TypeError), (tasks.leave, SystemExit)):
            result = await wait(await task.aenqueue(), 20)
            assert result.status == "FAILED" and result.errors[0].exception_class is kind
            assert "Traceback" in result.errors[0].traceback
            assert raised(ValueError, lambda found=result: found.return_value) == "Task failed"

    asyncio.run(main())


def unknown_ids() -> None:
    for id in ("nope", "", "a\nb", "\ud800"):
        raised(TaskResultDoesNotExist, tasks.add.get_result, id)


def unserializable_arguments() -> None:
    raised(TypeError, tasks.add.enqueue, object(), 1)


def context() -> None:
    assert asyncio.run(wait(tasks.attempt.enqueue(number=4), 20)).return_value == [1, 4]


def later() -> None:
    result = tasks.add.using(run_after=timezone.now() + timedelta(seconds=1)).enqueue(1, 1)
    assert tasks.add.get_result(result.id).task == result.task
    assert asyncio.run(wait(result, 20)).started_at >= result.task.run_after


def timeouts() -> None:
    result = tasks.add.using(run_after=timezone.now() + timedelta(hours=1)).enqueue(1, 1)
    raised(TimeoutError, asyncio.run, wait(result, 0.05))


def many() -> None:
    async def main() -> None:
        results = await asyncio.gather(*(tasks.add.aenqueue(i, i) for i in range(50)))
        assert await asyncio.gather(*map(handle, results)) == [2 * i for i in range(50)]

    asyncio.run(main())


def coroutines() -> None:
    async def main() -> None:
        assert "aenqueue()" in raised(SynchronousOnlyOperation, tasks.add.enqueue, 1, 2)

    asyncio.run(main())


if __name__ == "__main__":
    globals()[sys.argv[1]]()
