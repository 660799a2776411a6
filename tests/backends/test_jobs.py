"""How jobs end: each that an Executor has accepted gets a final state, and leaving the block takes bounded time."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import asyncresult
from asyncresult import AsyncResult, Backend, Executor, TaskFailed, TaskRevoked
from tests.tools.servers import RedisServer

from .waiting import until


@pytest.fixture(params=["memory", "redis"])
def backend_url(request: pytest.FixtureRequest) -> str:
    return f"memory://{uuid.uuid4()}" if request.param == "memory" else str(request.getfixturevalue("redis_url"))


async def nothing() -> None: ...


async def forever() -> None:
    await asyncio.Event().wait()


async def status_of(handle: AsyncResult[Any]) -> tuple[str, Any]:
    meta = await handle.backend.get_meta(handle.id)
    return meta.status, meta.result["exc_message"] if meta.result else None


class TestBeforeTheFirstStep:
    """A task of asyncio that is cancelled before its first step runs nothing of its coroutine, no 'finally' either."""

    async def test_a_block_that_fails(self, backend: Backend) -> None:
        with pytest.raises(LookupError):
            async with asyncio.timeout(20), Executor() as executor:
                handle = executor.submit(nothing)
                raise LookupError
        assert await status_of(handle) == ("REVOKED", ["cancelled"])

    async def test_a_block_that_ends(self, backend: Backend) -> None:
        async with asyncio.timeout(20), Executor(cancel_pending=True) as executor:
            handles = [executor.submit(nothing), executor.submit(time.sleep, 0)]
        assert [await status_of(handle) for handle in handles] == [("REVOKED", ["cancelled"])] * 2

    async def test_cancelled_from_outside(self, backend: Backend) -> None:
        """As asyncio.run() does at its end."""
        async with asyncio.timeout(20), Executor() as executor:
            handle = executor.submit(nothing)
            (task,) = [task for task in asyncio.all_tasks() if handle.id in task.get_name()]
            task.cancel()
            with pytest.raises(TaskRevoked):
                await handle.get()
        assert executor.running == executor.pending == 0


def raising(error: BaseException, *, thread: bool) -> Callable[[], Any]:
    def fail() -> None:
        raise error

    async def fail_on_the_loop() -> None:
        raise error

    return fail if thread else fail_on_the_loop


class TestWhatIsNoException:
    @pytest.mark.parametrize("thread", [False, True], ids=["loop", "thread"])
    @pytest.mark.parametrize(
        "error", [GeneratorExit("own"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError("own")], ids=repr
    )
    async def test_it_is_a_failure_of_the_task_alone(
        self, backend: Backend, error: BaseException, thread: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with Executor() as executor:
            handle = executor.submit(raising(error, thread=thread))
            with pytest.raises(TaskFailed) as raised:
                await handle.get(timeout=20)
            assert raised.value.exc_type == type(error).__name__
            assert await executor.submit(asyncio.sleep, 0, "goes on").get(timeout=20) == "goes on"

    def test_ctrl_c_where_it_is_an_exception(self) -> None:
        """A loop that is not run by asyncio.run(): KeyboardInterrupt comes up in any frame, and must not be kept."""
        import asyncresult

        async def main() -> None:
            async with asyncresult.connect("memory://") as backend, Executor(backend) as executor:
                handles.append(executor.submit(raising(KeyboardInterrupt(), thread=False)))
                await forever()

        handles: list[AsyncResult[Any]] = []
        loop = asyncio.new_event_loop()
        running = loop.create_task(main())
        try:
            with pytest.raises(KeyboardInterrupt):
                loop.run_until_complete(running)
            meta = loop.run_until_complete(handles[0].backend.get_meta(handles[0].id))
            assert meta.status == "FAILURE"
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                loop.run_until_complete(running)
        finally:
            loop.close()


class TestShutdown:
    async def test_a_thread_that_does_not_stop(self, backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
        started, go = threading.Event(), threading.Event()

        def work() -> None:
            started.set()
            go.wait(20)

        with pytest.raises(LookupError):
            async with asyncio.timeout(15), Executor(shutdown_timeout=0.1) as executor:
                handle = executor.submit(work)
                await until(started.is_set)
                raise LookupError
        go.set()
        await until(lambda: executor.running == 0)
        with pytest.raises(TaskRevoked):
            await handle.get(timeout=20)
        assert f"left behind: {handle.id}" in caplog.text

    async def test_a_store_that_is_away(self, redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
        """A task does not begin before its STARTED is stored, and the block does not wait for that for ever."""
        async with asyncio.timeout(20), asyncresult.connect(redis_server.url()) as backend:
            async with Executor(backend, shutdown_timeout=0.2) as executor:
                await executor.submit(nothing)
                redis_server.kill()
                handle = executor.submit(forever)
            redis_server.start()
            with pytest.raises(TaskRevoked):
                await handle.get()
        assert "left behind" in caplog.text and handle.id in caplog.text

    async def test_a_coroutine_that_does_not_stop(self, backend: Backend) -> None:
        go = asyncio.Event()

        async def stubborn() -> None:
            while not go.is_set():
                try:
                    await go.wait()
                except asyncio.CancelledError:
                    pass

        async with asyncio.timeout(15):
            with pytest.raises(LookupError):
                async with Executor(shutdown_timeout=0.1) as executor:
                    handle = executor.submit(stubborn)
                    await handle.until("STARTED", timeout=20)
                    raise LookupError
            with pytest.raises(TaskRevoked):
                await handle.get(timeout=20)
        go.set()

    async def test_cancelled_again_and_again(self, backend: Backend) -> None:
        handles: list[AsyncResult[None]] = []

        async def serve() -> None:
            async with Executor() as executor:
                handles.extend(executor.submit(forever) for _ in range(3))
                await forever()

        serving = asyncio.create_task(serve())
        await until(lambda: handles)
        await handles[0].until("STARTED", timeout=20)
        while not serving.done():
            serving.cancel()
            await asyncio.sleep(0)
        assert serving.cancelled()
        assert [(await status_of(handle))[0] for handle in handles] == ["REVOKED"] * 3

    @pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf")])
    def test_wrong_numbers(self, wrong: float) -> None:
        with pytest.raises(ValueError, match="shutdown_timeout"):
            Executor(shutdown_timeout=wrong)


class TestTheSameIdAgain:
    async def test_the_later_run_counts(self, backend: Backend) -> None:
        runs: Iterator[Any] = iter(["first", "second", ValueError("third")])

        async def run() -> Any:
            outcome = next(runs)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        async with Executor() as executor:
            again = executor.options(task_id="nightly", history=5)
            first = again.submit(run)
            assert await first.get(timeout=20) == "first"
            await until(lambda: executor.running == 0)
            assert await again.submit(run).get(timeout=20) == "second"
            await until(lambda: executor.running == 0)
            third = again.submit(run)
            with pytest.raises(ValueError, match="third"):
                await third.get(timeout=20)
            assert [meta.status async for meta in third.updates(since="0")] == ["STARTED", "FAILURE"]
        assert first.value == "first", "a handle that is done keeps what it knows"

    async def test_it_stays_revoked(self, backend: Backend) -> None:
        async with Executor() as executor:
            await executor.submit(nothing).get(timeout=20)
            await backend.result("nightly").revoke()
            again = executor.options(task_id="nightly")
            with pytest.raises(TaskRevoked):
                await again.submit(nothing).get(timeout=20)
            await until(lambda: executor.running == 0)
            await backend.forget("nightly")
            assert await again.submit(nothing).get(timeout=20) is None


class TestUnseenFailures:
    async def fail(self) -> None:
        raise ValueError("boom")

    def reports(self, caplog: pytest.LogCaptureFixture) -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]

    async def test_the_handle_was_dropped(self, backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
        async with Executor() as executor:
            id = executor.submit(self.fail).id
            await until(lambda: executor.running + executor.pending == 0)
            (report,) = self.reports(caplog)
            assert id in report
            assert "ValueError: boom" in report

    async def test_the_handle_was_dropped_later(self, backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
        async with Executor() as executor:
            seen, awaited, unseen = (executor.submit(self.fail) for _ in range(3))
            await until(lambda: executor.running + executor.pending == 0)
            await until(lambda: len(backend.unseen_failures) == 3)
            assert await AsyncResult(seen.id).failed()  # through another handle
            with pytest.raises(ValueError, match="boom"):
                await AsyncResult(awaited.id)
            id = unseen.id
            del seen, awaited, unseen
            await until(lambda: self.reports(caplog) != [])
            (report,) = self.reports(caplog)
            assert id in report
        assert len(self.reports(caplog)) == 1  # and not again at the end

    async def test_the_handle_was_dropped_by_another_thread(
        self, backend: Backend, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with Executor() as executor:
            handles = [executor.submit(self.fail)]
            await until(lambda: len(backend.unseen_failures) == 1)
            await asyncio.to_thread(handles.clear)
            await until(lambda: self.reports(caplog) != [])

    async def test_nobody_looked_at_it_before_the_end(self, backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
        async with Executor() as executor:
            handle = executor.submit(self.fail)
        (report,) = self.reports(caplog)
        assert handle.id in report

    async def test_somebody_looked(self, backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
        async with Executor() as executor:
            early, late = executor.submit(self.fail), executor.submit(self.fail)
            with pytest.raises(ValueError, match="boom"):
                await early
            await until(lambda: executor.running == 0)
            assert await late.failed()
        assert self.reports(caplog) == []


def test_one_executor_on_two_loops(backend_url: str) -> None:
    """An Executor of a module, as the Backend beside it; the current backend is looked up each time."""
    import asyncresult

    executor = Executor(concurrency=1, max_pending=2)

    async def use() -> str:
        async with asyncresult.connect(backend_url) as backend, executor:
            assert executor.backend is backend
            for _ in range(5):
                await executor.wait_for_capacity()
                executor.submit(asyncio.sleep, 0.001)
                executor.submit(threading.get_ident) if executor.pending < 2 else None
            await executor.wait_for_capacity()
            return await executor.submit(asyncio.sleep, 0, "done").get(timeout=20)

    assert [asyncio.run(use()), asyncio.run(use())] == ["done", "done"]


async def test_entered_twice(backend: Backend) -> None:
    async with Executor() as executor:
        with pytest.raises(RuntimeError, match="already been entered"):
            await executor.__aenter__()
        assert await executor.submit(asyncio.sleep, 0, 1).get(timeout=20) == 1


async def test_accepting_is_linear(backend: Backend) -> None:
    """Four times as many jobs take four times as many calls, not sixteen."""
    import sys

    def calls(count: int) -> int:
        counted = 0

        def count_calls(frame: object, event: str, argument: object) -> None:
            nonlocal counted
            counted += event == "call"

        sys.setprofile(count_calls)
        try:
            executor.map(nothing_with, range(count))
        finally:
            sys.setprofile(None)
        return counted

    async def nothing_with(number: int) -> None: ...

    async with Executor(max_pending=10_000, cancel_pending=True) as executor:
        assert calls(2000) < 4.4 * calls(500)
