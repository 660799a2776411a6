"""What tracking a task costs and leaves on a Redis server, and who else can read it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import pytest

import asyncresult
from asyncresult import AsyncResult, Backend, BackendUnavailable, TaskMeta
from asyncresult.worker import traceback_text
from tests.tools.celery_app import close_app, make_app
from tests.tools.proxy import FaultProxy
from tests.tools.servers import RedisServer

if TYPE_CHECKING:
    from celery import Celery


@pytest.fixture
async def backend(redis_url: str) -> AsyncIterator[Backend]:
    async with asyncresult.connect(redis_url) as backend:
        yield backend


class Traffic:
    """Commands that a server was sent since this was made."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._before = server.commandstats()

    def count(self, *names: str) -> int:
        now = self._server.commandstats()
        return sum(now.get(name, 0) - self._before.get(name, 0) for name in names)


class TestCost:
    async def test_one_round_trip_a_state(self, backend: Backend, redis_server: RedisServer) -> None:
        """One script each; it is what sets and publishes."""
        async with backend.track():
            pass
        traffic = Traffic(redis_server)
        async with backend.track(history=5) as task:
            await task.progress(1)
            await AsyncResult[None](task.id).until("PROGRESS", timeout=20)
            await task.retry()
        async with task:
            pass
        assert traffic.count("eval", "evalsha") == len(["STARTED", "PROGRESS", "RETRY", "STARTED", "SUCCESS"])
        assert traffic.count("eval") == 0

    async def test_a_round_trip_is_all_that_a_store_waits_for(self, redis_server: RedisServer) -> None:
        async with FaultProxy(redis_server) as proxy, asyncresult.connect(proxy.url()) as backend:
            async with backend.track():
                pass
            proxy.delay(0.2)
            times: list[float] = []
            while not times or (min(times) >= 0.6 and len(times) < 5):  # a busy machine does not have five bad moments
                start = time.monotonic()
                async with backend.track():
                    pass
                times.append(time.monotonic() - start)
            assert 0.4 <= min(times) < 0.6

    async def test_a_tight_loop_of_progress(self, backend: Backend, redis_server: RedisServer) -> None:
        traffic = Traffic(redis_server)
        start = time.monotonic()
        async with backend.track(progress_interval=0.02) as task:
            for step in range(20_000):
                await task.progress(step, 20_000)
        elapsed = time.monotonic() - start
        assert 3 <= traffic.count("eval", "evalsha") <= elapsed / 0.02 + 4

    async def test_nothing_of_it_is_left(self, backend: Backend, redis_server: RedisServer) -> None:
        async with backend.track("t", history=5):
            pass
        assert sorted(redis_server.cli("KEYS", "*")) == [
            b"asyncresult-workers",
            b"celery-task-meta-t",
            b"{celery-task-meta-t}.history",
        ]
        assert all(redis_server.cli("TTL", key) > 0 for key in redis_server.cli("KEYS", "*"))


class TestExpiry:
    async def test_failures_may_live_longer(self, backend: Backend, redis_server: RedisServer) -> None:
        async with backend.track("good", expires=100, failure_expires=1000, history=1):
            assert 90 < redis_server.cli("TTL", "celery-task-meta-good") <= 100
        with pytest.raises(ValueError, match="boom"):
            async with backend.track("bad", expires=100, failure_expires=1000):
                raise ValueError("boom")
        assert 90 < redis_server.cli("TTL", "celery-task-meta-good") <= 100
        assert 90 < redis_server.cli("TTL", "{celery-task-meta-good}.history") <= 100
        assert 990 < redis_server.cli("TTL", "celery-task-meta-bad") <= 1000

    async def test_as_the_backend_says(self, redis_url: str, redis_server: RedisServer) -> None:
        async with asyncresult.connect(redis_url, expires=100, failure_expires=1000) as backend:
            with pytest.raises(ValueError, match="boom"):
                async with backend.track("bad"):
                    raise ValueError("boom")
        assert 990 < redis_server.cli("TTL", "celery-task-meta-bad") <= 1000


async def with_stock_celery(url: str, look: Callable[[Celery], None]) -> None:
    """Call ``look`` with a client's app; in a thread, to which its connections belong."""

    def use() -> None:
        app = make_app(broker_url=url, result_backend=url)
        try:
            look(app)
        finally:
            close_app(app)

    await asyncio.to_thread(use)


