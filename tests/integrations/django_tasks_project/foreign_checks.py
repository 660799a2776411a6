"""Awaiting results of backends that are not ours. Run as a program: Django's settings are for the whole process."""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import django

django.setup()

from asyncresult.integrations.django import handle, wait  # noqa: E402 - after Django is set up
from asyncresult.integrations.django.framework import TaskResultDoesNotExist, base, task_backends  # noqa: E402
from tests.integrations.django_tasks_project import tasks  # noqa: E402
from tests.integrations.django_tasks_project.checking import PATIENCE, raised, run_checks  # noqa: E402
from tests.integrations.django_tasks_project.elsewhere import ElsewhereBackend  # noqa: E402

add = tasks.add.using(backend="elsewhere")


def one_reader_for_many() -> None:
    async def main() -> None:
        results = [add.enqueue(i, i) for i in range(50)]
        waits = [asyncio.ensure_future(wait(result, PATIENCE)) for result in results[1:]]
        first = asyncio.ensure_future(handle(results[0]).get(timeout=PATIENCE))
        await asyncio.sleep(0.2)
        ElsewhereBackend.reads.clear()
        begun = time.monotonic()
        await asyncio.sleep(1.0)
        # Read by one thread, and by no more than a request to each every 50 ms.
        reads, seconds = list(ElsewhereBackend.reads), time.monotonic() - begun
        assert reads and {name for name, _ in reads} == {"asyncresult reader 0"}
        assert len(reads) <= 50 * (seconds / 0.05 + 1), len(reads)
        for number, result in enumerate(results):
            ElsewhereBackend.end(result.id, number)
        assert await first == 0
        ended = await asyncio.gather(*waits)
        assert [result.return_value for result in ended] == list(range(1, 50))

    asyncio.run(main())


def failures() -> None:
    async def main() -> None:
        result = add.enqueue(1, 1)
        ElsewhereBackend.end(result.id, error="KeyError: 'k'")
        caught = (await asyncio.gather(handle(result), return_exceptions=True))[0]
        assert isinstance(caught, KeyError) and caught.args == ("'k'",), caught
        assert (await wait(result, PATIENCE)).status == "FAILED"
        caught = (await asyncio.gather(handle(result), return_exceptions=True))[0]  # it is finished now
        assert isinstance(caught, KeyError)

    asyncio.run(main())


def unknown_ids() -> None:
    async def main() -> None:
        lost, other = add.enqueue(1, 1), add.enqueue(1, 1)
        waiting = asyncio.ensure_future(wait(other, PATIENCE))
        del ElsewhereBackend.results[lost.id]
        caught = await asyncio.gather(wait(lost, PATIENCE), handle(lost).get(timeout=PATIENCE), return_exceptions=True)
        assert [type(error) for error in caught] == [TaskResultDoesNotExist] * 2
        ElsewhereBackend.end(other.id, 5)  # one that is lost ends no other wait
        assert (await waiting).return_value == 5

    asyncio.run(main())


def an_outage_is_waited_out() -> None:
    async def main() -> None:
        result = add.enqueue(1, 1)
        waiting = asyncio.ensure_future(handle(result).get(timeout=PATIENCE))
        await asyncio.sleep(0.1)
        ElsewhereBackend.outage = True
        store = handle(result).backend
        while store.stats().last_error is None:
            await asyncio.sleep(0.02)
        ElsewhereBackend.outage = False
        ElsewhereBackend.end(result.id, 6)
        assert await waiting == 6

    asyncio.run(main())


def immediate_and_dummy() -> None:
    async def main() -> None:
        result = await wait(await tasks.add.using(backend="immediate").aenqueue(2, 3))
        assert result.return_value == 5 and await handle(result) == 5
        assert (await wait(tasks.fail.using(backend="immediate").enqueue())).status == "FAILED"
        task = tasks.add.using(backend="dummy")
        result = await task.aenqueue(2, 3)
        waiting = asyncio.ensure_future(wait(result, PATIENCE))
        await asyncio.sleep(0.1)
        (kept,) = task_backends["dummy"].results
        object.__setattr__(kept, "_return_value", 7)
        object.__setattr__(kept, "status", base.TaskResultStatus.SUCCESSFUL)
        assert (await waiting).return_value == 7

    task_backends["dummy"]  # of this context, as Django makes one for each
    asyncio.run(main())
    object.__setattr__(result := add.enqueue(1, 1), "task", tasks.add.using(backend="immediate"))
    assert "refreshed nor waited for" in raised(NotImplementedError, handle, result)


def no_thread_stays() -> None:
    deadline = time.monotonic() + PATIENCE
    while any("reader" in thread.name for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


CHECKS = [one_reader_for_many, failures, unknown_ids, an_outage_is_waited_out, immediate_and_dummy, no_thread_stays]

if __name__ == "__main__":
    sys.exit(run_checks(CHECKS))
