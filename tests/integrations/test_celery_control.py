"""Revoking Celery's tasks from async code, over a Redis and a RabbitMQ broker."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import celery
import pytest
from celery import Celery, group

import asyncresult
from asyncresult import BackendUnavailable, ResultTimeout, TaskRevoked
from tests.integrations.celery_project import client
from tests.tools.celery_worker import CeleryWorker
from tests.tools.servers import free_port

pytestmark = pytest.mark.celery
recorded_at_once = pytest.mark.skipif(
    celery.VERSION < (5, 6), reason="before Celery 5.6, that a waiting task was revoked is stored when its turn comes"
)


@pytest.fixture(params=["stock", pytest.param("rabbitmq", marks=pytest.mark.slow)])
def app(request: pytest.FixtureRequest) -> Generator[Celery]:
    """Both workers run tasks in processes, so they can terminate them."""
    worker: CeleryWorker = request.getfixturevalue(f"{request.param}_worker")
    with client(**worker.config) as made:
        yield made


@recorded_at_once
async def test_a_task_that_waits_is_revoked(app: Celery) -> None:
    async with asyncresult.connect(app):
        handle = await app.tasks["project.add"].aapply_async((1, 1), countdown=30)
        (reply,) = await handle.revoke(wait=True, timeout=3)
        assert reply.ok
        assert handle.id in reply.detail
        with pytest.raises(TaskRevoked, match="revoked"):
            await handle.get(timeout=10)


async def test_a_task_that_runs_is_terminated(app: Celery) -> None:
    async with asyncresult.connect(app):
        handle = await app.tasks["project.sleep"].adelay(60)
        await handle.until("STARTED", timeout=10)
        (reply,) = await handle.revoke(terminate=True, signal="SIGKILL", wait=True, timeout=3)
        assert reply.ok
        with pytest.raises(TaskRevoked, match="terminated"):
            await handle.get(timeout=10)


async def test_a_task_that_ended_keeps_its_value(app: Celery) -> None:
    async with asyncresult.connect(app) as backend:
        handle = await app.tasks["project.add"].adelay(1, 1)
        assert await handle == 2
        assert await handle.revoke(terminate=True) == []
        await app.tasks["project.add"].adelay(0, 0)
        assert await backend.result(handle.id).get(timeout=0) == 2


@recorded_at_once
async def test_a_group_is_revoked_with_all_its_members(app: Celery) -> None:
    """Celery's own ``revoke()`` forgets the members of nested groups."""
    add = app.tasks["project.add"]
    async with asyncresult.connect(app):
        handle = await group(add.s(1, 1), group(add.s(2, 2), add.s(3, 3))).aapply_async(countdown=30)
        await handle.revoke()
        for member in asyncresult.ResultSet([handle])._leaves():
            with pytest.raises(TaskRevoked):
                await member.get(timeout=10)


async def test_tasks_are_revoked_by_their_stamps(app: Celery) -> None:
    async with asyncresult.connect(app):
        signature = app.tasks["project.add"].s(1, 1)
        signature.stamp(batch="seven")
        handle = await signature.aapply_async(countdown=4)
        (reply,) = await handle.revoke_by_stamped_headers({"batch": "seven"}, wait=True, timeout=3)
        assert reply.ok
        with pytest.raises(TaskRevoked):
            await handle.get(timeout=10)


@recorded_at_once
async def test_a_wait_that_ends_may_revoke(app: Celery) -> None:
    async with asyncresult.connect(app):
        late = await app.tasks["project.add"].aapply_async((1, 1), countdown=30)
        with pytest.raises(ResultTimeout):
            await late.get(timeout=0.1, on_timeout="revoke")
        with pytest.raises(TaskRevoked):
            await late.get(timeout=10)
        with pytest.raises(ZeroDivisionError):
            async with asyncresult.scope() as tasks:
                owned = tasks.adopt(await app.tasks["project.add"].aapply_async((1, 1), countdown=30))
                raise ZeroDivisionError
        with pytest.raises(TaskRevoked):
            await owned.get(timeout=10)


async def test_several_requests_at_once(app: Celery) -> None:
    """Each gets its own worker's answer."""
    async with asyncresult.connect(app):
        handles = await asyncio.gather(*(app.tasks["project.add"].aapply_async((i, i), countdown=30) for i in range(5)))
        answers = await asyncio.gather(*(handle.revoke(wait=True, timeout=5) for handle in handles))
        for handle, replies in zip(handles, answers, strict=True):
            assert [handle.id in reply.detail for reply in replies] == [True]


async def test_a_broker_that_is_not_there(redis_url: str) -> None:
    config: dict[str, Any] = {
        "broker_url": f"redis://127.0.0.1:{free_port()}/0",
        "result_backend": redis_url,
        "broker_transport_options": {"max_retries": 1, "interval_start": 0, "interval_max": 0},
    }
    with client(**config) as app:
        async with asyncresult.connect(app) as backend:
            with pytest.raises(BackendUnavailable, match=r"the broker of .* cannot be reached"):
                await backend.result("some").revoke()
