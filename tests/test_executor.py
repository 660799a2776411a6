"""Functions in worker threads and processes. What holds for every backend is in backends/test_executor.py."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import anyio.from_thread
import pytest

import asyncresult
from asyncresult import Backend, Executor, TaskFailed, TaskRevoked, current_task
from tests.backends.waiting import until
from tests.tools import jobs


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with asyncresult.connect("memory://") as backend:
        yield backend


class TestThreads:
    async def test_not_on_the_loop(self, backend: Backend) -> None:
        async with Executor() as executor:
            assert await executor.submit(threading.get_ident).get(timeout=20) != threading.get_ident()

    async def test_progress(self, backend: Backend) -> None:
        def work() -> str:
            task = current_task()
            assert task is not None
            anyio.from_thread.run(task.progress, 3, 10)
            return task.id

        async with Executor() as executor:
            handle = executor.options(history=5).submit(work)
            assert await handle.get(timeout=20) == handle.id
        told = [meta async for meta in handle.updates(since="0")]
        assert [meta.status for meta in told] == ["STARTED", "PROGRESS", "SUCCESS"]
        assert told[1].result == {"current": 3, "total": 10}

    @pytest.mark.parametrize("end", ["revoke", "timeout", "leave"])
    async def test_asked_to_stop(self, backend: Backend, end: str) -> None:
        def work() -> None:
            while True:
                anyio.from_thread.check_cancelled()

        expected = TimeoutError if end == "timeout" else TaskRevoked
        try:
            async with Executor() as executor:
                handle = executor.options(timeout=0.02 if end == "timeout" else None).submit(work)
                await handle.until("STARTED", timeout=20)
                if end == "revoke":
                    (reply,) = await handle.revoke(wait=True, timeout=20)
                    assert reply.ok
                    assert "thread" in reply.detail
                elif end == "leave":
                    raise LookupError
        except LookupError:
            pass
        with pytest.raises(expected):
            await handle.get(timeout=20)

    async def test_one_that_does_not_listen(self, backend: Backend) -> None:
        """It ran to its end, so that is what is stored."""
        started, go = threading.Event(), threading.Event()

        def work() -> str:
            started.set()
            go.wait(10)
            return "finished first"

        async with Executor() as executor:
            handle = executor.submit(work)
            await until(started.is_set)
            await handle.revoke(wait=True, timeout=20)
            go.set()
            assert await handle.get(timeout=20) == "finished first"

    async def test_no_retry_for_a_revoked_one(self, backend: Backend) -> None:
        started, go = threading.Event(), threading.Event()

        def work() -> None:
            started.set()
            go.wait(10)
            raise ValueError("boom")

        async with Executor() as executor:
            handle = executor.options(retries=5).submit(work)
            await until(started.is_set)
            await handle.revoke(wait=True, timeout=20)
            go.set()
            with pytest.raises(ValueError, match="boom"):
                await handle.get(timeout=20)

    async def test_more_than_anyio_runs_by_default(self, backend: Backend) -> None:
        barrier = threading.Barrier(50)
        async with Executor(concurrency=50) as executor:
            await executor.map(lambda _: barrier.wait(10), range(50)).get(timeout=15)


@pytest.mark.allow_leaks("tasks", "sockets")  # anyio keeps worker processes until the loop ends
class TestProcesses:
    @pytest.fixture
    async def executor(self, backend: Backend) -> AsyncIterator[Executor]:
        async with Executor() as executor:
            yield executor

    async def test_in_another_process(self, executor: Executor) -> None:
        assert await executor.options(process=True).submit(jobs.own_pid).get(timeout=30) != os.getpid()

    async def test_failure(self, executor: Executor) -> None:
        handle = executor.options(process=True).submit(jobs.fail)
        with pytest.raises(ValueError, match="the effect"):
            await handle.get(timeout=30)
        text = await handle.traceback() or ""
        assert "KeyError: 'the cause'" in text
        assert "in fail" in text

    async def test_an_exception_that_cannot_be_pickled(self, executor: Executor) -> None:
        handle = executor.options(process=True).submit(jobs.fail_oddly)
        with pytest.raises(jobs.OddError, match="odd"):
            await handle.get(timeout=30)

    async def test_its_death(self, executor: Executor) -> None:
        handle = executor.options(process=True).submit(jobs.die)
        with pytest.raises(anyio.BrokenWorkerProcess):
            await handle.get(timeout=30)

    @pytest.mark.parametrize("end", ["terminate", "timeout"])
    async def test_killed(self, executor: Executor, tmp_path: Path, end: str) -> None:
        file = tmp_path / "pid"
        await executor.options(process=True).submit(jobs.own_pid).get(timeout=30)  # there is a process now
        options = executor.options(process=True, timeout=1 if end == "timeout" else None)
        handle = options.submit(jobs.touch_and_sleep, str(file), 600)
        await until(file.exists, timeout=30)
        if end == "terminate":
            (reply,) = await handle.revoke(wait=True, timeout=20)
            assert not reply.ok
            assert "terminate" in reply.detail
            assert await handle.state() == "STARTED"
            (reply,) = await handle.revoke(terminate=True, wait=True, timeout=20)
            assert reply.ok
        with pytest.raises(TimeoutError if end == "timeout" else TaskRevoked):
            await handle.get(timeout=10)
        await until(lambda: not Path(f"/proc/{file.read_text()}").exists())

    async def test_a_coroutine_function_cannot(self, executor: Executor) -> None:
        with pytest.raises(TypeError, match="plain function"):
            executor.options(process=True).submit(asyncio.sleep, 1)


async def test_what_is_no_function(backend: Backend) -> None:
    async with Executor() as executor:
        with pytest.raises(TypeError, match="function"):
            executor.submit(7)  # type: ignore[call-overload]


async def test_a_result_that_cannot_be_stored(backend: Backend) -> None:
    async with Executor() as executor:
        with pytest.raises(TaskFailed, match="cannot be stored"):
            await executor.submit(object).get(timeout=20)


async def test_a_backend_that_was_closed_meanwhile(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing can be stored any more: that is said, and does not hang."""
    async with Executor() as executor:
        handle = executor.submit(asyncio.sleep, 0.01)
        await handle.until("STARTED", timeout=20)
        await backend.aclose()
    assert f"task {handle.id} failed, which could not be stored" in caplog.text


def test_importing_the_package_imports_no_anyio() -> None:
    code = "import asyncresult, sys; print({'anyio', 'redis', 'celery'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
