"""A tracked block that is revoked: while it runs, before it starts, by whoever awaits its result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from asyncresult import (
    AsyncResult,
    Backend,
    BackendError,
    ResultTimeout,
    TaskRevoked,
    gather,
    scope,
)

from .conftest import MakeBackend
from .waiting import until, waits_for

pytestmark = [
    pytest.mark.not_over("rpc", reason="only workers reply"),
    pytest.mark.not_over(
        "django", "postgresql", "memcached", "mongodb", reason="as over SQLite: what differs is in the contract"
    ),
]


class TestRevoke:
    @pytest.fixture
    async def elsewhere(self, make_backend: MakeBackend, backend: Backend) -> Backend:
        """As another process sees it."""
        return make_backend()

    @pytest.fixture
    async def running(self, backend: Backend) -> AsyncIterator[asyncio.Task[None]]:
        """Task "t", which waits to be revoked."""

        async def work() -> None:
            async with backend.track("t", worker="w"):
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await AsyncResult("t").until("STARTED", timeout=20)
        yield task
        task.cancel()
        await asyncio.wait([task])

    async def test_a_running_block(self, running: asyncio.Task[None], elsewhere: Backend) -> None:
        (reply,) = await elsewhere.result("t").revoke(wait=True, timeout=20)
        assert (reply.worker, reply.ok, reply.detail) == ("w", True, "t: revoked")
        with pytest.raises(TaskRevoked, match="revoked"):
            await running
        with pytest.raises(TaskRevoked):
            await elsewhere.result("t").get(timeout=20)

    async def test_the_loop_around_it_goes_on(self, backend: Backend, elsewhere: Backend) -> None:
        """A revoke ends the block with an exception, not the worker's own task with a cancellation."""
        done: list[str] = []

        async def worker() -> None:
            for id in ("a", "b"):
                try:
                    async with backend.track(id):
                        await (asyncio.Event().wait() if id == "a" else asyncio.sleep(0))
                        done.append(id)
                except TaskRevoked:
                    done.append("revoked")

        running = asyncio.create_task(worker())
        await AsyncResult("a").until("STARTED", timeout=20)
        await elsewhere.result("a").revoke()
        await running
        assert running.cancelling() == 0
        assert done == ["revoked", "b"]

    async def test_before_it_starts(self, backend: Backend, elsewhere: Backend) -> None:
        """It never runs, and never is STARTED."""
        async with backend.track():
            pass  # from here on it is known that there are workers
        handle = elsewhere.result("t")
        assert await handle.revoke(wait=True, timeout=0.05) == []
        stream = handle.updates(timeout=10)
        assert (await anext(stream)).status == "PENDING"
        await waits_for(elsewhere, 1)
        for ignore in (False, True):
            with pytest.raises(TaskRevoked):
                async with backend.track("t", ignore_result=ignore):
                    pytest.fail("entered")
        assert [meta.status async for meta in stream] == ["REVOKED"]

    async def test_forget_lifts_it(self, backend: Backend, elsewhere: Backend) -> None:
        async with backend.track():
            pass
        await elsewhere.result("t").revoke()
        await backend.forget("t")
        async with backend.track("t"):
            pass

    async def test_without_workers_it_raises(self, backend: Backend) -> None:
        with pytest.raises(BackendError, match="nobody"):
            await backend.result("t").revoke()

    async def test_stamps_are_not_ours(self, running: asyncio.Task[None], backend: Backend) -> None:
        with pytest.raises(BackendError, match="nobody"):
            await backend.result("t").revoke_by_stamped_headers({"a": "b"})

    async def test_a_block_that_ends_all_the_same(self, backend: Backend, elsewhere: Backend) -> None:
        async def stubborn() -> None:
            async with backend.track("t") as task:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    task.set_result("finished first")

        running = asyncio.create_task(stubborn())
        await AsyncResult("t").until("STARTED", timeout=20)
        await elsewhere.result("t").revoke()
        await running
        assert running.cancelling() == 0
        assert await elsewhere.result("t").get(timeout=20) == "finished first"

    async def test_revoked_and_cancelled_is_cancelled(self, backend: Backend) -> None:
        context = backend.track("t")

        async def work() -> None:
            async with context:
                await asyncio.Event().wait()

        running = asyncio.create_task(work())
        await AsyncResult("t").until("STARTED", timeout=20)
        context._abort(False)
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
        assert (await backend.get_meta("t")).status == "REVOKED"

    async def test_on_timeout(self, running: asyncio.Task[None], elsewhere: Backend) -> None:
        with pytest.raises(ResultTimeout):
            await elsewhere.result("t").get(timeout=0.01, on_timeout="revoke")
        with pytest.raises(TaskRevoked):
            await running

    async def test_on_cancel(self, running: asyncio.Task[None], elsewhere: Backend) -> None:
        waiting = asyncio.create_task(elsewhere.result("t").get(on_cancel="revoke"))
        await waits_for(elsewhere, 1)
        waiting.cancel()
        with pytest.raises(TaskRevoked):
            await running
        assert waiting.cancelled()

    async def test_scope(self, running: asyncio.Task[None], elsewhere: Backend) -> None:
        await elsewhere.mark_as_failure("other", ValueError("boom"))
        with pytest.raises(ValueError, match="boom"):
            async with scope() as tasks:
                await gather(*(tasks.adopt(elsewhere.result(id)) for id in ("t", "other")), timeout=20)
        with pytest.raises(TaskRevoked, match="terminated"):
            await running

    @pytest.mark.parametrize("how", ["await", "scope", "a wait within a group of tasks"])
    async def test_the_backend_is_closed_at_once(
        self, running: asyncio.Task[None], elsewhere: Backend, how: str
    ) -> None:
        """Who is cancelled has not yet had its turn."""
        handle = elsewhere.result("t")

        async def wait() -> None:
            if how == "await":
                await handle.get(on_cancel="revoke")
            elif how == "scope":
                async with scope() as tasks:
                    await tasks.adopt(handle)
            else:
                async with asyncio.TaskGroup() as group:
                    group.create_task(handle.get(on_cancel="revoke"))

        waiting = asyncio.create_task(wait())
        await waits_for(elsewhere, 1)
        waiting.cancel()
        await elsewhere.aclose()
        with pytest.raises(TaskRevoked):
            await running
        await asyncio.wait([waiting])
        assert waiting.cancelled()

    async def test_a_set(self, backend: Backend, elsewhere: Backend) -> None:
        async def work(id: str) -> None:
            async with backend.track(id):
                await asyncio.Event().wait()

        ids = ["a", "b", "c"]
        running = [asyncio.create_task(work(id)) for id in ids]
        handles = elsewhere.results(ids)
        for handle in handles:
            await handle.until("STARTED", timeout=20)
        replies = await handles.revoke(wait=True, timeout=20)
        assert sorted(reply.detail for reply in replies) == ["a: revoked", "b: revoked", "c: revoked"]
        await asyncio.wait(running)
        assert all(isinstance(task.exception(), TaskRevoked) for task in running)

    async def test_nothing_is_left_listening(self, backend: Backend) -> None:
        async with backend.track("t"):
            await waits_for(backend, 1)
        await until(lambda: backend.stats().pending == 0)
