"""Results that come as messages (``rpc://``), over RabbitMQ and over Redis as a broker."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Generator
from typing import Any

import pytest
from celery import Celery, chain, group
from kombu import Connection

import asyncresult
from asyncresult import AsyncResult, BackendError, GroupResult, ResultSet, TaskRevoked
from asyncresult.integrations.celery.rpc import RpcBackend
from tests.backends.waiting import until
from tests.integrations.celery_project import client, in_thread
from tests.tools.celery_worker import CeleryWorker

pytestmark = pytest.mark.celery


@pytest.fixture(params=[pytest.param("rabbitmq", marks=pytest.mark.rabbitmq), "redis"])
def rpc_worker(request: pytest.FixtureRequest) -> CeleryWorker:
    """Stock Celery in processes, whose results are messages."""
    worker: CeleryWorker = request.getfixturevalue(f"rpc_{request.param}_worker")
    return worker


@pytest.fixture
def app(rpc_worker: CeleryWorker) -> Generator[Celery]:
    with client(**rpc_worker.config) as made:
        yield made


async def test_a_value(app: Celery) -> None:
    async with asyncresult.connect(app) as backend:
        assert isinstance(backend, RpcBackend)
        handle = await app.tasks["project.add"].adelay(2, 3)
        assert await handle.get(timeout=10) == 5
        assert await AsyncResult(handle.id).get(timeout=0) == 5  # who asks later finds it
        assert (await handle.meta()).task_id == handle.id
        assert backend.stats().received >= 1


async def test_sent_before_connecting(app: Celery) -> None:
    handle = await app.tasks["project.add"].adelay(2, 3)
    async with asyncresult.connect(app):
        assert await handle.get(timeout=10) == 5


@pytest.mark.parametrize("setting", ["rpc://", "asyncresult+rpc://"])
async def test_celerys_own_results_in_any_thread(rpc_worker: CeleryWorker, setting: str) -> None:
    """Sent in one thread, got in another: with stock Celery that is a wait in vain for all but the sender's."""
    with client(**{**rpc_worker.config, "result_backend": setting}) as app:
        add = app.tasks["project.add"]
        async with asyncresult.connect(app):
            steps = await in_thread(app, lambda: chain(add.s(1, 2), add.s(3)).apply_async())
            assert await in_thread(app, lambda: steps.get(timeout=10)) == 6
            assert await in_thread(app, lambda: steps.parent.state) == "SUCCESS"
            members = await in_thread(app, lambda: group(add.s(i, i) for i in range(5)).apply_async())
            assert await in_thread(app, lambda: members.join(timeout=10)) == [0, 2, 4, 6, 8]
            assert await steps == 6


async def test_canvases(app: Celery) -> None:
    add = app.tasks["project.add"]
    async with asyncresult.connect(app):
        handle = await chain(add.s(1, 2), add.s(3), add.s(4)).adelay()
        assert await handle.get(timeout=10) == 10
        assert await handle.parent.get(timeout=10) == 6
        handles = await group(add.s(i, i) for i in range(20)).aapply_async()
        assert isinstance(handles, GroupResult)
        assert await handles.get(timeout=10) == [2 * i for i in range(20)]
        with pytest.raises(NotImplementedError, match="does not support chords"):
            await (group(add.s(1, 1), add.s(2, 2)) | app.tasks["project.total"].s()).adelay()


async def test_failures(app: Celery) -> None:
    tasks = app.tasks
    async with asyncresult.connect(app):
        with pytest.raises(ValueError, match="boom") as caught:
            await (await tasks["project.boom"].adelay()).get(timeout=10)
        assert 'raise ValueError("boom")' in str(caught.value.__cause__)  # the worker's traceback
        steps = await chain(tasks["project.boom"].s(), tasks["project.add"].s(1)).adelay()
        with pytest.raises(ValueError, match="boom"):
            await steps.get(timeout=10)


async def test_every_state_in_order(app: Celery) -> None:
    """The workers are Celery's own, and who comes late misses nothing all the same."""
    async with asyncresult.connect(app):
        handle = await app.signature("tests.progress", kwargs={"steps": 50}).adelay()
        await handle.get(timeout=10)
        seen = [meta async for meta in handle.updates(since="0", timeout=5)]
        assert [meta.status for meta in seen] == ["STARTED", *["PROGRESS"] * 50, "SUCCESS"]
        assert [meta.result["current"] for meta in seen[1:-1]] == list(range(1, 51))


async def test_a_stream_goes_on_where_another_ended(app: Celery) -> None:
    async with asyncresult.connect(app):
        handle = await app.signature("tests.progress", kwargs={"steps": 10, "delay": 0.02}).adelay()
        seen: list[Any] = []
        first = handle.updates(since="0", timeout=10)
        async for meta in first:
            if meta.status == "PROGRESS":
                seen.append(meta.result["current"])
                if len(seen) == 3:
                    break
        await first.aclose()
        await handle.get(timeout=10)
        async for meta in handle.updates(since=first.last_id, timeout=5):
            if meta.status == "PROGRESS":
                seen.append(meta.result["current"])
        assert seen == list(range(1, 11))


