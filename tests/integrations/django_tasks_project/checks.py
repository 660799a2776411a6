"""What holds of both backends. Run as a program: Django's settings are for the whole process."""

from __future__ import annotations

import asyncio
import sys
import types
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import django

django.setup()

from django.conf import settings  # noqa: E402 - after Django is set up
from django.contrib.staticfiles import finders  # noqa: E402
from django.core.exceptions import SynchronousOnlyOperation  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.core.management.base import SystemCheckError  # noqa: E402
from django.db import transaction  # noqa: E402
from django.test import override_settings  # noqa: E402
from django.utils import timezone  # noqa: E402

import asyncresult  # noqa: E402
import asyncresult.sync  # noqa: E402
from asyncresult._portal import run  # noqa: E402
from asyncresult.integrations.django import handle, wait  # noqa: E402
from asyncresult.integrations.django.framework import (  # noqa: E402
    TaskResultDoesNotExist,
    base,
    signals,
    task_backends,
)
from tests.integrations.django_tasks_project import tasks  # noqa: E402
from tests.integrations.django_tasks_project.checking import PATIENCE, raised, run_checks  # noqa: E402

EXECUTOR = "Executor" in settings.TASKS["default"]["BACKEND"]


def waited(result: Any) -> Any:
    return asyncio.run(wait(result, PATIENCE))


def enqueue_blocks() -> None:
    sent: list[Any] = []
    signals.task_enqueued.connect(lambda task_result, **_: sent.append(task_result.id), weak=False)
    result = tasks.add.enqueue(2, y=3)
    assert (result.status, result.args, result.kwargs, result.attempts) == ("READY", [2], {"y": 3}, 0)
    assert (result.started_at, result.last_attempted_at, result.finished_at) == (None, None, None)
    assert sent == [result.id] and raised(ValueError, lambda: result.return_value) == "Task has not finished yet"
    assert waited(result) is result
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", 5, 1)
    assert result.enqueued_at <= result.started_at == result.last_attempted_at <= result.finished_at
    found = tasks.add.get_result(result.id)
    assert found == result and found.worker_ids == result.worker_ids and len(found.worker_ids) == 1


def coroutines_do_not_block() -> None:
    async def main() -> None:
        result = await tasks.add_async.aenqueue(2, 3)
        assert (await wait(result, PATIENCE)).return_value == 5
        assert await tasks.add_async.aget_result(result.id) == result
        assert (await wait(result, 0)) is result  # it is over
        assert "aenqueue()" in raised(SynchronousOnlyOperation, tasks.add.enqueue, 1, 2)
        assert "aget_result()" in raised(SynchronousOnlyOperation, tasks.add.get_result, result.id)

    asyncio.run(main())


def failures() -> None:
    async def main() -> None:
        cases = [
            (tasks.fail, KeyError),
            (tasks.refuse, tasks.Refused),
            (tasks.unserializable, TypeError),
            (tasks.leave, SystemExit),
        ]
        for task, kind in cases:
            result = await wait(await task.aenqueue(), PATIENCE)
            assert result.status == "FAILED" and result.errors[0].exception_class is kind
            assert "Traceback" in result.errors[0].traceback and result.finished_at is not None
            assert raised(ValueError, lambda found=result: found.return_value) == "Task failed"
        failed = handle(await tasks.fail.aenqueue())
        assert isinstance((await asyncio.gather(failed, return_exceptions=True))[0], KeyError)

    asyncio.run(main())


def unknown_ids() -> None:
    for id in ("nope", str(uuid.uuid4()), "", "a\nb", "\ud800"):
        raised(TaskResultDoesNotExist, tasks.add.get_result, id)
    result = tasks.add.enqueue(1, 1)
    raised(base.TaskResultMismatch, tasks.attempt.get_result, result.id)
    object.__setattr__(result, "id", str(uuid.uuid4()))
    raised(TaskResultDoesNotExist, waited, result)


def documents_of_others() -> None:
    """Whoever can write to the store can name any task there, and put anything beside a record."""
    lazy = types.ModuleType("lazy")
    vars(lazy)["__getattr__"] = imported = Imported()
    sys.modules["lazy"] = lazy
    backend: Any = task_backends["default"]
    written = backend.enqueue(tasks.add, (1, 2), {})
    assert waited(written).return_value == 3
    document = run(backend.store.get_beside, written.id, "django")
    for changes in (
        {"task": "lazy.part"},
        {"task": "os.system"},
        {"task": 5},
        {"task": "\x1b[2J"},
        {"enqueued_at": 5},
        {"enqueued_at": "x"},
        {"errors": [1]},
        {"errors": 5},
    ):
        id = str(uuid.uuid4())
        run(backend.store.put_beside, id, "django", {**document, **changes})
        text = raised(TaskResultDoesNotExist, backend.get_result, id)
        assert text.isprintable(), text
    id = str(uuid.uuid4())
    run(backend.store.put_beside, id, "django", {"task": document["task"]})
    assert "cannot be read: KeyError" in raised(TaskResultDoesNotExist, backend.get_result, id)
    assert not imported.names
    del sys.modules["lazy"]
    assert backend.get_result(written.id).return_value == 3


