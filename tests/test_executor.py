"""Functions in worker threads. What holds for every backend is in backends/test_executor.py and test_jobs.py."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio.from_thread
import pytest

import asyncresult
from asyncresult import Backend, Executor, TaskFailed, TaskRevoked, current_task, sync
from tests.backends.waiting import until


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
    async def test_requested_to_stop(self, backend: Backend, end: str) -> None:
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


async def test_what_is_no_function(backend: Backend) -> None:
    async with Executor() as executor:
        with pytest.raises(TypeError, match="function"):
            executor.submit(7)  # type: ignore[call-overload]
        called = asyncio.sleep(0)
        with pytest.raises(TypeError, match=r"not coroutine: .* submit\(fn, x\), not submit\(fn\(x\)\)$"):
            executor.submit(called)  # type: ignore[call-overload]
        called.close()


@pytest.mark.parametrize(
    "given", ["memory://", 4, sync.connect("memory://")], ids=["a URL", "a number", "a blocking one"]
)
def test_what_is_no_backend(given: Any) -> None:
    with pytest.raises(
        TypeError, match=f"backend must be a Backend, as connect.. makes one, not {type(given).__name__}"
    ):
        Executor(given)


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
    (line,) = [record for record in caplog.records if f"task {handle.id} has ended" in record.getMessage()]
    assert "but SUCCESS was never stored" in line.getMessage()
    assert (line.levelno, line.__dict__["event"]) == (logging.ERROR, "not stored")


@pytest.mark.parametrize("count", [0, -1, 1.5, float("nan"), "1", None], ids=repr)
async def test_capacity_for_what_is_no_number(backend: Backend, count: Any) -> None:
    """Room for NaN tasks never comes."""
    async with Executor(backend) as executor:
        with pytest.raises(ValueError, match="count"):
            await executor.wait_for_capacity(count)


async def test_a_task_that_leaves_the_block_that_runs_it(backend: Backend) -> None:
    """It would wait for its own end."""
    async with Executor(backend) as executor, contextlib.AsyncExitStack() as stack:
        stack.push_async_exit(executor.__aexit__)
        async with asyncio.timeout(20):
            with pytest.raises(RuntimeError, match="cannot wait for the end of the Executor"):
                await executor.submit(stack.aclose)
        assert await executor.submit(asyncio.sleep, 0, "the block goes on") == "the block goes on"


def test_importing_the_package_imports_no_anyio() -> None:
    code = "import asyncresult, sys; print({'anyio', 'redis', 'celery'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
