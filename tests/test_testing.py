"""What the fixtures are made of: a backend in memory with outages, a fake worker, an app in memory, a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Any

import pytest
from celery import Celery, chord, group

import asyncresult
from asyncresult import (
    AsyncResult,
    Backend,
    BackendClosed,
    BackendUnavailable,
    TaskRevoked,
    _portal,
    current_backend,
    sync,
)
from asyncresult.integrations.celery import Task as AwaitableTask
from asyncresult.testing import FakeWorker, memory_backend, private_server
from asyncresult.testing.celery import in_memory
from tests.tools.celery_app import close_app, make_app


@pytest.fixture(autouse=True)
def portal() -> Generator[None]:
    """No thread of blocking calls, and of coroutine tasks, is left."""
    yield
    _portal.stop()


@pytest.fixture
def backend() -> Generator[Backend]:
    with memory_backend(safety_interval=0.05) as made:
        yield made


@pytest.fixture
def worker(backend: Backend) -> Generator[FakeWorker]:
    made = FakeWorker(backend)
    yield made
    made.close()


async def waiting_for(backend: Backend, id: str, **options: Any) -> asyncio.Task[Any]:
    """A wait whose subscription stands."""
    task = asyncio.create_task(backend.result(id).get(timeout=20, **options))
    while backend.stats().subscribed == 0:
        await asyncio.sleep(0)
    return task


# --- a fake worker


async def test_each_state_comes(backend: Backend, worker: FakeWorker) -> None:
    updates = backend.result("1").updates(timeout=20)
    assert (await anext(updates)).status == "PENDING"
    worker.start("1")
    worker.progress("1", 1, 3, note="half")
    worker.retry("1", OSError("again"))
    worker.store("1", "UPLOADING", {"to": "there"})
    worker.succeed(backend.result("1"), 7)
    worker.start("1")  # a final state stays
    assert [(meta.status, meta.result) async for meta in updates if meta.status != "RETRY"] == [
        ("STARTED", {"pid": 1, "hostname": "fake@worker"}),
        ("PROGRESS", {"current": 1, "total": 3, "note": "half"}),
        ("UPLOADING", {"to": "there"}),
        ("SUCCESS", 7),
    ]


async def test_a_failure_has_its_traceback(backend: Backend, worker: FakeWorker) -> None:
    try:
        raise ValueError("sold out")
    except ValueError as error:
        worker.fail("1", error)
    with pytest.raises(ValueError, match="sold out") as caught:
        await backend.result("1")
    assert "test_a_failure_has_its_traceback" in str(caught.value.__cause__)


async def test_later(backend: Backend, worker: FakeWorker) -> None:
    begun = time.monotonic()
    worker.succeed("1", 7, delay=0.05)
    assert await backend.result("1").get(timeout=20) == 7
    assert time.monotonic() - begun >= 0.05


async def test_a_lost_notification_is_found_by_the_sweep() -> None:
    with memory_backend(safety_interval=2.0) as backend:
        waiting = await waiting_for(backend, "1")
        await a_few_rounds()  # the first read, which would find it, is over
        FakeWorker(backend).succeed("1", 7, notify=False)
        await a_few_rounds()
        assert not waiting.done()
        assert await waiting == 7


async def a_few_rounds() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_revoking(backend: Backend, worker: FakeWorker) -> None:
    (answer,) = await backend.result("1").revoke(wait=True)
    assert answer.ok
    assert worker.revoked == ["1"]
    with pytest.raises(TaskRevoked):
        await backend.result("1")


async def test_an_outage(backend: Backend, worker: FakeWorker) -> None:
    """A wait from before it, and one that begins in it, end with what was stored when it was over."""
    before = await waiting_for(backend, "1")
    with worker.outage():
        await asyncio.sleep(0)
        during = asyncio.create_task(backend.result("2").get(timeout=20))
        worker.succeed("1", 1)
        worker.succeed("2", 2, delay=0.01)
        for call in (
            backend.get_meta("1"),
            backend.store_result("3", 3, "SUCCESS"),
            backend.forget("1"),
            backend.get_lifetime("1"),
            anext(backend.task_ids(limit=1)),
        ):
            with pytest.raises(BackendUnavailable, match="outage"):
                await call
        assert not (await backend.health()).ok
        assert not backend.stats().connected
        await asyncio.sleep(0.15)  # several sweeps
        assert not before.done()
        assert not during.done()
    assert await asyncio.gather(before, during) == [1, 2]
    assert backend.stats().reconnects == 1
    assert backend.stats().last_error is None


async def test_only_in_its_own_kind_of_backend() -> None:
    async with asyncresult.connect("memory://") as other:
        with pytest.raises(TypeError, match="memory_backend"):
            FakeWorker(other)


# --- a backend in memory


async def test_it_is_the_current_one_and_its_end_ends_the_waits() -> None:
    with memory_backend() as backend:
        assert current_backend() is backend
        waiting = asyncio.create_task(AsyncResult[Any]("1").get(timeout=20))
        async with asyncresult.connect(str(backend)) as other:
            await other.mark_as_done("2", 2)
            assert await backend.result("2") == 2
        await asyncio.sleep(0)
    with pytest.raises(BackendClosed):
        await waiting
    async with asyncresult.connect(str(backend)) as other:
        assert await other.result("2").state() == "PENDING"  # its records are gone


def test_blocking_code_finds_it(backend: Backend, worker: FakeWorker) -> None:
    worker.succeed("1", 7, delay=0.05)
    assert sync.AsyncResult("1").get(timeout=20) == 7


# --- an app of Celery's


@pytest.fixture
def app() -> Generator[Celery]:
    """An app of somewhere else, which must not be reached."""
    made = make_app(broker_url="redis://127.0.0.1:1/0", result_backend="redis://127.0.0.1:1/1")

    @made.task(name="hidden.again", bind=True, shared=False)
    def again(self: Any) -> int:
        self.update_state(state="PROGRESS", meta={"current": 1})
        return int(self.request.retries)

    @made.task(name="hidden.coroutine", base=AwaitableTask, shared=False)
    async def coroutine(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    yield made
    close_app(made)


async def test_eager_tasks_are_found_by_their_ids(app: Celery) -> None:
    add, fail, again = app.tasks["tests.add"], app.tasks["tests.fail"], app.tasks["hidden.again"]
    with in_memory(app) as backend:
        assert current_backend() is backend
        assert await backend.result(add.delay(2, 3).id) == 5
        assert await AsyncResult(again.delay().id) == 0
        assert await backend.result(app.tasks["hidden.coroutine"].delay(1).id) == 2
        assert await (await app.tasks["hidden.coroutine"].adelay(1)) == 2
        with pytest.raises(ValueError, match="boom"):
            await backend.result(fail.delay().id)
        result = group(add.s(1, 1), add.s(2, 2)).delay()
        assert await backend.results([member.id for member in result.results]) == [2, 4]
        assert await chord([add.s(1, 1), add.s(2, 2)], app.tasks["tests.echo"].s()).delay() == [2, 4]


async def test_afterwards_an_app_is_as_it_was(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://127.0.0.1:1/7")
    add, own = app.tasks["tests.add"], app.backend
    connected = asyncresult.connect(app)
    with in_memory(app, eager=False) as backend:
        assert app.backend is not own
        assert add.backend is app.backend
        worker = FakeWorker(backend)
        result = add.delay(2, 3)
        assert await backend.result(result.id).state() == "PENDING"
        worker.succeed(result, 5)
        assert await result == 5
    assert app.backend is add.backend is own
    assert asyncresult.connect(app) is connected
    assert app.conf.broker_url == "redis://127.0.0.1:1/7"
    assert app.conf.result_backend == "redis://127.0.0.1:1/1"
    assert not app.conf.task_always_eager
    assert not add.store_eager_result
    with pytest.raises(RuntimeError, match="no backend"):
        current_backend()


async def test_settings_of_the_app_count() -> None:
    app = make_app(
        broker_url="memory://",
        result_backend="asyncresult+memory://",
        result_backend_transport_options={"global_keyprefix": "shop"},
        result_expires=100,
        task_always_eager=True,
    )
    app.conf.result_extended = True
    async with asyncresult.connect(app) as backend:
        result = app.tasks["tests.add"].delay(2, 3)
        assert backend.task_key("x") == b"shop_celery-task-meta-x"
        meta = await backend.get_meta(result.id)
        assert (meta.result, meta.name, meta.args) == (5, "tests.add", [2, 3])
        assert 99 <= (await backend.get_lifetime(result.id) or 0) <= 100
    await asyncio.to_thread(app.AsyncResult(result.id).forget)
    assert await asyncio.to_thread(lambda: app.AsyncResult(result.id).state) == "PENDING"
    app.close()


# --- a private server


async def test_a_private_server() -> None:
    with private_server() as server:
        async with asyncresult.connect(server.url) as backend:
            await backend.mark_as_done("1", 1)
            assert await backend.result("1") == 1
            server.flush()
            assert await backend.result("1").state() == "PENDING"
        server.stop()
        server.flush()  # starts it again, on the same port
        async with asyncresult.connect(server.url) as backend:
            assert await backend.ping() < 20
