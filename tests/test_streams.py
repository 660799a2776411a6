"""Streams over many results: as_completed() and the updates of a set, also when they are interrupted or closed."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import asyncresult
from asyncresult import (
    FIRST_EXCEPTION,
    AsyncResult,
    Backend,
    BackendClosed,
    BackendUnavailable,
    EagerResult,
    GroupResult,
    ResultDecodeError,
    ResultSet,
    ResultTimeout,
    as_completed,
    wait,
)
from asyncresult._handles import feeds, joins, streams
from asyncresult._handles.joins import READ_FIRST
from asyncresult._storage.memory import Records
from asyncresult._storage.rounds import AT_ONCE
from asyncresult._storage.store import engine_of
from tests.backends.waiting import until, waits_for


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with asyncresult.connect("memory://") as backend:
        yield backend


def nobody_waits(backend: Backend) -> bool:
    return backend.stats().pending == backend.stats().subscribed == 0


STREAMS: list[Callable[[], Any]] = [
    lambda: AsyncResult("t").updates(),
    lambda: ResultSet([AsyncResult("t")]).updates(),
    lambda: ResultSet([AsyncResult("t")]).as_completed(),
]
NAMES = ["updates", "updates of a set", "as_completed"]


@pytest.mark.parametrize("make", STREAMS, ids=NAMES)
@pytest.mark.parametrize("ticks", range(6))
async def test_a_cancelled_anext_loses_nothing(backend: Backend, make: Callable[[], Any], ticks: int) -> None:
    """In whatever moment: a stream to a browser is looked at with a timeout, for the sake of keep-alives."""
    stream = make()
    for _ in range(2):
        reader = asyncio.ensure_future(anext(stream))
        for _ in range(ticks):
            await asyncio.sleep(0)
        reader.cancel()
        await asyncio.wait([reader])
    await backend.mark_as_done("t", 1)
    async with asyncio.timeout(5):
        items = [item async for item in stream]
    last = items[-1][1] if isinstance(items[-1], tuple) else items[-1]
    assert last.status == "SUCCESS" if hasattr(last, "status") and not callable(last.status) else last.value == 1
    await until(lambda: nobody_waits(backend))


@pytest.mark.parametrize("make", STREAMS, ids=NAMES)
async def test_a_closed_stream_ends(backend: Backend, make: Callable[[], Any]) -> None:
    """For who reads it now, too."""
    await backend.mark_as_started("t")
    stream = make()
    if "Completed" not in type(stream).__name__:
        await anext(stream)
    reader = asyncio.ensure_future(anext(stream, "the end"))
    await asyncio.sleep(0.01)  # it reads
    await waits_for(backend, 1)
    await stream.aclose()
    async with asyncio.timeout(20):
        assert await reader == "the end"
    assert [item async for item in stream] == []
    await until(lambda: nobody_waits(backend))


@pytest.mark.parametrize("make", STREAMS, ids=NAMES)
async def test_a_second_reader_is_refused_and_disturbs_nobody(backend: Backend, make: Callable[[], Any]) -> None:
    await backend.mark_as_started("t")
    stream = make()
    if "Completed" not in type(stream).__name__:
        await anext(stream)
    reader = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.01)  # it reads
    await waits_for(backend, 1)
    with pytest.raises(RuntimeError, match="one reader"):
        async with asyncio.timeout(5):
            await anext(stream)
    await backend.mark_as_done("t", 1)
    assert await reader


async def test_what_is_added_to_a_stream_that_is_over_is_not_waited_for(backend: Backend) -> None:
    await backend.mark_as_done("t", 1)
    for close in (True, False):
        results = backend.results(["t"])
        stream = results.as_completed()
        async for _ in stream:
            if close:
                break
        if close:
            await stream.aclose()
        await until(lambda: nobody_waits(backend))
        results.add(AsyncResult(f"later {close}"))
        assert backend.stats().pending == 0


async def test_members_that_come_and_go_under_a_loop(backend: Backend) -> None:
    results = backend.results(["a", "b"])
    seen: list[str] = []

    async def loop() -> None:
        async for handle in results.as_completed():
            seen.append(handle.id)

    looping = asyncio.ensure_future(loop())
    await waits_for(backend, 2)
    results.add(ResultSet([AsyncResult("c"), AsyncResult("d")]))  # type: ignore[arg-type]
    results.remove("b")
    await waits_for(backend, 3)
    for id in ("c", "a", "b"):
        await backend.mark_as_done(id, 1)
    await until(lambda: len(seen) == 2)
    assert not looping.done()
    results.clear()
    async with asyncio.timeout(5):
        await looping
    assert seen == ["c", "a"]
    await until(lambda: nobody_waits(backend))


async def test_a_member_that_cannot_be_waited_for_is_none(backend: Backend) -> None:
    async with asyncresult.connect("memory://closed") as closed:
        pass
    results = backend.results(["t"])
    stream = results.as_completed()
    with pytest.raises(BackendClosed):
        results.add(closed.result("u"))
    await backend.mark_as_done("t", 1)
    async with asyncio.timeout(5):
        assert [handle.id async for handle in stream] == ["t"]
    assert len(results) == 1


async def test_a_member_that_has_ended_and_is_taken_out_does_not_come_out(backend: Backend) -> None:
    results = backend.results(["a", "b"])
    stream = results.as_completed(timeout=20)
    await waits_for(backend, 2)
    for id in ("a", "b"):
        await backend.mark_as_done(id, 1)
    await until(lambda: all(handle.done() for handle in results.results))
    results.remove("a")
    assert [handle.id async for handle in stream] == ["b"]


async def test_the_end_of_a_member_is_not_dropped_for_the_states_of_others(backend: Backend) -> None:
    stream = ResultSet(backend.results(["a", "b"])).updates(timeout=20, maxsize=1)
    for _ in range(2):
        await anext(stream)
    await backend.mark_as_done("a", 1)
    for n in range(5):
        await backend.store_result("b", n, "PROGRESS")
    await backend.mark_as_done("b", 2)
    await until(lambda: stream.dropped == 5)
    assert [(handle.id, meta.result) async for handle, meta in stream] == [("a", 1), ("b", 2)]


@pytest.mark.parametrize("make", [lambda: AsyncResult("t"), lambda: ResultSet([AsyncResult("t")])], ids=NAMES[:2])
@pytest.mark.parametrize("late", [True, False], ids=["late", "never"])
async def test_a_look_that_finds_the_end_skips_no_state_before_it(
    backend: Backend, make: Callable[[], Any], late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer comes before messages that were published before that; but they are not waited for for ever."""
    engine, key = engine_of(backend), backend.task_key("t")
    answer: asyncio.Future[bytes | None] = engine.loop.create_future()
    monkeypatch.setattr(engine, "read", lambda key: answer)
    stream = make().updates(timeout=20 if late else 0.5)
    reader = asyncio.ensure_future(anext(stream))
    await waits_for(backend, 1)
    await backend.mark_as_started("t")
    await reader
    monkeypatch.setattr(Records, "publish", lambda *_: 0)
    await backend.store_result("t", None, "PROGRESS")
    [state] = await engine.read_many([key])
    await backend.mark_as_done("t", 1)
    [end] = await engine.read_many([key])
    assert state is not None
    barriers: list[list[bytes]] = []
    monkeypatch.setattr(engine, "subscribe", barriers.append)
    answer.set_result(end)
    await until(lambda: barriers)
    assert await AsyncResult("t").get() == 1, "who does not follow the states does not wait for them"
    if late:
        engine.waiters.pushed(key, state)
        engine.waiters.acked(barriers[0])
    async with asyncio.timeout(20):
        items = [item async for item in stream]
    states = [(item[1] if isinstance(item, tuple) else item).status for item in items]
    assert states == (["PROGRESS", "SUCCESS"] if late else ["SUCCESS"])


