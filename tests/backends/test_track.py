"""The worker's side over every kind of backend: states, progress, history, signs of life, revoking."""

from __future__ import annotations

import asyncio
import gc
import os
import weakref
from typing import Any

import pytest

from asyncresult import (
    AsyncResult,
    Backend,
    GroupResult,
    ResultEncodeError,
    ResultTimeout,
    TaskMeta,
    current_task,
)
from asyncresult._handles.updates import Updates
from asyncresult._storage.store import engine_of

from .conftest import ROWS
from .waiting import until, waits_for

pytestmark = [
    pytest.mark.not_over("rpc", reason="only workers reply"),
    pytest.mark.not_over(
        "django", "postgresql", "memcached", "mongodb", reason="as over SQLite: what differs is in the contract"
    ),
]


async def states(handle: AsyncResult[Any], **options: Any) -> list[TaskMeta]:
    return [meta async for meta in handle.updates(timeout=10, **options)]


class TestStates:
    async def test_started_then_success(self, backend: Backend) -> None:
        async with backend.track("t", name="resize") as task:
            assert task.id == "t"
            started = await backend.get_meta("t")
            task.set_result({"url": "x"})
        assert (started.status, started.name) == ("STARTED", "resize")
        assert started.result["pid"] == os.getpid()
        meta = await backend.get_meta("t")
        assert (meta.status, meta.result, meta.children or [], meta.traceback) == ("SUCCESS", {"url": "x"}, [], None)
        assert meta.date_done is not None

    async def test_without_an_id_or_a_result(self, backend: Backend) -> None:
        async with backend.track() as one, backend.track() as other:
            pass
        assert one.id != other.id
        assert await backend.result(one.id).get(timeout=20) is None

    async def test_failure_with_causes_groups_and_notes(self, backend: Backend) -> None:
        error = ExceptionGroup("several", [KeyError("one"), ValueError("two")])
        error.add_note("seen at night")
        with pytest.raises(ExceptionGroup) as raised:
            async with backend.track("t"):
                try:
                    raise OSError("the root")
                except OSError as cause:
                    raise error from cause
        assert raised.value is error
        meta = await backend.get_meta("t")
        assert (meta.status, meta.result["exc_type"]) == ("FAILURE", "ExceptionGroup")
        assert meta.traceback is not None
        for words in ("the root", "direct cause", "Exception Group Traceback", "KeyError: 'one'", "seen at night"):
            assert words in meta.traceback
        assert meta.traceback.endswith("\n")

    async def test_the_exception_is_rebuilt(self, backend: Backend) -> None:
        with pytest.raises(LookupError):
            async with backend.track("t"):
                raise LookupError("nothing", 7)
        with pytest.raises(LookupError) as raised:
            await AsyncResult("t").get(timeout=20)
        assert raised.value.args == ("nothing", 7)

    async def test_a_value_that_does_not_fit_is_a_failure(self, backend: Backend) -> None:
        with pytest.raises(ResultEncodeError):
            async with backend.track("t") as task:
                task.set_result(object())
        meta = await backend.get_meta("t")
        assert (meta.status, meta.result["exc_type"]) == ("FAILURE", "ResultEncodeError")

    @pytest.mark.not_over(*ROWS, reason="no table has a column for parents and groups")
    async def test_what_a_task_reports_about_itself(self, backend: Backend) -> None:
        described = backend.track(
            "t", name="n", args=(1, "a"), kwargs={"b": 2}, worker="w", queue="q", retries=2, parent_id="p", group_id="g"
        )
        async with described as task:
            task.add_child(AsyncResult("child"))
            task.add_child(GroupResult("group", [AsyncResult("member")]))
        meta = await backend.get_meta("t")
        assert (meta.name, meta.args, meta.kwargs) == ("n", [1, "a"], {"b": 2})
        assert (meta.worker, meta.queue, meta.retries) == ("w", "q", 2)
        assert (meta.parent_id, meta.group_id) == ("p", "g")
        children = await AsyncResult("t").children()
        assert children is not None
        assert [child.id for child in children] == ["child", "group"]

    async def test_retry_leaves_the_end_to_the_next_run(self, backend: Backend) -> None:
        handle = AsyncResult[int]("t")
        context = backend.track("t")
        async with context as task:
            await task.retry(ValueError("not yet"))
        meta = await backend.get_meta("t")
        assert (meta.status, meta.retries, meta.result["exc_type"]) == ("RETRY", 0, "ValueError")
        assert "ValueError: not yet" in (meta.traceback or "")
        async with context as task:
            task.set_result(3)
        assert await handle.get(timeout=20) == 3
        assert await handle.retries() == 1

    async def test_ignored(self, backend: Backend) -> None:
        async with backend.track("t", ignore_result=True) as task:
            await task.progress(1)
            task.set_result(1)
        with pytest.raises(ValueError, match="boom"):
            async with backend.track("u", ignore_result=True):
                raise ValueError("boom")
        assert [meta.status for meta in await backend.get_many(["t", "u"])] == ["PENDING", "PENDING"]

    async def test_a_redelivered_task_runs_again(self, backend: Backend) -> None:
        """Its final state stands meanwhile; a success replaces a failure."""
        with pytest.raises(ValueError, match="boom"):
            async with backend.track("t"):
                raise ValueError("boom")
        async with backend.track("t") as task:
            assert (await backend.get_meta("t")).status == "FAILURE"
            task.set_result(1)
        assert (await backend.get_meta("t")).status == "SUCCESS"

    async def test_a_context_that_is_entered_again(self, backend: Backend) -> None:
        context = backend.track("t")
        with pytest.raises(ValueError, match="boom"):
            async with context:
                context.set_result("of the first run")
                raise ValueError("boom")
        async with context:
            pass
        assert await backend.result("t").get(timeout=20) is None

    async def test_current_task(self, backend: Backend) -> None:
        assert current_task() is None
        async with backend.track() as outer:
            async with backend.track() as inner:
                assert current_task() is inner
            assert current_task() is outer
        assert current_task() is None

    @pytest.mark.parametrize("wrong", [{"heartbeat": 0}, {"history": 0}, {"task_id": ""}])
    async def test_wrong_arguments(self, backend: Backend, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="must"):
            backend.track(**wrong)