class TestStockCelery:
    async def test_it_reads_what_track_wrote(self, backend: Backend, redis_url: str) -> None:
        def look_early(app: Celery) -> None:
            assert (app.AsyncResult("t").state, app.AsyncResult("t").info) == ("PROGRESS", {"current": 1, "total": 2})

        async with backend.track(
            "t", name="n", args=(1,), kwargs={"a": 2}, worker="w", queue="q", retries=1, heartbeat=5
        ) as task:
            task.add_child(AsyncResult("child"))
            await task.progress(1, 2)
            await AsyncResult("t").until("PROGRESS", timeout=20)
            await with_stock_celery(redis_url, look_early)
            task.set_result([1, "x"])
        await backend.mark_as_done("child", "grown")

        def look(app: Celery) -> None:
            result = app.AsyncResult("t")
            assert result.get(timeout=20) == [1, "x"]
            assert (result.name, result.args, result.kwargs) == ("n", [1], {"a": 2})
            assert (result.worker, result.queue, result.retries) == ("w", "q", 1)
            assert [child.id for child in result.children] == ["child"]
            assert result.date_done.tzinfo is not None
            assert [value for _, value in result.collect()] == [[1, "x"], "grown"]

        await with_stock_celery(redis_url, look)

    async def test_it_reads_a_failure_and_a_revocation(self, backend: Backend, redis_url: str) -> None:
        from celery.exceptions import TaskRevokedError

        with pytest.raises(ValueError, match="boom"):
            async with backend.track("bad"):
                raise ValueError("boom")
        context = backend.track("gone")
        with pytest.raises(asyncresult.TaskRevoked):
            async with context:
                context._abort(False)
                await asyncio.Event().wait()

        def look(app: Celery) -> None:
            with pytest.raises(ValueError, match="boom"):
                app.AsyncResult("bad").get(timeout=20)
            assert app.AsyncResult("bad").traceback.endswith("ValueError: boom\n")
            with pytest.raises(TaskRevokedError, match="revoked"):
                app.AsyncResult("gone").get(timeout=20)

        await with_stock_celery(redis_url, look)