class Imported:
    """The ``__getattr__`` of a module."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str) -> Any:
        self.names.append(name)
        raise AttributeError(name)


def arguments_that_do_not_fit() -> None:
    raised(TypeError, tasks.add.enqueue, object(), 1)
    raised(Exception, lambda: tasks.add.using(queue_name="unknown").enqueue(1, 1))
    assert waited(tasks.add.using(queue_name="mail" if EXECUTOR else "default").enqueue(1, 2)).return_value == 3
    raised(Exception, lambda: tasks.add.using(priority=3))


def context() -> None:
    assert waited(tasks.attempt.enqueue(number=4)).return_value == [1, 4]


def later() -> None:
    moment = timezone.now() + timedelta(seconds=1)
    if EXECUTOR:
        assert "run_after" in raised(Exception, lambda: tasks.add.using(run_after=moment))
        return
    result = tasks.add.using(run_after=moment).enqueue(1, 1)
    assert tasks.add.get_result(result.id).task == result.task
    assert waited(result).started_at >= result.task.run_after


def timeouts() -> None:
    result = tasks.sleep.enqueue(1.5)
    raised(TimeoutError, asyncio.run, wait(result, 0.05))
    result.refresh()
    assert not result.is_finished


def many() -> None:
    async def main() -> None:
        results = await asyncio.gather(*(tasks.add.aenqueue(i, i) for i in range(100)))
        assert await asyncio.gather(*map(handle, results)) == [2 * i for i in range(100)]

    asyncio.run(main())


def progress() -> None:
    async def main() -> None:
        result = await tasks.count_slowly.aenqueue(3)
        seen = [meta async for meta in handle(result).updates()]
        assert {"current": 1, "total": 3, "note": "counting"} in [meta.result for meta in seen]
        assert seen[-1].status == "SUCCESS"
        assert (await wait(await tasks.report_once.aenqueue(), PATIENCE)).status == "SUCCESSFUL"

    asyncio.run(main())


def what_is_no_task_result() -> None:
    for given, hint in (("id", "str; of an id, await AsyncResult(id)"), (tasks.add, "Task")):
        text = raised(TypeError, handle, given)
        assert text == f"expected what enqueue() returned, a task result, not {hint}", text
        assert raised(TypeError, lambda: waited(given)) == text  # noqa: B023


def by_id_alone() -> None:
    """The backend of the settings is the default one, for coroutines and for code that blocks."""
    result = tasks.add.enqueue(20, 3)
    assert asyncresult.sync.AsyncResult(result.id).get(timeout=PATIENCE) == 23

    async def main() -> Any:
        return await asyncresult.AsyncResult(result.id)

    assert asyncio.run(main()) == 23


def revoked() -> None:
    async def main() -> None:
        if EXECUTOR:
            results = [await tasks.sleep.aenqueue(0.5) for _ in range(11)]  # more than run at a time
        else:
            results = [await tasks.add.using(run_after=timezone.now() + timedelta(seconds=1)).aenqueue(1, 1)]
        await handle(results[-1]).revoke()
        result = await wait(results[-1], PATIENCE)
        assert result.status == "FAILED" and result.attempts == 0 and "Revoked" in result.errors[0].exception_class_path

    asyncio.run(main())


def a_wait_that_is_given_up() -> None:
    async def main() -> None:
        result = await tasks.sleep.aenqueue(3)
        waiting = asyncio.ensure_future(wait(result, PATIENCE))
        await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
        async with asyncio.timeout(2):  # before the task ends; a thread may still be refreshing the result
            while handle(result).backend.stats().pending:
                await asyncio.sleep(0.01)
        assert (await wait(result, PATIENCE)).status == "SUCCESSFUL"

    asyncio.run(main())


def transactions() -> None:
    task = tasks.add.using(backend="later")
    with transaction.atomic():
        kept = task.enqueue(1, 2)
        raised(TaskResultDoesNotExist, task.get_result, kept.id)
    assert waited(kept).return_value == 3
    try:
        with transaction.atomic():
            dropped = task.enqueue(1, 2)
            raise LookupError
    except LookupError:
        pass
    raised(TaskResultDoesNotExist, task.get_result, dropped.id)
    assert waited(asyncio.run(task.aenqueue(3, 4))).return_value == 7  # outside of a transaction at once


def system_checks() -> None:
    call_command("check", fail_level="WARNING")
    for wrong, id in (
        ("redis://localhost", "E001"),
        ({"URI": "redis://localhost"}, "E002"),
        ({"URL": "mysql://user:s3cret@localhost"}, "E003"),
        ({"URL": "localhost:6379"}, "E003) ASYNCRESULT: a backend's URL has no scheme; known are redis://"),
        ({"CELERY_APP": "nowhere:app"}, "E003"),
        ({}, "E004"),
        ({"AUTHORIZE": "nowhere.may_see"}, "E005"),
        ({"AUTHORIZE": print, "WEB_OPTIONS": {"max_wait": -1}}, "E006"),
    ):
        with override_settings(ASYNCRESULT=wrong):
            text = raised(SystemCheckError, call_command, "check")
            assert f"(asyncresult.{id}" in text and "s3cret" not in text, text
    with override_settings(ASYNCRESULT={"URL": "memory://", "AUTHORIZE": print}):
        found = [message.id for message in task_backends["default"].check()]
        assert found == (["asyncresult.W001"] if EXECUTOR else [])
    backend = task_backends["default"]
    backend.options = {**backend.options, "CONCURENCY": 3}
    try:
        assert [message.id for message in backend.check()] == ["asyncresult.E007"]
    finally:
        del backend.options["CONCURENCY"]


def static_files() -> None:
    with override_settings(INSTALLED_APPS=[*settings.INSTALLED_APPS, "django.contrib.staticfiles"]):
        found = finders.find("asyncresult/task-progress.js")
    assert found and "class TaskProgress" in Path(found).read_text(encoding="utf-8")


CHECKS = [
    *(enqueue_blocks, coroutines_do_not_block, failures, unknown_ids, documents_of_others, arguments_that_do_not_fit),
    *(context, later),
    *(
        timeouts,
        many,
        progress,
        what_is_no_task_result,
        by_id_alone,
        revoked,
        a_wait_that_is_given_up,
        transactions,
        system_checks,
    ),
    static_files,
]


if __name__ == "__main__":
    sys.exit(run_checks(CHECKS))