class TestCancelled:
    async def test_a_cancelled_block_is_revoked(self, backend: Backend) -> None:
        async def work() -> None:
            async with backend.track("t"):
                await asyncio.Event().wait()

        running = asyncio.create_task(work())
        await AsyncResult("t").until("STARTED", timeout=20)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        meta = await backend.get_meta("t")
        assert (meta.status, meta.result["exc_message"]) == ("REVOKED", ["cancelled"])

    async def test_cancelled_again_while_it_stores_that(self, backend: Backend) -> None:
        async def work() -> None:
            async with backend.track("t"):
                await asyncio.Event().wait()

        running = asyncio.create_task(work())
        await AsyncResult("t").until("STARTED", timeout=20)
        while not running.done():
            running.cancel()
            await asyncio.sleep(0)
        assert (await backend.get_meta("t")).status == "REVOKED"

    async def test_cancelled_before_the_block(self, backend: Backend) -> None:
        """STARTED may be stored already: it must not stand for ever."""

        async def work() -> None:
            async with backend.track("t"):
                pytest.fail("entered")

        running = asyncio.create_task(work())
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        assert (await backend.get_meta("t")).status == "REVOKED"


class TestProgress:
    async def test_shape(self, backend: Backend) -> None:
        async with backend.track("t") as task:
            await task.progress(3, 10, note="thumbnails")
            meta = await AsyncResult("t").until("PROGRESS", timeout=20)
        assert meta.result == {"current": 3, "total": 10, "note": "thumbnails"}

    async def test_the_last_value_comes_before_the_end(self, backend: Backend) -> None:
        async with backend.track("t", progress_interval=60, history=10) as task:
            for step in range(1000):
                await task.progress(step)
        told = await states(AsyncResult("t"), since="0")
        assert [meta.status for meta in told] == ["STARTED", "PROGRESS", "PROGRESS", "SUCCESS"]
        assert [meta.result["current"] for meta in told[1:-1]] == [0, 999]

    async def test_the_last_value_comes_in_time(self, backend: Backend) -> None:
        async with backend.track("t", progress_interval=0.01) as task:
            for step in range(1000):
                await task.progress(step)
            async for meta in AsyncResult("t").updates(timeout=20):
                if meta.result == {"current": 999}:
                    break

    async def test_a_value_that_does_not_fit(self, backend: Backend) -> None:
        async with backend.track("t") as task:
            with pytest.raises(ResultEncodeError):
                await task.progress(what=object())
            await task.progress(1)
            await AsyncResult("t").until("PROGRESS", timeout=20)

    async def test_outside_the_block(self, backend: Backend) -> None:
        async with backend.track("t") as task:
            pass
        with pytest.raises(RuntimeError, match="does not run"):
            await task.progress(1)


