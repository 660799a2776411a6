"""Coroutine functions as tasks of a stock worker.

A worker calls a task's ``run`` and stores what it returns. Where ``run`` is a coroutine function it is
wrapped: the coroutine runs on the one event loop of the process (:mod:`.._portal`, the loop of the blocking
facade), and the worker's thread waits for it. An exception that a signal handler raises there (a soft time
limit) cancels the coroutine.

Celery keeps "which task am I" for each thread, and on the loop's thread many tasks take turns. So here it is
a context variable: a task's ``request`` looks there first, and who sends from a coroutine is put on Celery's
stack for as long as the sending takes.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, ParamSpec, TypeVar

from celery._state import _task_stack, get_current_task
from celery.app.base import pydantic_wrapper

from ... import _portal

__all__ = ["Running", "as_child", "running_task", "wrap_coroutine_function"]

P = ParamSpec("P")
R = TypeVar("R")


class Running(NamedTuple):
    """A task at work, and what was requested of it."""

    task: Any
    request: Any


_running: ContextVar[Running | None] = ContextVar("asyncresult_celery_task", default=None)

#: The task whose coroutine runs here, on the event loop of a worker process; or None.
running_task: Callable[[], Running | None] = _running.get


def wrap_coroutine_function(cls: Any, run: Any) -> None:
    """Set ``cls.run`` to a function that a worker can call, if ``run`` is a coroutine function, or wraps one."""
    body = run.__func__ if isinstance(run, staticmethod) else run
    if inspect.iscoroutinefunction(body):
        blocking = _blocking(body)
    elif not callable(body) or not inspect.iscoroutinefunction(inspect.unwrap(body)):
        return
    elif getattr(body, "__globals__", {}).get("__name__") == pydantic_wrapper.__module__:
        _block_inside_pydantic(body)
        return
    else:
        blocking = _blocking_if_awaitable(body)
    cls.run = staticmethod(blocking) if isinstance(run, staticmethod) else blocking


def _blocking(body: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    @functools.wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return _run(lambda: body(*args, **kwargs))

    return run


def _blocking_if_awaitable(body: Callable[P, Any]) -> Callable[P, Any]:
    """For a decorated coroutine function: the decorator may hand its coroutine on, or may have run it."""

    @functools.wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> Any:
        outcome = body(*args, **kwargs)
        return _run(lambda: outcome) if inspect.iscoroutine(outcome) else outcome

    return run


def _block_inside_pydantic(wrapper: Any) -> None:
    """Exchange the function that Celery's wrapper for ``pydantic=True`` calls: it has to see the value, to dump it.

    Source: celery/app/base.py (5.5 to 5.7), pydantic_wrapper.

    Raises:
        TypeError: Celery's wrapper is not as it was.
    """
    cells = dict(zip(wrapper.__code__.co_freevars, wrapper.__closure__ or (), strict=True))
    if "task_fun" not in cells:
        raise TypeError("with this version of Celery, pydantic=True does not work with coroutine functions")
    cells["task_fun"].cell_contents = _blocking(cells["task_fun"].cell_contents)


def _run(call: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """Await ``call()`` on the portal's loop, as the task that this thread runs.

    Raises:
        concurrent.futures.CancelledError: It ended in asyncio's CancelledError, which is no Exception: the worker
            would store nothing, and take its process for broken.
    """
    task = get_current_task()
    running = Running(task, task.request) if task is not None else None

    async def begin() -> R:
        _running.set(running)
        try:
            return await call()
        except asyncio.CancelledError as error:
            # If it was cancelled from outside, by a soft time limit, nobody waits here any more.
            raise CancelledError(*error.args) from error

    if running is not None and running.request.is_eager:
        # Where it was sent from a coroutine, that event loop is blocked meanwhile, as with any eager task.
        return _portal.start(begin).result()
    return _portal.run(begin)


@contextmanager
def as_child() -> Generator[None]:
    """Let Celery know, in this thread, which task's coroutine sends: it becomes the parent."""
    running = _running.get()
    if running is None or get_current_task() is running.task:
        yield
        return
    _task_stack.push(running.task)
    try:
        yield
    finally:
        _task_stack.pop()