@pytest.mark.parametrize("make", [lambda: AsyncResult("t"), lambda: ResultSet([AsyncResult("t")])], ids=NAMES[:2])
async def test_a_stream_without_time_ends_with_its_first_answers(
    backend: Backend, make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "LOOK_ONCE_TIMEOUT", 1000.0)
    stream = make().updates(timeout=0)
    async with asyncio.timeout(20):
        await anext(stream)
        with pytest.raises(ResultTimeout):
            await anext(stream)


async def test_a_handle_that_is_there_twice_comes_out_once(backend: Backend) -> None:
    handle = AsyncResult[Any]("t")
    await backend.mark_as_done("t", 1)
    assert [h.id async for h in as_completed([handle, handle, AsyncResult("t")])] == ["t", "t"]


async def test_states_of_a_set_end_with_one_that_nobody_tries_again(backend: Backend) -> None:
    results = ResultSet[Any]([EagerResult("eager", ValueError("again"), "RETRY"), AsyncResult("t")])
    await backend.mark_as_done("t", 1)
    async with asyncio.timeout(5):
        states = [(handle.id, meta.status) async for handle, meta in results.updates()]
    assert sorted(states) == [("eager", "RETRY"), ("t", "SUCCESS")]


async def test_wait_counts_tasks(backend: Backend) -> None:
    first = AsyncResult[Any]("first")
    await backend.mark_as_done("first", 1)
    waiting = asyncio.ensure_future(wait([first, first, AsyncResult("first"), AsyncResult("second")], count=2))
    await waits_for(backend, 1)
    await backend.mark_as_done("second", 2)
    done, pending = await waiting
    assert {handle.id for handle in done} == {"first", "second"} and not pending
    done, pending = await wait([first, AsyncResult("never")], count=0)
    assert len(done) + len(pending) == 2
    done, _ = await wait([first, first], count=5, timeout=5)
    assert len(done) == 1
    done, pending = await wait([first, AsyncResult("first"), AsyncResult("never")], count=1)
    assert {handle.id for handle in done} == {"first"} and {handle.id for handle in pending} == {"never"}
    with pytest.raises(ValueError, match="whole number of at least 0"):
        await wait([first], count=-1)