class TestHistory:
    @pytest.fixture
    async def finished(self, backend: Backend) -> AsyncResult[str]:
        async with backend.track("t", history=100, progress_interval=0) as task:
            for step in range(5):
                await task.progress(step)
                await AsyncResult("t").meta()  # the store before is done
            task.set_result("done")
        return AsyncResult("t")

    async def test_all_states_are_kept(self, finished: AsyncResult[str]) -> None:
        told = await states(finished, since="0")
        assert [meta.status for meta in told] == ["STARTED", *["PROGRESS"] * 5, "SUCCESS"]
        assert [meta.result["current"] for meta in told[1:-1]] == list(range(5))

    async def test_resume_behind_each(self, finished: AsyncResult[str]) -> None:
        seen: list[tuple[str | None, TaskMeta]] = []
        stream = finished.updates(since="0")
        async for meta in stream:
            seen.append((stream.last_id, meta))
        for number, (last_id, _) in enumerate(seen[:-1]):
            assert await states(AsyncResult("t"), since=last_id) == [meta for _, meta in seen[number + 1 :]]
        # Behind the last one: the end again, so that a stream always has one.
        (end,) = await states(AsyncResult("t"), since=seen[-1][0])
        assert (end.status, end.result) == ("SUCCESS", "done")  # a table keeps less than the history

    async def test_a_slow_reader_misses_nothing(self, backend: Backend) -> None:
        """With room for one state it drops nearly all of what is published, and reads it all the same."""
        stream = AsyncResult[None]("t").updates(since="0", maxsize=1, timeout=10)
        assert (await anext(stream)).status == "PENDING"
        async with backend.track("t", history=100, progress_interval=0) as task:
            for step in range(20):
                await task.progress(step)
                await AsyncResult("t").meta()
        told = [meta async for meta in stream]
        assert [meta.result["current"] for meta in told[1:-1]] == list(range(20))

    async def test_only_the_last_are_kept(self, backend: Backend) -> None:
        async with backend.track("t", history=3, progress_interval=0) as task:
            for step in range(5):
                await task.progress(step)
                await AsyncResult("t").meta()
        told = await states(AsyncResult("t"), since="0")
        assert [meta.result and meta.result["current"] for meta in told] == [3, 4, None]

    async def test_a_task_without_history_is_followed_live(self, backend: Backend) -> None:
        stream = AsyncResult[None]("t").updates(since="0", timeout=10)
        assert (await anext(stream)).status == "PENDING"
        async with backend.track("t"):
            assert (await anext(stream)).status == "STARTED"
        assert (await anext(stream)).status == "SUCCESS"
        assert [meta async for meta in stream] == []

    async def test_an_end_that_was_not_kept(self, backend: Backend) -> None:
        """Written by somebody who does not know of the history."""
        context = backend.track("t", history=5)
        async with context as task:
            await task.retry()
        stream = AsyncResult[None]("t").updates(since="0", timeout=10)
        assert [(await anext(stream)).status, (await anext(stream)).status] == ["STARTED", "RETRY"]
        await backend.mark_as_done("t", 1)
        assert [meta.status async for meta in stream] == ["SUCCESS"]

    async def test_the_budget_holds(self, backend: Backend) -> None:
        context = backend.track("t", history=5)
        async with context as task:
            await task.retry()
        with pytest.raises(ResultTimeout):
            await anext(await behind(AsyncResult("t").updates(since="0", timeout=0.05), "RETRY"))

    async def test_forget_takes_it_along(self, finished: AsyncResult[str], backend: Backend) -> None:
        assert await backend.forget("t") == 1
        stream = AsyncResult[str]("t").updates(since="0")
        assert (await anext(stream)).status == "PENDING"
        await stream.aclose()

    @pytest.mark.parametrize("wrong", ["", "x", "1-", "-1", "1-1-1", "$"])
    async def test_wrong_since(self, backend: Backend, wrong: str) -> None:
        with pytest.raises(ValueError, match="last_id"):
            AsyncResult("t").updates(since=wrong)


async def behind(stream: Updates, status: str) -> Updates:
    async for meta in stream:
        if meta.status == status:
            return stream
    raise AssertionError


class TestAttempts:
    async def test_the_later_attempt_wins(self, backend: Backend) -> None:
        """A run that hung, and goes on when the task has been given to another worker, says nothing any more."""
        with pytest.raises(ValueError, match="too late"):
            async with backend.track("t", kwargs={"retries": 9}, progress_interval=0) as earlier:
                assert (await backend.get_meta("t")).retries == 0
                async with backend.track("t", retries=1, progress_interval=0) as later:
                    await later.progress(1)
                    await until_stored(backend, "PROGRESS", 1)
                    await earlier.progress(5)
                    await earlier.progress(6)
                    await later.progress(2)
                    await until_stored(backend, "PROGRESS", 1)
                    assert (await backend.get_meta("t")).result == {"current": 2}
                    await backend.mark_as_failure("t", ValueError("x"), request=earlier.request)
                    assert (await backend.get_meta("t")).status == "PROGRESS"
            assert await AsyncResult("t") is None
            raise ValueError("too late")
        assert await AsyncResult("t") is None

    async def test_a_run_that_begins_is_the_latest(self, backend: Backend) -> None:
        """Whatever number it has; and what it is done with is done."""
        async with backend.track("t", retries=3) as last:
            await last.retry()
        async with backend.track("t", progress_interval=0) as anew:
            await anew.progress(1)
            await until_stored(backend, "PROGRESS", 0)
        assert await AsyncResult("t") is None
        async with backend.track("u") as first:
            async with backend.track("u", retries=1) as second:
                await second.retry()
            first.set_result("done")
        assert await AsyncResult("u") == "done"