class TestOutage:
    async def test_progress_does_not_fail_the_task(self, redis_server: RedisServer) -> None:
        async with asyncresult.connect(redis_server.url(), retry=10) as backend:
            async with backend.track("t", progress_interval=0.01) as task:
                redis_server.kill()
                for step in range(10):
                    await task.progress(step)
                redis_server.start()
                task.set_result("done")
            assert await AsyncResult("t").get(timeout=20) == "done"

    async def test_a_result_is_stored_later(self, redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
        """The worker is told, the log too, and when the server is back the result comes all the same."""
        async with asyncresult.connect(redis_server.url(), retry=0) as backend:
            with pytest.raises(BackendUnavailable):
                async with backend.track("t") as task:
                    task.set_result("done")
                    redis_server.kill()
            (told,) = [record for record in caplog.records if "could not be stored, trying again" in record.message]
            assert told.levelno == logging.ERROR and "task t has ended, but SUCCESS" in told.message
            redis_server.start()
            assert await AsyncResult("t").get(timeout=20) == "done"

    async def test_a_failure_is_stored_later(self, redis_server: RedisServer) -> None:
        """The failure itself goes on, and says that it is not stored yet."""
        async with asyncresult.connect(redis_server.url(), retry=0) as backend:
            with pytest.raises(ValueError, match="boom") as raised:
                async with backend.track("t"):
                    redis_server.kill()
                    raise ValueError("boom")
            assert "not stored yet" in raised.value.__notes__[0]
            redis_server.start()
            with pytest.raises(ValueError, match="boom"):
                await AsyncResult[None]("t").get(timeout=20)

    async def test_the_backend_is_closed_before_it_comes_back(
        self, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with asyncresult.connect(redis_server.url(), retry=0) as backend:
            with pytest.raises(BackendUnavailable):
                async with backend.track("t"):
                    redis_server.kill()
            start = time.monotonic()
            await backend.aclose(timeout=0.1)
            assert time.monotonic() - start < 10
            assert "SUCCESS was never stored" in caplog.text

    async def test_a_job_waits_for_it(self, redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
        """Before it begins, too: then it may have been revoked. The log says so once."""
        async with (
            asyncresult.connect(redis_server.url(), retry=0) as backend,
            asyncresult.Executor(backend) as executor,
        ):
            go = asyncio.Event()
            running = executor.submit(go.wait)
            await running.until("STARTED", timeout=20)
            redis_server.kill()
            later = executor.submit(asyncio.sleep, 0, "ran")
            go.set()
            await asyncio.sleep(0.5)
            assert executor.running == 2
            redis_server.start()
            assert await running.get(timeout=20) is True
            assert await later.get(timeout=20) == "ran"
        (delayed,) = [record for record in caplog.records if f"{later.id}: STARTED could not" in record.message]
        assert delayed.levelno == logging.ERROR

    async def test_leaving_an_executor_in_an_outage(
        self, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with asyncresult.connect(redis_server.url(), retry=0) as backend:
            start, begun = time.monotonic(), asyncio.Event()

            async def work() -> None:
                begun.set()
                await asyncio.sleep(0.1)

            async with asyncresult.Executor(backend, shutdown_timeout=0.2) as executor:
                handle = executor.submit(work)
                await begun.wait()
                redis_server.kill()
            assert time.monotonic() - start < 10
            await backend.aclose(timeout=0.1)
        assert f"left behind: {handle.id}" in caplog.text
        assert f"task {handle.id}: SUCCESS was never stored" in caplog.text

    async def test_a_cancelled_block_does_not_hang(
        self, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("asyncresult.worker.REVOKED_STORE_TIMEOUT", 0.05)
        async with asyncresult.connect(redis_server.url(), retry=60) as backend:

            async def work() -> None:
                async with backend.track("t"):
                    redis_server.kill()
                    await asyncio.Event().wait()

            running = asyncio.create_task(work())
            while redis_server.running:
                await asyncio.sleep(0.001)
            running.cancel()
            await asyncio.wait([running], timeout=20)
            assert running.cancelled()
            assert "could not be stored in time" in caplog.text
            await backend.aclose(timeout=0.05)

    async def test_a_cancelled_block_waits_until_that_is_stored(
        self, redis_server: RedisServer, proxy: FaultProxy
    ) -> None:
        """However often it is cancelled meanwhile: what comes next may be the end of the loop."""
        async with asyncresult.connect(proxy.url()) as backend:

            async def work() -> None:
                async with backend.track("t"):
                    await asyncio.Event().wait()

            running = asyncio.create_task(work())
            await AsyncResult("t").until("STARTED", timeout=20)
            proxy.delay(0.05)
            while not running.done():
                running.cancel()
                await asyncio.sleep(0)
            assert b'"REVOKED"' in redis_server.cli("GET", "celery-task-meta-t")

    async def test_a_silent_worker_in_an_outage_is_not_called_stale(self, redis_server: RedisServer) -> None:
        async with asyncresult.connect(redis_server.url(), retry=0.01) as backend:
            async with backend.track("t", heartbeat=0.02):
                stream = AsyncResult[None]("t").updates(timeout=2)
                assert (await anext(stream)).status == "STARTED"
                redis_server.kill()
                with pytest.raises(asyncresult.ResultTimeout):
                    await anext(stream)
                redis_server.start()


def test_the_way_to_the_task_is_left_out() -> None:
    def task() -> None:
        raise ValueError("boom")

    code = compile("task()", "machinery", "exec")
    with pytest.raises(ValueError, match="boom") as raised:
        exec(code, {"__name__": "asyncresult.anything", "task": task})
    assert raised.tb.tb_next is not None
    text = traceback_text(raised.value.with_traceback(raised.tb.tb_next))  # without this function
    assert "in task" in text
    assert "machinery" not in text


@pytest.mark.parametrize(
    "heartbeat", [None, 7, {}, {"at": 1}, {"at": "x", "interval": 1}, {"at": 1, "interval": None}], ids=str
)
def test_an_invalid_heartbeat_is_none(heartbeat: object) -> None:
    meta = TaskMeta(status="STARTED", heartbeat=heartbeat)
    assert meta.stale_at is None
    assert not meta.stale


def test_only_who_runs_can_be_stale() -> None:
    beat = {"at": 0.0, "interval": 1.0}
    assert TaskMeta(status="PROGRESS", heartbeat=beat).stale
    assert not TaskMeta(status="SUCCESS", heartbeat=beat).stale


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 10**400])
@pytest.mark.parametrize("field", ["at", "interval"])
def test_a_heartbeat_that_is_no_time_says_nothing(field: str, number: float) -> None:
    """NaN is never in the past and never in the future: a stream would look again and again."""
    meta = TaskMeta(status="STARTED", heartbeat={"at": 1.0, "interval": 1.0, field: number})
    assert meta.stale_at is None and not meta.stale