async def test_ignored_results_are_over_in_every_form(backend: Backend) -> None:
    def ignored() -> AsyncResult[Any]:
        handle = AsyncResult[Any]("ignored")
        handle.ignored = True
        return handle

    called = asyncio.get_running_loop().create_future()
    ignored().add_done_callback(called.set_result)
    async with asyncio.timeout(5):
        assert await ignored() is None
        assert await ignored().then(lambda value: value) is None
        assert await ignored().as_future() is None
        assert (await called).value is None
        assert [handle.value async for handle in as_completed([ignored()])] == [None]
        done, _ = await wait([ignored()], return_when=FIRST_EXCEPTION)
        assert [handle.exception for handle in done] == [None]
        assert [meta async for meta in ignored().updates()] == []
        assert (await ignored().until("SUCCESS")).status == "PENDING"
        assert await ResultSet([ignored()]).first_success() is None
        assert await ResultSet([ignored()]).get(0) == [None]
        assert await ignored().ready() and await ResultSet([ignored()]).ready()
    assert ignored().done()


async def test_an_unreadable_member_ends_the_updates_of_the_others_not(backend: Backend) -> None:
    """It is raised when they have ended."""
    await engine_of(backend).put(backend.task_key("bad"), b"garbage", None)
    seen: list[str] = []

    async def follow() -> None:
        async for handle, meta in backend.results(["bad", "good"]).updates():
            seen.append(f"{handle.id} {meta.status}")

    following = asyncio.ensure_future(follow())
    await until(lambda: seen)
    await backend.mark_as_done("good", 1)
    with pytest.raises(ResultDecodeError):
        await following
    assert seen == ["good PENDING", "good SUCCESS"]


@pytest.mark.parametrize("make", STREAMS, ids=NAMES)
async def test_a_stream_that_was_dropped_takes_its_subscription_along(
    backend: Backend, make: Callable[[], Any]
) -> None:
    await backend.mark_as_started("t")
    stream = make()
    reader = asyncio.ensure_future(anext(stream))
    await waits_for(backend, 1)
    reader.cancel()
    await asyncio.wait([reader])
    del stream, reader
    gc.collect()
    await until(lambda: nobody_waits(backend))


async def test_a_closed_stream_of_a_set_does_not_wait_for_what_came_before_its_tasks(backend: Backend) -> None:
    child = AsyncResult[None]("child", parent=AsyncResult[None]("parent"))
    async with asyncio.timeout(20), ResultSet([child]).updates() as stream:
        await anext(stream)
        assert backend.stats().pending
    assert not backend.stats().pending