async def until_stored(backend: Backend, status: str, retries: int) -> None:
    async with asyncio.timeout(10):
        while ((meta := await backend.get_meta("t")).status, meta.retries) != (status, retries):
            await asyncio.sleep(0.01)


@pytest.mark.not_over(*ROWS, reason="no table has a column for it")
class TestHeartbeat:
    async def test_heartbeats_keep_a_task_fresh_and_are_no_news(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handle = AsyncResult[None]("t")
        stream = handle.updates(timeout=10)
        assert (await anext(stream)).status == "PENDING"
        await waits_for(backend, 1)
        # As many may be missing as come in five seconds, because a busy machine stands still for some.
        monkeypatch.setattr("asyncresult.meta.MISSED_HEARTBEATS", 250)
        async with backend.track("t", heartbeat=0.02):
            first = await backend.get_meta("t")
            await until_later(backend, first)
            later = await backend.get_meta("t")
            assert not later.stale
            assert later.stale_at is not None and first.stale_at is not None
            assert later.stale_at > first.stale_at
        assert [meta.status async for meta in stream] == ["STARTED", "SUCCESS"]
        assert (await backend.get_meta("t")).heartbeat is None

    async def test_a_dead_worker_is_reported_once(self, backend: Backend) -> None:
        context = backend.track("t", heartbeat=0.7)  # not over before the stream has begun
        await context.__aenter__()
        context._leave()  # as if its process had died: nothing more is stored
        stream = AsyncResult[None]("t").updates(timeout=10)
        first = await anext(stream)
        assert first.status == "STARTED"
        second = await anext(stream)
        assert second == first
        assert second.stale
        assert (await backend.get_meta("t")).stale
        await backend.mark_as_done("t", 1)
        assert [meta.status async for meta in stream] == ["SUCCESS"]

    async def test_late_streams_report_it_once_too(self, backend: Backend) -> None:
        context = backend.track("t", heartbeat=0.001)
        await context.__aenter__()
        context._leave()
        while not (await backend.get_meta("t")).stale:
            await asyncio.sleep(0.001)
        stream = AsyncResult[None]("t").updates(timeout=10)
        assert (await anext(stream)).stale
        coming = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.01)
        await backend.mark_as_done("t", 1)
        assert (await coming).status == "SUCCESS"

    async def test_heartbeats_are_not_kept(self, backend: Backend) -> None:
        async with backend.track("t", heartbeat=0.001, history=100):
            await until_later(backend, await backend.get_meta("t"))
        kept = await engine_of(backend).history(backend.key_beside("t", "history"), "0")
        assert len(kept) == len(["STARTED", "SUCCESS"])

    async def test_they_end_with_the_block(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = engine_of(backend)
        read, reads = engine.read, list[bytes]()

        def watched(key: bytes) -> asyncio.Future[bytes | None]:
            reads.append(key)
            return read(key)

        monkeypatch.setattr(engine, "read", watched)
        for retry in (False, True):
            async with backend.track("t", heartbeat=0.001) as task:
                await until(lambda: reads)
                if retry:
                    await task.retry()
            reads.clear()
            await asyncio.sleep(0.02)
            assert not reads

    async def test_a_record_that_cannot_be_read_is_renewed(self, backend: Backend) -> None:
        """It is no later run's."""
        async with backend.track("t", heartbeat=0.001), asyncio.timeout(20):
            await engine_of(backend).put(backend.task_key("t"), b"garbage", None)
            while await backend.get_raw("t") == b"garbage":
                await asyncio.sleep(0.001)
            assert (await backend.get_meta("t")).status == "STARTED"

    async def test_nobody_promised_anything(self, backend: Backend) -> None:
        await backend.mark_as_started("t", pid=1)
        assert (await backend.get_meta("t")).stale_at is None


async def until_later(backend: Backend, first: TaskMeta) -> None:
    """Until another sign of life was given."""
    while (await backend.get_meta("t")).heartbeat["at"] == first.heartbeat["at"]:
        await asyncio.sleep(0.001)


async def test_a_failed_block_keeps_nothing_alive(backend: Backend) -> None:
    """An exception in a circle with its frames would keep their locals until the garbage collector comes."""

    class Data: ...

    async def fail(data: Data) -> None:
        async with backend.track():
            raise ValueError(data is None)

    gc.collect()
    gc.disable()
    try:
        data = Data()
        seen = weakref.ref(data)
        try:
            await fail(data)
        except ValueError:
            pass
        del data
        await until(lambda: seen() is None, timeout=2)
    finally:
        gc.enable()
