"""How a tracked block ends when it is not by its own end or failure: RETRY, and what is closed.

Over memory and one server: it is the worker's doing, and databases keep neither heartbeats nor reasons.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import pytest

import asyncresult
from asyncresult import Backend, TaskRevoked
from tests.tools.servers import RedisServer


@pytest.fixture(params=["memory", "redis"])
def backend_url(request: pytest.FixtureRequest) -> str:
    return f"memory://{uuid.uuid4()}" if request.param == "memory" else str(request.getfixturevalue("redis_url"))


class TestRetryStands:
    """Until somebody runs the task again: then what that run stores counts."""

    async def test_whatever_leaves_the_block(self, backend: Backend) -> None:
        for error in (OSError("passing"), asyncio.CancelledError(), GeneratorExit()):
            with pytest.raises(type(error)):
                async with backend.track("t") as task:
                    await task.retry(error)
                    await task.progress(1, 2)
                    raise error
            assert (await backend.get_meta("t")).status == "RETRY"
            await backend.forget("t")

    async def test_what_the_former_run_still_does(self, backend: Backend) -> None:
        async with backend.track("t", heartbeat=0.01, progress_interval=0.01) as former:
            await former.progress(1)
            await former.progress(2)
            await former.retry()
            async with backend.track("t", retries=1) as later:
                await former.progress(3)
                await asyncio.sleep(0.05)
                assert (await backend.get_meta("t")).status == "STARTED"
                later.set_result("later")
            await asyncio.sleep(0.03)
        assert await backend.result("t").get(timeout=20) == "later"

    async def test_a_former_run_that_does_not_know(self, backend: Backend) -> None:
        """Its process was taken for dead, and another one runs the task: only that one renews the record."""
        async with backend.track("t", heartbeat=0.01):
            async with backend.track("t", heartbeat=60, retries=1) as later:
                await later.progress(1)
                await backend.result("t").until("PROGRESS", timeout=20)
                before = await backend.get_meta("t")
                await asyncio.sleep(0.1)
                assert await backend.get_meta("t") == before
            await asyncio.sleep(0.03)
        assert (await backend.get_meta("t")).retries == 1

    async def test_a_record_that_is_gone_is_written_again(self, backend: Backend) -> None:
        async with backend.track("t", heartbeat=0.01) as task:
            await task.progress(1)
            await backend.result("t").until("PROGRESS", timeout=20)
            await backend.forget("t")
            async with asyncio.timeout(20):
                while (await backend.get_meta("t")).status != "PROGRESS":
                    await asyncio.sleep(0.01)

    async def test_unless_it_is_revoked(self, backend: Backend) -> None:
        with pytest.raises(TaskRevoked):
            async with backend.track("t") as task:
                await task.retry()
                await backend.result("t").revoke()
                await asyncio.Event().wait()
        assert (await backend.get_meta("t")).status == "REVOKED"


class TestClosed:
    """What is closed cannot wait for a store; it is stored all the same."""

    async def test_a_generator(self, backend: Backend) -> None:
        async def stream() -> AsyncGenerator[int]:
            async with backend.track("t"):
                yield 1
                yield 2

        async with contextlib.aclosing(stream()) as numbers:
            assert await anext(numbers) == 1
        with pytest.raises(TaskRevoked, match="closed"):
            await backend.result("t").get(timeout=20)

    async def test_a_generator_whose_store_takes_long(self, redis_server: RedisServer) -> None:
        """Its aclose() waits for it, unless that is cancelled: the task whose aclose() it is must end then."""
        async with asyncresult.connect(redis_server.url()) as backend:

            async def stream() -> AsyncGenerator[int]:
                async with backend.track("t"):
                    yield 1

            numbers = stream()
            await anext(numbers)
            redis_server.pause()

            async def close() -> None:
                await numbers.aclose()

            closing = asyncio.create_task(close())
            done, _ = await asyncio.wait([closing], timeout=0.2)
            assert not done
            closing.cancel()
            await asyncio.wait([closing], timeout=20)
            assert closing.cancelled()
            redis_server.resume()
            with pytest.raises(TaskRevoked, match="closed"):
                await backend.result("t").get(timeout=20)

    async def test_a_generator_in_an_outage(
        self, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("asyncresult.worker.REVOKED_STORE_TIMEOUT", 0.05)
        async with asyncresult.connect(redis_server.url()) as backend:

            async def stream() -> AsyncGenerator[int]:
                async with backend.track("t"):
                    yield 1

            async with contextlib.aclosing(stream()) as numbers:
                await anext(numbers)
                redis_server.pause()
            assert "task t was closed, which could not be stored in time" in caplog.text
            redis_server.resume()
            with pytest.raises(TaskRevoked, match="closed"):
                await backend.result("t").get(timeout=20)

    def test_a_generator_that_is_open_when_its_loop_ends(self, redis_server: RedisServer) -> None:
        """Nobody closes the backend: asyncio.run() cancels its connections before it closes the generators."""
        generators: list[AsyncGenerator[int]] = []

        async def main() -> None:
            backend = asyncresult.connect(redis_server.url())

            async def stream() -> AsyncGenerator[int]:
                async with backend.track("t") as task:
                    await task.progress(1)
                    yield 1

            generators.append(stream())
            await anext(generators[0])

        async def state() -> str:
            async with asyncresult.connect(redis_server.url()) as backend:
                return (await backend.get_meta("t")).status

        asyncio.run(main())
        assert asyncio.run(state()) == "REVOKED"

    async def test_a_coroutine(self) -> None:
        """Stepped by hand, in memory, where each step is known."""
        async with asyncresult.connect("memory://") as backend:

            async def work() -> None:
                async with backend.track("t"):
                    await asyncio.Event().wait()

            running = work()
            await asyncio.wait([running.send(None)])  # STARTED is stored
            running.send(None)
            running.close()
            with pytest.raises(TaskRevoked, match="closed"):
                await backend.result("t").get(timeout=20)

    def test_after_its_loop(self, caplog: pytest.LogCaptureFixture) -> None:
        """Garbage: nothing can be stored any more, which is said; and nothing is raised where nobody can catch it."""
        backend = asyncresult.connect("memory://")
        coroutines: list[Any] = []

        async def work() -> None:
            async with backend.track("t"):
                await asyncio.get_running_loop().create_future()

        async def main() -> None:
            coroutines.append(work())
            step = coroutines[0].send(None)
            await asyncio.wait([step])
            coroutines[0].send(None)

        asyncio.run(main())
        coroutines[0].close()
        assert "task t was given up without a final state" in caplog.text


@pytest.mark.parametrize("turns", [0, 5, 10, 15, 20, 30, None])
def test_its_loop_ends_and_nobody_closes_the_backend(redis_server: RedisServer, turns: int | None) -> None:
    """As asyncio.run() does it: all tasks are cancelled, those of the connections among them."""
    ids = ["t", "u", "v"]
    kept: list[Any] = []

    async def main() -> None:
        backend = asyncresult.connect(redis_server.url())

        async def work() -> None:
            async with backend.track("t"):
                await asyncio.Event().wait()

        kept.append(asyncio.create_task(work()))
        kept.append(executor := asyncresult.Executor(backend, concurrency=1))
        await executor.__aenter__()
        for id in ids[1:]:
            kept.append(executor.options(task_id=id).submit(asyncio.sleep, 60))
        for _ in range(turns or 0):
            await asyncio.sleep(0)
        if turns is None:
            for id in ids[:2]:
                await backend.result(id).until("STARTED", timeout=20)

    async def states() -> list[str]:
        async with asyncresult.connect(redis_server.url()) as backend:
            return [meta.status for meta in await backend.get_many(ids)]

    asyncio.run(main())
    assert asyncio.run(states()) == ["REVOKED"] * 3