async def test_states_of_very_many_that_nobody_wants_any_more_while_they_are_begun(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are not begun; nor is the stream that has gone a failure of the loop."""
    monkeypatch.setattr(streams, "LOOKS_AT_ONCE", 2)
    for closed in (False, True):
        stream = ResultSet(AsyncResult(f"t{number}") for number in range(100)).updates()
        first = asyncio.ensure_future(anext(stream))
        await until(lambda: backend.stats().pending)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        if closed:
            await stream.aclose()
        del stream, first
        gc.collect()
        begun = backend.stats().pending
        assert begun < 100
        await until(lambda: backend.stats().pending == 0)


async def test_a_member_that_goes_while_very_many_are_begun_takes_no_other_along(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joins, "AT_ONCE", 10)
    results = backend.results([str(number) for number in range(2 * READ_FIRST)])
    seen: set[str] = set()

    async def loop() -> None:
        async for handle in results.as_completed():
            seen.add(handle.id)

    looping = asyncio.ensure_future(loop())
    await asyncio.sleep(0)
    results.remove("0")
    await waits_for(backend, 2 * READ_FIRST - 1)
    for number in range(1, 2 * READ_FIRST):
        await backend.mark_as_done(str(number), number)
    async with asyncio.timeout(5):
        await looping
    assert seen == {str(number) for number in range(1, 2 * READ_FIRST)}


async def test_closed_while_very_many_are_begun_each_comes_out_with_the_reason(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joins, "AT_ONCE", 10)
    stream = backend.results([str(number) for number in range(2 * READ_FIRST)]).as_completed()
    await asyncio.sleep(0)
    await backend.aclose()
    async with asyncio.timeout(20):
        reasons = [handle.exception async for handle in stream]
    assert [type(reason) for reason in reasons] == [BackendClosed] * 2 * READ_FIRST


async def test_a_look_at_a_group_that_was_never_sent(backend: Backend) -> None:
    await backend.mark_as_failure("before", ValueError("first"))
    group = GroupResult("g", backend.results(["x", "y"]), parent=AsyncResult("before"))
    seen: list[str] = []
    async for handle in ResultSet([group]).as_completed(timeout=0):
        seen.append(handle.id)
        with pytest.raises(ValueError, match="first"):
            assert handle.value
    assert seen == ["x", "y"]


@pytest.mark.parametrize("stream", ["as_completed", "updates"])
async def test_of_very_many_all_belong_to_the_backend_of_the_beginning(stream: str) -> None:
    """Though the last are listened for when another one is current again."""
    members = ResultSet([AsyncResult(f"t{number}") for number in range(3 * AT_ONCE)])
    async with asyncresult.connect("memory://"):
        async with asyncresult.connect("memory://") as inner:
            states: Any = members.as_completed() if stream == "as_completed" else members.updates()
            first = asyncio.ensure_future(anext(states))
            await asyncio.sleep(0)
        assert all(member.backend is inner for member in members.results)
        await asyncio.gather(first, return_exceptions=True)
        await states.aclose()


class WithAChild:
    """The request of a task that sent another one."""

    def __init__(self, backend: Backend) -> None:
        self.children = [AsyncResult[int]("child", backend=backend)]


async def test_a_walk_goes_on_after_a_cancelled_step(backend: Backend) -> None:
    walk = AsyncResult[int]("root").collect()
    await cancelled_while_waiting(walk, backend)
    await backend.mark_as_done("root", 1, request=WithAChild(backend))
    assert (await anext(walk))[1] == 1
    await cancelled_while_waiting(walk, backend)
    await backend.mark_as_done("child", 2)
    assert [value async for _, value in walk] == [2]

    nodes = AsyncResult[int]("root").iterdeps()
    await anext(nodes)
    step = asyncio.ensure_future(anext(nodes))
    await asyncio.sleep(0)
    assert step.cancel()
    await asyncio.wait([step])
    assert [node.id async for _, node in nodes] == ["child"]
    await until(lambda: nobody_waits(backend))


async def cancelled_while_waiting(stream: AsyncIterator[Any], backend: Backend) -> None:
    step = asyncio.ensure_future(anext(stream))
    await waits_for(backend, 1)
    assert step.cancel()
    await asyncio.wait([step])


async def test_a_walk_that_is_closed_ends(backend: Backend) -> None:
    """While it waits for a task, too; a second reader is refused, and disturbs nobody."""
    walk = AsyncResult[int]("root").collect()
    reader = asyncio.ensure_future(anext(walk, "the end"))
    await waits_for(backend, 1)
    with pytest.raises(RuntimeError, match="one reader"):
        async with asyncio.timeout(20):
            await anext(walk)
    assert not reader.done()
    await walk.aclose()  # type: ignore[attr-defined]
    async with asyncio.timeout(20):
        assert await reader == "the end"
    assert [item async for item in walk] == []
    await until(lambda: nobody_waits(backend))


async def test_a_stream_that_is_closed_while_a_history_is_read_ends(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read lasts as long as an outage does."""
    reading: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    requests: list[str] = []

    def history(key: bytes, after: str) -> asyncio.Future[Any]:
        requests.append(after)
        return reading

    monkeypatch.setattr(engine_of(backend), "history", history)
    stream = AsyncResult("t").updates(since="0")
    reader = asyncio.ensure_future(anext(stream, "the end"))
    await until(lambda: requests)
    await stream.aclose()
    async with asyncio.timeout(20):
        assert await reader == "the end"
    assert reading.cancelled()


async def test_a_history_that_cannot_be_read_for_a_reader_who_has_gone_is_no_trouble(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, loop_errors: list[dict[str, Any]]
) -> None:
    """Both happen in the same turn of the loop."""
    readings: list[asyncio.Future[Any]] = []

    def history(key: bytes, after: str) -> asyncio.Future[Any]:
        readings.append(asyncio.get_running_loop().create_future())
        return readings[-1]

    monkeypatch.setattr(engine_of(backend), "history", history)
    stream = AsyncResult("t").updates(since="0")
    reader = asyncio.ensure_future(anext(stream))
    await until(lambda: readings)
    readings.pop().set_exception(BackendUnavailable("down"))
    reader.cancel()
    await asyncio.wait([reader])
    assert reader.cancelled()
    del reader, stream
    gc.collect()
    assert not loop_errors
