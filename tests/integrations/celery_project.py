"""A Celery application for the tests of the Celery integration, and its worker's tasks.

Its own tasks have asyncresult's Task as their base; those of ``tests.tools.celery_app`` are here too.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from celery import Celery
from pydantic import BaseModel

import tests.tools.celery_app  # noqa: F401 - registers its shared tasks with every app
from asyncresult import _portal
from asyncresult.integrations.celery import task
from tests.tools.celery_app import CONFIG_VARIABLE, close_app

__all__ = ["client", "in_thread", "make_project"]

T = TypeVar("T")


@dataclass
class Report:
    """What a task with ``convert=True`` returns."""

    name: str
    sizes: tuple[int, int]


class Order(BaseModel):
    """What a task with ``pydantic=True`` takes, as a dict in the message."""

    items: list[str]


class Receipt(BaseModel):
    """What it returns, as a dict in the record."""

    count: int


def make_project(**config: Any) -> Celery:
    """The application, with these settings. A client makes it with :func:`client`."""
    project = Celery("project", set_as_current=False, task_cls="asyncresult.integrations.celery:Task")
    project.conf.update(
        broker_connection_retry_on_startup=True,
        broker_heartbeat=None,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        task_allow_error_cb_on_chord_header=True,
        **config,
    )
    _declare(project)
    return project


@contextmanager
def client(**config: Any) -> Generator[Celery]:
    """The client's side of it; nothing of it is left in the end."""
    project = make_project(**config)
    try:
        yield project
    finally:
        if (replies := getattr(project, "_asyncresult_replies", None)) is not None:
            replies.close()
        if (sender := getattr(project, "_asyncresult_sender", None)) is not None:
            sender.client.connection_pool.disconnect()
        close_app(project)
        _portal.stop()  # on whose loop the plug-in's connections are


async def in_thread(project: Celery, function: Callable[[], T]) -> T:
    """Call blocking code of Celery's in a thread, and close what Celery has opened for that thread."""

    def call() -> T:
        try:
            return function()
        finally:
            backend = project.backend
            if not backend.thread_safe:
                # Results that end up as garbage would unsubscribe, and connect once more for that.
                backend.remove_pending_result = lambda result: result
                backend.result_consumer.stop()
                backend.client.connection_pool.disconnect()

    return await asyncio.to_thread(call)


def _declare(project: Celery) -> None:
    @project.task(shared=False, name="project.add")
    def add(x: int, y: int) -> int:
        return x + y

    @project.task(shared=False, name="project.total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @project.task(shared=False, name="project.boom")
    def boom(*args: object) -> None:
        raise ValueError("boom")

    @project.task(shared=False, name="project.note")
    def note(*args: object, key: str) -> str:
        """An errback, and a link: leaves a note as a result of a known id."""
        project.backend.store_result(key, len(args), "SUCCESS")
        return key

    @project.task(shared=False, name="project.sleep")
    def sleep(seconds: float) -> str:
        time.sleep(seconds)
        return "slept"

    @project.task(shared=False, name="project.returns_handle")
    def returns_handle() -> Any:
        return add.delay(1, 1)

    @project.task(shared=False, name="project.fan_out", bind=True)
    async def fan_out(self: Any, count: int) -> dict[str, Any]:
        """Awaits the results of other tasks, all at once."""
        handles = [await add.adelay(i, i) for i in range(count)]
        values = await asyncio.gather(*handles)
        return {"id": self.request.id, "loop": id(asyncio.get_running_loop()), "values": values, "pid": os.getpid()}

    @project.task(shared=False, name="project.overlap")
    async def overlap(seconds: float) -> list[float]:
        began = time.monotonic()
        await asyncio.sleep(seconds)
        return [began, time.monotonic()]

    @project.task(shared=False, name="project.trace", bind=True)
    def trace(self: Any, *_: object) -> str | None:
        """The trace that the message belongs to."""
        found: str | None = self.request.get("traceparent")
        return found

    @project.task(shared=False, name="project.try_again", bind=True, max_retries=2)
    async def try_again(self: Any, times: int) -> int:
        self.update_state(state="PROGRESS", meta={"retries": self.request.retries})
        await asyncio.sleep(0.3)  # for readers who have to read each state
        if self.request.retries < times:
            raise self.retry(countdown=0.2)  # or else the retry may overtake the note that there is one
        return int(self.request.retries)

    @project.task(shared=False, name="project.auto", autoretry_for=(ValueError,), default_retry_delay=0, max_retries=1)
    async def auto() -> None:
        await asyncio.sleep(0)
        raise ValueError("again and again")

    @project.task(shared=False, name="project.gives_up")
    async def gives_up() -> None:
        inner = asyncio.ensure_future(asyncio.sleep(60))
        inner.cancel()
        await inner

    @task(project, convert=True, shared=False, name="project.pair")
    async def pair(x: int) -> tuple[int, int]:
        return x, x

    @task(project, convert=True, shared=False, name="project.report")
    def report(name: str) -> Report:
        return Report(name, (1, 2))

    @task(project, pydantic=True, shared=False, name="project.buy")
    async def buy(order: Order, times: int = 1) -> Receipt:
        await asyncio.sleep(0)
        return Receipt(count=times * len(order.items))

    @task(project, pydantic=True, convert=True, bind=True, shared=False, name="project.buy_as")
    async def buy_as(self: Any, order: Order) -> Receipt:
        return Receipt(count=len(order.items) if self.request.id else 0)

    @project.task(shared=False, name="project.hurry", soft_time_limit=1)
    async def hurry(marker: str) -> None:
        """Told by the soft time limit to stop: the coroutine is cancelled, and notes it."""
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            project.backend.store_result(marker, "cancelled", "SUCCESS")
            raise


app = make_project(**json.loads(os.environ.get(CONFIG_VARIABLE, "{}")))
