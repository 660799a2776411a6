"""One backend, and one handle, on several event loops: at the same time in threads, and one after another."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

import asyncresult
from asyncresult import AsyncResult, Backend, Executor
from asyncresult._storage.engines import Engines
from tests.backends.waiting import waits_for


@pytest.fixture
def backend() -> Backend:
    """One that no block is entered for: it outlives its loops."""
    return asyncresult.connect("memory://")


def left_behind(backend: Backend, wait: Callable[[], Awaitable[Any]], keys: int = 1) -> None:
    """Wait on a loop that is closed while it waits."""

    async def begin() -> None:
        task = asyncio.ensure_future(wait())
        await waits_for(backend, keys)
        task._log_destroy_pending = False  # type: ignore[attr-defined]

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()


async def drained(stream: Any) -> None:
    async for _ in stream:
        pass


WAITS: list[Callable[[AsyncResult[Any]], Awaitable[Any]]] = [
    lambda handle: handle.get(),
    lambda handle: handle.get(timeout=60),
    lambda handle: handle.until("STARTED"),
    lambda handle: drained(handle.updates()),
    lambda handle: drained(handle.collect()),
    lambda handle: drained(asyncresult.as_completed([handle])),
    lambda handle: drained(asyncresult.ResultSet([handle]).updates()),
    lambda handle: asyncresult.gather(handle),
    lambda handle: asyncio.wait([handle.as_future()]),
]


@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_whose_loop_was_closed_ends_quietly(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wait: Callable[..., Any]
) -> None:
    """It is collected, and has nothing to take back on a loop that is closed."""
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: raised.append(unraisable.exc_value))
    left_behind(backend, lambda: wait(backend.result("t")))
    asyncio.run(backend.aclose())  # nobody holds the wait any more
    gc.collect()
    assert raised == []
    assert caplog.messages == []


async def then_runs(backend: Backend) -> None:
    async def callback(value: int) -> None:
        await asyncio.sleep(60)

    await backend.mark_as_done("done", 1)
    cast("AsyncResult[int]", backend.result("done")).then(callback)
    await asyncio.sleep(0.01)


async def revocation_runs(backend: Backend) -> None:
    waiting = asyncio.ensure_future(backend.result("t").get(on_cancel="revoke"))
    await waits_for(backend, 1)
    waiting.cancel()
    await asyncio.sleep(0)


async def job_runs(backend: Backend) -> None:
    executor = Executor(backend)
    await executor.__aenter__()
    executor.submit(asyncio.sleep, 60)
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("use", [then_runs, revocation_runs, job_runs], ids=lambda use: use.__name__)
def test_what_runs_on_a_loop_that_is_closed_is_not_kept(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, use: Callable[[Backend], Awaitable[None]]
) -> None:
    """Nor the loop, with all that was waited for on it: a program may make one for each of its jobs."""
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: raised.append(unraisable.exc_value))

    async def begin() -> None:
        await use(backend)
        for task in asyncio.all_tasks():
            task._log_destroy_pending = False  # type: ignore[attr-defined]

    loops: list[weakref.ref[Any]] = []
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loops.append(weakref.ref(loop))
        loop.run_until_complete(begin())
        loop.close()
        del loop
        gc.collect()
    assert [alive() for alive in loops[:2]] == [None, None]
    assert raised == []
    asyncio.run(backend.aclose())


@pytest.mark.parametrize(
    "make",
    [
        lambda backend: backend.result("t").updates(),
        lambda backend: backend.results(["t"]).as_completed(),
        lambda backend: backend.results(["t"]).updates(),
        lambda backend: backend.result("t").collect(),
    ],
    ids=["updates", "as_completed", "updates of a set", "collect"],
)
def test_a_stream_is_closed_after_its_loop(backend: Backend, make: Callable[[Backend], Any]) -> None:
    streams: list[Any] = []

    def reads() -> Awaitable[Any]:
        streams.append(make(backend))
        return drained(streams[0])

    left_behind(backend, reads)
    asyncio.run(streams[0].aclose())
    asyncio.run(backend.aclose())


def test_a_callback_is_taken_off_after_its_loop(backend: Backend) -> None:
    handle = backend.result("t")

    async def listens() -> None:
        handle.add_done_callback(print)

    left_behind(backend, listens)

    async def takes_off() -> int:
        return handle.remove_done_callback(print)

    assert asyncio.run(takes_off()) == 1
    asyncio.run(backend.aclose())


def test_a_failure_before_it_ends_a_wait_that_is_begun_anew(backend: Backend) -> None:
    """Though the first wait, whose loop was closed under it, listened for that failure already."""
    parent = backend.result("parent")
    child = backend.result("child", parent=parent)
    left_behind(backend, child.get, keys=2)

    async def again() -> None:
        waiting = asyncio.ensure_future(child.get(timeout=20))
        await waits_for(backend, 2)
        await backend.mark_as_failure("parent", ValueError("first"))
        with pytest.raises(ValueError, match="first"):
            await waiting
        await backend.aclose()

    asyncio.run(again())


def test_threads_that_come_to_a_backend_at_the_same_time() -> None:
    """Each forgets the loops that are closed: one may be gone, and others there, when it comes to it."""
    engines = Engines()
    loops: Any = engines._by_loop
    here, engine = cast(Any, object()), cast(Any, object())

    class Closed:
        def is_closed(self) -> bool:
            loops.pop(self, None)  # by another thread, which brings its own
            loops[Open()] = engine
            return True

    class Open:
        def is_closed(self) -> bool:
            return False

    loops.update({Closed(): engine, Open(): engine, Closed(): engine})
    begun = cast(Any, type("Begun", (), {"forks": 0}))
    assert engines.of(here, lambda: begun) is begun
    assert sorted(type(loop).__name__ for loop in loops) == ["Open", "Open", "Open", "object"]
