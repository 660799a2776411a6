"""The contract of what a handle can be turned into, over every backend: types, promises, futures, copies."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import pickle
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypedDict

import msgspec
import pytest

from asyncresult import (
    AsyncResult,
    Backend,
    Executor,
    ResultTypeError,
    gather,
    wait,
)
from tests.tools.leaks import garbage

from .contract import fail, new_id
from .waiting import until, waits_for

# -- conversion -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Row(TypedDict):
    name: str


class Struct(msgspec.Struct):
    when: datetime


@pytest.mark.parametrize(
    ("type_", "stored", "value"),
    [
        (Point, {"x": 1, "y": 2}, Point(1, 2)),
        (list[Point], [{"x": 1, "y": 2}], [Point(1, 2)]),
        (Row, {"name": "n"}, {"name": "n"}),
        (Struct, {"when": datetime(2024, 1, 1, tzinfo=UTC)}, Struct(datetime(2024, 1, 1, tzinfo=UTC))),
        (Decimal, Decimal("1.5"), Decimal("1.5")),
        (int | None, None, None),
    ],
    ids=str,
)
async def test_values_are_converted(backend: Backend, type_: Any, stored: Any, value: Any) -> None:
    await backend.mark_as_done(id := new_id(), stored)
    handle = backend.result(id, type=type_)
    assert await handle == value
    assert handle.value is await handle, "converted once"


async def test_a_value_of_another_type_is_an_error_that_says_so(backend: Backend) -> None:
    await backend.mark_as_done(id := new_id(), {"x": 1, "y": "two"})
    with pytest.raises(ResultTypeError, match="y"):
        await backend.result(id, type=Point)


# -- callbacks and futures ------------------------------------------------------------------------------------------


async def test_then_fires_though_nobody_awaits(backend: Backend) -> None:
    values: list[Any] = []
    AsyncResult[int]("later").then(values.append)
    await waits_for(backend, 1)
    await backend.mark_as_done("later", 1)
    await until(lambda: values == [1])
    handle = AsyncResult[int]("later")
    await handle
    handle.then(values.append)
    assert values == [1], "never inside the caller's frame"
    await until(lambda: values == [1, 1])


async def test_then_chains_values_and_failures(backend: Backend) -> None:
    await backend.mark_as_done("ok", 3)
    await fail(backend, "bad")

    async def double(value: int) -> int:
        return value * 2

    assert await AsyncResult[int]("ok").then(double).then(lambda v: v + 1) == 7
    assert await AsyncResult[int]("bad").then(double, lambda error: str(error)) == "boom"
    assert await AsyncResult[int]("bad").catch(lambda error: type(error).__name__) == "ValueError"
    ended: list[str] = []
    with pytest.raises(ValueError, match="boom"):
        await AsyncResult[int]("bad").finally_(lambda: ended.append("yes"))
    assert ended == ["yes"]
    assert await AsyncResult[int]("ok").then(lambda v: AsyncResult[int]("ok")) == 3, "a handle returned is followed"


async def test_a_rejection_that_nobody_sees_is_reported(backend: Backend, loop_errors: list[dict[str, Any]]) -> None:
    await fail(backend, "bad")
    AsyncResult[int]("bad").then(lambda value: value)

    def reported() -> bool:
        gc.collect()
        return bool(loop_errors)

    await until(reported)
    assert isinstance(loop_errors[0]["exception"], ValueError)
    loop_errors.clear()


async def test_done_callbacks(backend: Backend) -> None:
    seen: list[Any] = []
    handle = AsyncResult[int]("cb")
    handle.add_done_callback(seen.append)
    handle.add_done_callback(seen.append)
    assert handle.remove_done_callback(seen.append) == 2
    handle.add_done_callback(lambda h: seen.append(h.value))
    await waits_for(backend, 1)
    await backend.mark_as_done("cb", 1)
    await until(lambda: seen == [1])


async def test_a_done_callback_that_raises_hurts_nobody(backend: Backend, loop_errors: list[dict[str, Any]]) -> None:
    handle = AsyncResult[int]("cb")
    handle.add_done_callback(lambda _: 1 / 0)
    waiting = asyncio.ensure_future(handle.get())
    await waits_for(backend, 1)
    await backend.mark_as_done("cb", 1)
    assert await waiting == 1
    await until(lambda: bool(loop_errors))
    assert isinstance(loop_errors[0]["exception"], ZeroDivisionError)
    loop_errors.clear()


async def test_futures(backend: Backend) -> None:
    future, given_up = AsyncResult[int]("f").as_future(), AsyncResult[int]("never").as_future()
    concurrent = AsyncResult[int]("f").as_concurrent_future()
    await waits_for(backend, 2)
    given_up.cancel()
    waiting = asyncio.get_running_loop().run_in_executor(None, concurrent.result, 10)
    await backend.mark_as_done("f", 1)
    assert await future == 1 and await waiting == 1
    await until(lambda: backend.stats().pending == 0)


# -- forms ----------------------------------------------------------------------------------------------------------


async def test_equality_hash_copies(backend: Backend) -> None:
    handle = AsyncResult[int]("a", parent=AsyncResult("p"))
    assert handle == AsyncResult("a") == "a" and handle != AsyncResult("b") and hash(handle) == hash("a")
    await backend.mark_as_done("a", 1)
    await handle
    for twin in (copy.copy(handle), copy.deepcopy(handle)):
        assert twin == handle and twin.value == 1 and twin.parent == handle.parent
    loaded = pickle.loads(pickle.dumps(handle))
    assert loaded == handle and loaded.parent == "p" and loaded.backend is backend
    assert str(handle) == "a" and "a" in repr(handle)
    assert handle.as_tuple() == (("a", (("p", None), None)), None) and handle.as_list() == ["a", "p"]


# -- what is left behind ------------------------------------------------------------------------------------------


async def _states(handle: AsyncResult[Any]) -> None:
    async for _ in handle.updates():
        pass


async def _caught(wait: Awaitable[Any]) -> None:
    with pytest.raises(ValueError, match="no"):
        await wait


async def _tracked(backend: Backend) -> None:
    async with backend.track() as task:
        await task.progress(1, 2)


WAYS: dict[str, Callable[[Backend, Executor], Awaitable[Any]]] = {
    "get": lambda backend, _: backend.result("done").get(),
    "meta": lambda backend, _: backend.result("done").meta(),
    "exists": lambda backend, _: backend.result("done").exists(),
    "updates": lambda backend, _: _states(backend.result("done")),
    "many": lambda backend, _: backend.get_many(["done", "failed", "never"]),
    "a join": lambda backend, _: wait(backend.results(["done", "failed", "never"]), count=2),
    "a failure": lambda backend, _: _caught(backend.result("failed").get()),
    "a failed join": lambda backend, _: _caught(gather(backend.result("failed"), backend.result("never"))),
    "a task": lambda backend, _: _tracked(backend),
    "a job": lambda _, executor: executor.submit(sum, [1, 2]).get(timeout=20),
}


@pytest.mark.parametrize("way", WAYS)
async def test_nothing_is_left_to_the_garbage_collector(backend: Backend, way: str) -> None:
    """What was read, and what a task was called with, goes with its last user, and not when the collector comes."""
    await backend.mark_as_done("done", 1)
    await backend.mark_as_failure("failed", ValueError("no"))
    async with Executor(backend) as executor:
        await WAYS[way](backend, executor)
        with garbage() as found:
            await WAYS[way](backend, executor)
            await until(lambda: backend.stats().pending == backend.stats().subscribed == 0)
        assert found == []
