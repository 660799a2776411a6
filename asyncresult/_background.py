"""Work that goes on when its caller has gone.

A revocation left behind by a cancelled wait, or a state held up by an outage. Each piece belongs to an owner, a
backend, whose ``aclose()`` waits for it within its bound.
"""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, TypeVar

from ._log import Log, get_logger

__all__ = ["HeldTasks", "call_from_finalizer", "finish", "finish_all", "keep_alive", "log_failure", "start"]

logger: Log = get_logger("asyncresult")

T = TypeVar("T")

#: Turns of the loop that a cancellation takes at most, through the tasks that wait for one another.
TURNS = 10


class HeldTasks:
    """Tasks that nobody else need hold: a loop holds its tasks weakly.

    Those of a loop that was closed under them are let go of when the next loop comes.
    """

    def __init__(self) -> None:
        self._by_loop: dict[asyncio.AbstractEventLoop, set[asyncio.Future[Any]]] = {}

    def add(self, task: asyncio.Task[Any]) -> None:
        loop = task.get_loop()
        tasks = self._by_loop.get(loop)
        if tasks is None:
            for other in list(self._by_loop):
                if other.is_closed():
                    self._by_loop.pop(other, None)
            tasks = self._by_loop[loop] = set()
        tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        tasks = self._by_loop.get(task.get_loop())
        if tasks is not None:
            tasks.discard(task)
            if not tasks:
                self._by_loop.pop(task.get_loop(), None)

    def __contains__(self, future: asyncio.Future[Any]) -> bool:
        return future in self._by_loop.get(future.get_loop(), ())


_held = HeldTasks()
#: Weakly: a task holds its owner.
_tasks: weakref.WeakKeyDictionary[object, weakref.WeakSet[asyncio.Task[Any]]] = weakref.WeakKeyDictionary()


def start(owner: object, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
    """Run ``work`` as a task of the running loop that nobody needs to hold."""
    task = asyncio.get_running_loop().create_task(work, name=f"asyncresult {name}")
    _held.add(task)
    _tasks.setdefault(owner, weakref.WeakSet()).add(task)
    return task


def keep_alive(work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
    """Run ``work`` as a task of the running loop that may last as long as its backend.

    In an empty context: it outlives the request that happened to start it, and must not keep that request's context
    variables, or a cancel scope of its task, alive. A backend that is dropped, or a loop that is closed, without
    ``aclose()`` destroys it while it waits: asyncio need not complain about the task, as the backend itself does.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work, name=f"asyncresult {name}", context=contextvars.Context())
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    return task


async def finish(owner: object, timeout: float) -> None:
    """Give the owner's work on this loop ``timeout`` seconds; cancel what is left of it then.

    What was cancelled just before, and is about to leave work behind, may do so first.
    """
    for _ in range(TURNS):
        await asyncio.sleep(0)
    await _finish(_tasks.get(owner, ()), timeout)


async def finish_all(timeout: float) -> None:
    """As :func:`finish`, for the work of all owners."""
    await _finish([task for tasks in _tasks.values() for task in tasks], timeout)


async def _finish(all_tasks: Collection[asyncio.Task[Any]], timeout: float) -> None:
    here = asyncio.get_running_loop()
    tasks = [task for task in all_tasks if task.get_loop() is here and not task.done()]
    if not tasks:
        return
    try:
        await asyncio.wait(tasks, timeout=timeout)
    finally:
        for task in tasks:
            task.cancel()


def call_from_finalizer(loop: asyncio.AbstractEventLoop, fn: Callable[[], object]) -> None:
    """Have ``loop`` call ``fn`` soon, unless it is closed.

    The collector may run a finalizer on any thread and at any time, so this takes no lock. A loop is woken from another
    thread by one byte to itself, as asyncio does it for generators that were dropped.
    """
    try:
        if asyncio._get_running_loop() is loop:
            loop.call_soon(fn)
        else:
            loop.call_soon_threadsafe(fn)
    except RuntimeError:  # it is closed
        pass


def log_failure(future: asyncio.Future[Any], what: str, about: Mapping[str, str]) -> None:
    """As a done callback: log that ``what`` failed, if it did.

    Args:
        about: The extra fields of the line.
    """
    if not future.cancelled() and (error := future.exception()) is not None:
        logger.warning("%s: %s", what, error, extra=about)
