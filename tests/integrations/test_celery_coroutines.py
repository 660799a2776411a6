"""Coroutine functions as tasks of stock workers: one loop per process, and Celery's own context in it."""

from __future__ import annotations

import asyncio
import types
import uuid

import pytest
from celery import Celery
from celery._state import _task_stack, get_current_task

import asyncresult
from asyncresult.integrations.celery import coroutines
from tests.integrations.celery_project import client

pytestmark = pytest.mark.celery


async def test_a_task_awaits_other_tasks(app: Celery) -> None:
    """Celery's join trap does not hold it up, and what it sends is its child."""
    async with asyncresult.connect(app):
        handle = await app.tasks["project.fan_out"].adelay(4)
        value = await handle.get(timeout=20)
        assert value["values"] == [0, 2, 4, 6]
        assert value["id"] == handle.id
        children = await handle.children()
        assert children is not None
        assert len(children) == 4
        meta = await children[0].meta()
        assert meta.parent_id == handle.id


async def test_all_tasks_of_a_process_share_one_loop(plugin_app: Celery) -> None:
    """And take turns on it, though each has a thread of the worker."""
    async with asyncresult.connect(plugin_app):
        spans = await asyncio.gather(*[await plugin_app.tasks["project.overlap"].adelay(0.3) for _ in range(3)])
        assert max(began for began, _ in spans) < min(ended for _, ended in spans)
        fans = await asyncio.gather(*[await plugin_app.tasks["project.fan_out"].adelay(1) for _ in range(3)])
        assert len({(fan["pid"], fan["loop"]) for fan in fans}) == 1
        assert len({fan["id"] for fan in fans}) == 3


async def test_retries_and_progress(app: Celery) -> None:
    async with asyncresult.connect(app):
        handle = await app.tasks["project.try_again"].adelay(1)
        states = []
        async for meta in handle.updates(timeout=20):
            states.append(meta.status)
        assert await handle == 1
        assert "PROGRESS" in states
        assert "RETRY" in states
        with pytest.raises(ValueError, match="again and again"):
            await (await app.tasks["project.auto"].adelay()).get(timeout=20)


async def test_a_soft_time_limit_cancels_the_coroutine(stock_app: Celery) -> None:
    async with asyncresult.connect(stock_app) as backend:
        marker = str(uuid.uuid4())
        handle = await stock_app.tasks["project.hurry"].adelay(marker)
        with pytest.raises(Exception, match="SoftTimeLimitExceeded"):
            await handle.get(timeout=20)
        assert await backend.result(marker).get(timeout=10) == "cancelled"


def test_called_as_a_function() -> None:
    with client(broker_url="memory://", result_backend="redis://127.0.0.1:1/0") as app:
        overlap = app.tasks["project.overlap"]
        began, ended = overlap(0.01)
        assert began < ended
        assert overlap.apply((0.01,)).get() is not None


async def test_called_where_a_loop_runs() -> None:
    """It would block that loop; the coroutine function itself is there too."""
    with client(broker_url="memory://", result_backend="redis://127.0.0.1:1/0") as app:
        overlap = app.tasks["project.overlap"]
        with pytest.raises(RuntimeError, match="event loop"):
            overlap(0.01)
        assert len(await overlap.run.__wrapped__(0.01)) == 2


def test_what_a_coroutine_sends_from_another_thread_is_its_child() -> None:
    """The thread that sends is not the one that runs the task, so Celery has to be given the parent."""
    task = types.SimpleNamespace(name="parent")
    token = coroutines._running.set(coroutines.Running(task, None))
    with pytest.raises(ValueError, match="inside"):
        with coroutines.as_child():
            assert get_current_task() is task
            with coroutines.as_child():  # once is enough
                assert _task_stack.stack == [task]
            raise ValueError("inside")
    coroutines._running.reset(token)
    assert get_current_task() is None
    with coroutines.as_child():  # no task
        assert get_current_task() is None


def test_a_wrapper_of_pydantic_that_is_not_as_it_was_is_refused() -> None:
    def wrapper() -> None: ...

    with pytest.raises(TypeError, match="with this version of Celery"):
        coroutines._block_inside_pydantic(wrapper)