async def test_a_retry(app: Celery) -> None:
    async with asyncresult.connect(app):
        handle = await app.tasks["project.try_again"].adelay(2)
        assert await handle.get(timeout=10) == 2
        states = [meta.status async for meta in handle.updates(since="0", timeout=5)]
        assert states.count("RETRY") == 2


async def test_a_revoked_task(app: Celery) -> None:
    """Celery's worker replies that it was revoked when its turn comes."""
    async with asyncresult.connect(app):
        handle = await app.tasks["project.add"].aapply_async((1, 1), countdown=1)
        await handle.revoke()
        with pytest.raises(TaskRevoked):
            await handle.get(timeout=10)


async def test_groups_are_saved_in_the_process(app: Celery) -> None:
    add = app.tasks["project.add"]
    async with asyncresult.connect(app) as backend:
        handles = await group(add.s(1, 1), add.s(2, 2)).aapply_async()
        await handles.save()
        restored = await GroupResult.restore(handles.id)
        assert restored is not None
        assert await restored.get(timeout=10) == [2, 4]
        assert await backend.forget(handles[0].id) == 1
        assert await handles[0].exists() is False


async def test_only_workers_reply(app: Celery) -> None:
    async with asyncresult.connect(app) as backend:
        with pytest.raises(BackendError, match="only the worker"):
            await backend.store_result("x", 1, "SUCCESS")
        with pytest.raises(BackendError, match="only the worker"):
            await backend.store_many([("x", 1)])
        with pytest.raises(BackendError, match="only the worker"):
            backend.track("x")


def warnings_of_strangers(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if "reach only the process" in record.message]


async def test_a_task_of_another_process_is_warned_of_once(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    async with asyncresult.connect(app, safety_interval=0.1) as backend:
        strangers = ResultSet([backend.result("unknown-1"), backend.result("unknown-2")])

        def warned() -> list[logging.LogRecord]:
            return warnings_of_strangers(caplog)

        waiting = asyncio.ensure_future(strangers.get(timeout=30))
        await until(warned)
        await asyncio.sleep(0.5)  # in which a second warning would come
        waiting.cancel()
        await asyncio.wait([waiting])
    warnings = warned()
    assert len(warnings) == 1
    assert "unknown-" in warnings[0].message


async def test_a_task_of_ones_own_that_takes_long_is_not_warned_of(
    app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncresult.connect(app, safety_interval=0.1):
        handle = await app.tasks["project.add"].aapply_async((1, 1), countdown=1)
        assert await handle.get(timeout=10) == 2
    assert not warnings_of_strangers(caplog)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_ten_thousand_from_ten_threads(app: Celery) -> None:
    """Whatever thread sends: all replies come to one queue, and to one loop."""
    await _send_from_ten_threads(app, each=1000)


@pytest.mark.slow
async def test_a_thousand_from_ten_threads(app: Celery) -> None:
    await _send_from_ten_threads(app, each=100)


async def _send_from_ten_threads(app: Celery, *, each: int) -> None:
    ids: list[str] = []

    def send(number: int) -> None:
        for i in range(each):
            ids.append(app.signature("tests.echo", ((number, i),)).apply_async().id)

    async with asyncresult.connect(app) as backend:
        assert isinstance(backend, RpcBackend)
        threads = [threading.Thread(target=send, args=(number,)) for number in range(10)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            await asyncio.sleep(0.05)
        waiting = asyncio.ensure_future(backend.results(ids).get())
        while not waiting.done():  # however slow the worker is, as long as replies keep coming
            received = backend.stats().received
            await asyncio.wait([waiting], timeout=60)
            assert waiting.done() or backend.stats().received > received, f"no reply for a minute: {backend.stats()}"
        values = waiting.result()
        assert sorted(map(tuple, values)) == [(number, i) for number in range(10) for i in range(each)]
        assert backend.stats().refused == 0


def test_two_event_loops_one_after_the_other(app: Celery) -> None:
    """What was sent under the first is there for the second, also if it came when no loop ran."""

    async def send() -> Any:
        async with asyncresult.connect(app):
            done = await app.tasks["project.add"].adelay(1, 1)
            assert await done.get(timeout=10) == 2
            return done.id, (await app.tasks["project.add"].aapply_async((2, 2), countdown=0.5)).id

    done, pending = asyncio.run(send())

    async def get() -> None:
        async with asyncresult.connect(app) as backend:
            assert await backend.result(done).get(timeout=0) == 2
            assert await backend.result(pending).get(timeout=10) == 4

    asyncio.run(get())


async def test_no_queue_stays(rpc_worker: CeleryWorker) -> None:
    with client(**rpc_worker.config) as app:
        async with asyncresult.connect(app) as backend:
            assert isinstance(backend, RpcBackend)
            assert await (await app.tasks["project.add"].adelay(1, 1)).get(timeout=10) == 2
            queue = backend.replies.queue
    with Connection(rpc_worker.broker) as connection:
        channel = connection.channel()
        with pytest.raises((*connection.channel_errors, KeyError)):
            channel.queue_declare(queue, passive=True)
