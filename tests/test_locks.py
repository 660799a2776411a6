"""A child of fork finds no lock taken by a thread that there is not any more."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import celery
import pytest
from celery.app.base import PendingConfiguration

import asyncresult
from asyncresult import Backend
from asyncresult._locks import ProcessLock
from asyncresult._storage import current
from asyncresult.integrations.celery import connect


@pytest.fixture
def thread() -> Generator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as thread:
        yield thread


def in_a_child(work: Callable[[], object]) -> int:
    """The exit code of a child that does this: 0, or less if it was ended because it never would."""
    child = os.fork()
    if not child:
        signal.alarm(20)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def stores_and_waits(backend: Backend) -> None:
    async with backend:
        await backend.mark_as_done("t", 1)
        assert await backend.result("t") == 1


memory = asyncresult.connect("memory://")
app = celery.Celery(broker="memory://", backend="redis://127.0.0.1:1", set_as_current=False)

#: What is held, and what the child does.
HELD: dict[str, tuple[Callable[[], Any], Callable[[], object]]] = {
    "the current backends": (lambda: current._lock(), lambda: asyncio.run(stores_and_waits(memory))),
    "records in memory": (
        lambda: cast(Any, memory.driver).records._lock,
        lambda: asyncio.run(stores_and_waits(memory)),
    ),
    "an app's configuration": (lambda: vars(PendingConfiguration)["data"].lock, lambda: connect(app)),
    "an app's tasks": (lambda: cast(Any, app)._finalize_mutex, lambda: app.tasks),
}


@pytest.mark.parametrize("held", HELD)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_another_thread_was_inside(thread: ThreadPoolExecutor, held: str) -> None:
    lock_of, work = HELD[held]
    lock = lock_of()
    assert thread.submit(lock.acquire).result()
    try:
        assert in_a_child(work) == 0
        assert lock_of() is lock, "the parent's is as it was"
    finally:
        thread.submit(lock.release).result()


def test_a_fork_inside_of_the_lock() -> None:
    """Both sides leave the block."""
    lock = ProcessLock()

    def leaves_and_enters() -> None:
        held.__exit__(None, None, None)
        with lock():
            pass

    held = lock()
    with held:
        held.acquire()
        assert in_a_child(leaves_and_enters) == 0
        held.release()
