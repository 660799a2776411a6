"""``connect(app, register=True)``: a note of each task that is sent, whichever way, and of those that follow it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from kombu.exceptions import OperationalError
from redis import Redis

from asyncresult import AsyncResult, _portal, connect
from asyncresult._storage.store import engine_of
from asyncresult.integrations.celery import send_many
from tests.tools.servers import RedisServer

from .test_celery_sending import close, make_app

pytestmark = pytest.mark.celery


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["the same server", "another database", "a thread"])
def app(request: pytest.FixtureRequest, server: RedisServer, no_leaks: None) -> Iterator[Celery]:
    server.reset()
    broker = {"the same server": server.url(0), "another database": server.url(1), "a thread": "memory://"}
    app = make_app(broker[request.param], result_backend=server.url(0))
    yield app
    _portal.stop()  # blocking code writes its notes there
    for backend in app.backend, vars(app).get("_asyncresult_sender"):
        if backend is not None:
            backend.client.connection_pool.disconnect()
    close(app)


async def test_each_way_to_send_leaves_a_note(app: Celery) -> None:
    add = app.tasks["add"]
    async with connect(app, register=True) as backend:
        handles = [await add.adelay(1), *await send_many([add.s(2), add.s(3)])]
        handles.append(AsyncResult((await asyncio.to_thread(add.apply_async, (4,), ignore_result=True)).id))
        handles.append(
            AsyncResult(add.apply_async((5,), ignore_result=True).id)
        )  # blocks the loop, as it does without a note
        for handle in handles:
            sent = await handle.sent()
            assert sent is not None
            assert sent.name == "add"
            assert await handle.known()
        assert not await backend.result("unknown").known()
        # What a worker writes, and then deletes, is not the note.
        app.backend.store_result(handles[0].id, 1, "SUCCESS")
        app.backend.forget(handles[0].id)
        assert await handles[0].known()


async def test_what_follows_is_noted_with_it_and_kept_until_it_may_run(app: Celery) -> None:
    add = app.tasks["add"]
    async with connect(app, register=True) as backend:
        steps = chain(add.s(1).set(task_id="a"), add.s(2).set(task_id="b"), add.s(3).set(task_id="c"))
        await steps.aapply_async()
        await chord([add.s(1).set(task_id="m")], add.s(2).set(task_id="body"), app=app).aapply_async()
        await add.aapply_async((1,), task_id="linking", link=add.s(1).set(task_id="linked"))
        await chain(add.s(1).set(task_id="head"), group([add.s(i).set(task_id=f"g{i}") for i in (1, 2)])).aapply_async()
        for id in ("a", "b", "c", "m", "body", "linking", "linked", "head", "g1", "g2"):
            assert await backend.result(id).known(), id
        await add.aapply_async((1,), task_id="late", eta=datetime.now(UTC) + timedelta(days=10))
        kept = await engine_of(backend).lifetime(backend.key_beside("late", "sent"))
        assert backend.expires is not None
        assert kept == pytest.approx(10 * 86400 + backend.expires, abs=300)


async def test_nothing_is_sent_that_cannot_be_noted(server: RedisServer, app: Celery) -> None:
    """The server takes messages from this user, and no notes."""
    before = _waiting(app)
    with Redis.from_url(server.url(0)) as admin:
        admin.execute_command("ACL", "SETUSER", "default", "resetkeys", "~celery", "~_kombu*", "~celery-task-meta-*")
        try:
            async with connect(app, register=True):
                with pytest.raises(OperationalError):
                    await app.tasks["add"].adelay(1)
                with pytest.raises(OperationalError, match="not sent"):
                    await asyncio.to_thread(app.tasks["add"].apply_async, (1,), ignore_result=True)
        finally:
            admin.execute_command("ACL", "SETUSER", "default", "allkeys")
    assert _waiting(app) == before


@pytest.mark.parametrize("app", ["the same server", "another database"], indirect=True)
async def test_a_queue_whose_first_task_cannot_be_noted_is_declared_with_the_next(
    server: RedisServer, app: Celery
) -> None:
    add = app.tasks["add"]
    with Redis.from_url(app.conf.broker_url) as broker:
        async with connect(app, register=True):
            broker.execute_command("ACL", "SETUSER", "default", "resetkeys", "~brief", "~_kombu*")
            try:
                with pytest.raises(OperationalError):
                    await add.aapply_async((1,), queue="brief")
            finally:
                broker.execute_command("ACL", "SETUSER", "default", "allkeys")
            assert not broker.exists("_kombu.binding.brief")
            await add.aapply_async((1,), queue="brief")
        assert broker.exists("_kombu.binding.brief")
        assert broker.llen("brief") == 1


async def test_without_it_nothing_is_noted(app: Celery) -> None:
    async with connect(app):
        assert not await (await app.tasks["add"].adelay(1)).known()


def test_results_that_come_as_messages_are_not_registered(server: RedisServer) -> None:
    app: Any = make_app(server.url(0), result_backend="rpc://")
    with pytest.raises(ValueError, match="register=True needs Redis"):
        connect(app, register=True)


def _waiting(app: Celery) -> int:
    """Messages in the queue."""
    with app.connection_for_read() as connection:
        return int(connection.default_channel._size("celery"))
