"""Futures, promises and errors of a handle: what they keep alive, and what they keep subscribed."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

import asyncresult
from asyncresult import (
    AsyncResult,
    AsyncResultError,
    Backend,
    BackendClosed,
    GroupResult,
    Promise,
    ResultDecodeError,
    ResultSet,
    as_completed,
    gather,
    wait,
)
from asyncresult._handles.joins import READ_FIRST
from asyncresult._storage.store import engine_of
from tests.backends.waiting import until, waits_for


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with asyncresult.connect("memory://") as backend:
        yield backend


def nobody_waits(backend: Backend) -> bool:
    return backend.stats().pending == backend.stats().subscribed == 0


# -- dropped futures ----------------------------------------------------------------------------------------------


async def test_futures_that_were_dropped_end_their_waits(backend: Backend) -> None:
    await asyncio.wait([AsyncResult(f"t{n}").as_future() for n in range(3)], timeout=0.01)
    AsyncResult("other").as_concurrent_future()
    gc.collect()
    await until(lambda: nobody_waits(backend))


async def test_a_future_that_another_thread_drops_ends_its_wait(backend: Backend) -> None:
    """As a script does with those that concurrent.futures.wait() calls not done."""
    futures = [AsyncResult("t").as_concurrent_future()]
    await waits_for(backend, 1)
    await asyncio.to_thread(futures.clear)
    await until(lambda: nobody_waits(backend))


async def test_a_future_that_cannot_begin_to_wait(backend: Backend, loop_errors: list[dict[str, Any]]) -> None:
    await backend.aclose()
    for begin in (backend.result("t").as_future, backend.result("t").as_concurrent_future):
        with pytest.raises(BackendClosed):
            begin()
    gc.collect()
    await asyncio.sleep(0.01)
    assert loop_errors == []


async def test_a_future_with_callbacks_is_kept(backend: Backend) -> None:
    """By its wait; nobody else may hold it."""
    seen: list[Any] = []
    AsyncResult("t").as_future().add_done_callback(lambda future: seen.append(future.result()))
    AsyncResult("t").as_concurrent_future().add_done_callback(lambda future: seen.append(future.result()))

    async def awaits() -> None:
        seen.append(await AsyncResult("t").as_future())

    task = weakref.ref(asyncio.ensure_future(awaits()))
    await waits_for(backend, 1)
    gc.collect()
    await backend.mark_as_done("t", 1)
    await until(lambda: len(seen) == 3)
    assert seen == [1, 1, 1]
    gc.collect()
    assert task() is None


async def test_a_future_whose_last_callback_was_taken_off_is_not_kept(backend: Backend) -> None:
    future = AsyncResult("t").as_future()
    future.add_done_callback(print)
    assert future.remove_done_callback(print) == 1
    del future
    gc.collect()
    await until(lambda: nobody_waits(backend))


async def test_cancelled_futures_end_their_waits(backend: Backend) -> None:
    future, other = AsyncResult("t").as_future(), AsyncResult("u").as_concurrent_future()
    await waits_for(backend, 2)
    future.cancel()
    await asyncio.get_running_loop().run_in_executor(None, other.cancel)
    await until(lambda: nobody_waits(backend))
    assert isinstance(other, concurrent.futures.Future) and other.cancelled()


# -- cancelled promises -------------------------------------------------------------------------------------------


async def test_promises_that_were_cancelled_end_their_waits(backend: Backend) -> None:
    def set_of(*ids: str) -> ResultSet[Any]:
        return ResultSet([AsyncResult(id) for id in ids])

    promises = [
        AsyncResult("a").then(print),
        set_of("b", "c").then(print),
        AsyncResult("d").finally_(lambda: None),
        Promise.all([AsyncResult("e"), set_of("f")]),
        Promise.race([AsyncResult("g"), AsyncResult("h")]),
        Promise.resolve(AsyncResult("i")),
        Promise.resolve(None).then(lambda _: AsyncResult("j")),
    ]
    await waits_for(backend, 10)
    for promise in promises:
        promise.cancel()
    await until(lambda: nobody_waits(backend))


async def test_what_is_derived_from_the_same_result_goes_on(backend: Backend) -> None:
    handle = AsyncResult[Any]("t")
    first, second = handle.then(str), handle.then(repr)
    await waits_for(backend, 1)
    first.cancel()
    await asyncio.sleep(0)
    await backend.mark_as_done("t", 1)
    assert await second == "1"


async def test_a_race_that_is_decided_waits_for_nobody(backend: Backend) -> None:
    race: Promise[Any] = Promise.race([AsyncResult("a"), AsyncResult("never")])
    await waits_for(backend, 2)
    await backend.mark_as_done("a", 1)
    assert await race == 1
    await until(lambda: nobody_waits(backend))


# -- failures ------------------------------------------------------------------------------------------------------


class Data:
    """What a request has in its local variables."""


async def awaited() -> None:
    await AsyncResult("failed")


async def got() -> None:
    await AsyncResult("failed").get(timeout=5)


async def looked() -> None:
    await AsyncResult("failed").get(timeout=0)


async def gathered() -> None:
    await gather(AsyncResult("failed"), AsyncResult("never"))


async def future() -> None:
    await AsyncResult("failed").as_future()


async def chained() -> None:
    await AsyncResult("failed").then(print)


async def behind() -> None:
    await AsyncResult("never", parent=AsyncResult("failed"))


async def value() -> None:
    handle = AsyncResult("failed")
    await handle.meta()
    assert handle.value


async def unreadable() -> None:
    await AsyncResult("unreadable")


async def unreadable_looked() -> None:
    await AsyncResult("unreadable").get(timeout=0)


async def of_another_type() -> None:
    await AsyncResult("text", type=int)


async def timed_out() -> None:
    await AsyncResult("never").get(timeout=0.001)


async def join_timed_out() -> None:
    await gather(AsyncResult("never"), timeout=0.001)


async def all_failed() -> None:
    await ResultSet([AsyncResult("failed")]).first_success()


async def all_closed() -> None:
    async with asyncresult.connect("memory://") as other:
        asyncio.get_running_loop().call_soon(asyncio.ensure_future, other.aclose())
        await ResultSet([AsyncResult("never", backend=other)]).first_success()


async def chained_set() -> None:
    await ResultSet([AsyncResult("failed")]).then(print)


async def resolved_with_closed() -> None:
    await Promise.resolve(AsyncResult("never", backend=await closed()))


async def all_of_closed() -> None:
    await Promise.all([AsyncResult("never", backend=await closed())])


async def closed() -> Backend:
    async with asyncresult.connect("memory://") as other:
        return other


async def callback_failed() -> None:
    def callback(id: str, value: object) -> None:
        raise ValueError

    await ResultSet([AsyncResult("text")]).get(callback=callback)


async def message_failed() -> None:
    def on_message(meta: object) -> None:
        raise ValueError

    await AsyncResult("text").get(on_message=on_message)


async def stream_failed() -> None:
    async for _ in AsyncResult("unreadable").updates():
        pass


@pytest.mark.parametrize(
    "wait",
    [
        awaited,
        got,
        looked,
        gathered,
        future,
        chained,
        behind,
        value,
        unreadable,
        unreadable_looked,
        of_another_type,
        timed_out,
        join_timed_out,
        all_failed,
        all_closed,
        chained_set,
        resolved_with_closed,
        all_of_closed,
        callback_failed,
        message_failed,
        stream_failed,
    ],
    ids=lambda wait: wait.__name__,
)
async def test_a_failure_keeps_nothing_of_its_caller(backend: Backend, wait: Callable[[], Awaitable[None]]) -> None:
    """An exception in a circle with its traceback keeps all that it passed through until the collector comes."""
    await backend.mark_as_failure("failed", ValueError("no"))
    await backend.mark_as_done("text", "text")
    await engine_of(backend).put(backend.task_key("unreadable"), b"garbage", None)

    async def handled(data: Data) -> None:
        try:
            await wait()
        except (AsyncResultError, ValueError, ExceptionGroup):
            return
        raise AssertionError("it does not fail")

    gc.collect()
    gc.disable()
    try:
        data = Data()
        alive = weakref.ref(data)
        await handled(data)
        del data
        await asyncio.sleep(0.01)
        assert alive() is None
    finally:
        gc.enable()


# -- values ------------------------------------------------------------------------------------------------------


def behind_a_task(handle: AsyncResult[Any]) -> GroupResult[Any]:
    return GroupResult("g", [handle], parent=AsyncResult("before"))


async def given_up(promise: Promise[Any]) -> None:
    await asyncio.sleep(0.01)
    promise.cancel()


async def rejected(promise: Promise[Any]) -> None:
    with pytest.raises(ResultDecodeError):
        await promise


def model_in_a_dataclass() -> type:
    pydantic: Any = pytest.importorskip("pydantic")
    model = pydantic.create_model("Part", number=int)
    return dataclasses.make_dataclass("Whole", [("part", model)])


async def all_states(handle: AsyncResult[Any]) -> None:
    async for _ in ResultSet([handle]).updates():
        pass


async def unreadable_states(handle: AsyncResult[Any]) -> None:
    with pytest.raises(ResultDecodeError):
        async for _ in handle.updates():
            pass


NEVER = [f"never{number}" for number in range(READ_FIRST)]
ENDS: dict[str, tuple[str, Callable[[AsyncResult[Any]], Awaitable[Any]]]] = {
    "get": ("text", lambda handle: handle.get()),
    "gather": ("text", lambda handle: gather(handle)),
    "a set": ("text", lambda handle: ResultSet([handle]).get()),
    "a set of very many": ("text", lambda handle: ResultSet([handle, *map(AsyncResult, NEVER)]).wait(count=1)),
    "a group behind a task": ("text", lambda handle: behind_a_task(handle).get()),
    "wait": ("text", lambda handle: wait([handle])),
    "as_completed": ("text", lambda handle: anext(as_completed([handle]))),
    "first_success": ("text", lambda handle: ResultSet([handle]).first_success()),
    "updates of a set": ("text", all_states),
    "then": ("text", lambda handle: handle.then(str)),
    "then of a set": ("text", lambda handle: ResultSet([handle]).then(str)),
    "then, cancelled": ("never", lambda handle: given_up(handle.then(str))),
    "then of a set, cancelled": ("never", lambda handle: given_up(ResultSet([handle]).then(str))),
    "then, of another type": ("text", lambda handle: rejected(AsyncResult("text", type=int, parent=handle).then(str))),
    "then, of a type with a model in it": (
        "text",
        lambda handle: rejected(AsyncResult("dict", type=model_in_a_dataclass(), parent=handle).then(str)),
    ),
    "states, unreadable": ("unreadable", unreadable_states),
}


@pytest.mark.parametrize("name", ENDS)
async def test_what_is_over_keeps_no_value(backend: Backend, name: str) -> None:
    """The handles, and with them the values, go with whoever has waited: at once, not with the next collection."""
    await backend.mark_as_done("text", "text")
    await backend.mark_as_done("dict", {"part": {"number": "none"}})
    await engine_of(backend).put(backend.task_key("unreadable"), b"garbage", None)
    id, end = ENDS[name]
    gc.collect()
    gc.disable()
    try:
        handle = AsyncResult[Any](id)
        alive = weakref.ref(handle)
        async with asyncio.timeout(20):
            await end(handle)
        del handle
        await until(lambda: nobody_waits(backend))
        assert alive() is None
    finally:
        gc.enable()


async def test_each_caller_gets_an_error_of_its_own(backend: Backend) -> None:
    await engine_of(backend).put(backend.task_key("t"), b"garbage", None)
    handle = AsyncResult[Any]("t")
    errors = await asyncio.gather(handle.get(), handle.get(), handle, handle.as_future(), return_exceptions=True)
    assert isinstance(handle._error, ResultDecodeError) and handle._error.__traceback__ is None  # frames of the table
    known = [handle.exception, handle.exception]
    everything = [error for error in (*errors, *known) if isinstance(error, BaseException)]
    assert len({id(error) for error in everything}) == 6
    assert {str(error) for error in everything} == {str(errors[0])} and all(
        vars(error) == vars(everything[0]) for error in everything
    )
    closed = [asyncio.ensure_future(AsyncResult("u").get()), asyncio.ensure_future(gather(AsyncResult("u")))]
    await waits_for(backend, 1)
    await backend.aclose()
    ends = await asyncio.gather(*closed, return_exceptions=True)
    assert [type(end) for end in ends] == [BackendClosed] * 2 and ends[0] is not ends[1]


# -- ends in other threads, and after the loop --------------------------------------------------------------------


async def test_what_is_no_function_is_no_callback(backend: Backend) -> None:
    with pytest.raises(TypeError, match="a callback must be callable, not int"):
        AsyncResult("t").add_done_callback(5)  # type: ignore[arg-type]


async def test_a_future_that_is_cancelled_twice(backend: Backend) -> None:
    for future in (AsyncResult("t").as_future(), AsyncResult("t").as_concurrent_future()):
        assert future.cancel()
        future.cancel()  # a concurrent one says that it is cancelled, another that it was not this time
        assert future.cancelled()
    ended = AsyncResult("t").as_concurrent_future()
    await backend.mark_as_done("t", 1)
    assert await asyncio.wrap_future(ended) == 1
    assert not ended.cancel()
    called: list[Any] = []
    ended.add_done_callback(called.append)
    assert called == [ended]
    assert ended.settler.held is None  # type: ignore[attr-defined]


async def test_cancelled_by_another_thread_at_the_very_end(backend: Backend) -> None:
    """Between the look at whether it is done and what it is set to."""
    future = AsyncResult("t").as_concurrent_future()
    done = future.done

    def cancelled_after_the_look() -> bool:
        was_done = done()
        future.cancel()
        return was_done

    future.done = cancelled_after_the_look  # type: ignore[method-assign]
    await backend.mark_as_done("t", 1)
    await until(lambda: nobody_waits(backend))
    assert future.cancelled()


def test_futures_that_outlive_their_loop() -> None:
    async def begin() -> list[Any]:
        async with asyncresult.connect("memory://") as backend:
            handle = backend.result("t")
            return [handle.as_concurrent_future() for _ in range(2)]

    dropped, cancelled = asyncio.run(begin())
    del dropped
    gc.collect()
    cancelled.cancel()  # it has ended with the backend: nothing is scheduled on a loop that is closed
    assert isinstance(cancelled.exception(), BackendClosed)
