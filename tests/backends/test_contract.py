"""The contract of a handle, over every backend: waiting, failures, closing, parents."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from asyncresult import (
    AsyncResult,
    Backend,
    BackendClosed,
    ResultTimeout,
    TaskFailed,
    TaskRevoked,
)

from .contract import fail, new_id
from .waiting import until, waits_for

# -- awaiting -------------------------------------------------------------------------------------------------------


async def test_a_stored_result_is_there_at_once(backend: Backend) -> None:
    await backend.mark_as_done(id := new_id(), {"answer": [4, 2]})
    assert await AsyncResult(id) == {"answer": [4, 2]}


async def test_a_result_that_comes_later_wakes_the_awaiter(backend: Backend) -> None:
    waiting = asyncio.ensure_future(AsyncResult(id := new_id()).get())
    await waits_for(backend, 1)
    await backend.mark_as_done(id, 42)
    assert await waiting == 42


async def test_a_result_from_another_client_wakes_the_awaiter(
    backend: Backend, make_backend: Callable[..., Backend]
) -> None:
    waiting = asyncio.ensure_future(AsyncResult(id := new_id()).get())
    await waits_for(backend, 1)
    await make_backend().mark_as_done(id, "from elsewhere")
    assert await waiting == "from elsewhere"


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -1.5,
        2**80,
        float("inf"),
        "text é\u2028",
        "\udc80",
        [],
        {},
        [1, [2, {"x": None}]],
        b"bytes",
        b"\xff\x00",
        datetime(2024, 1, 2, 3, 4, 5, 678901),
        datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
        Decimal("1.50"),
        uuid.UUID(int=7),
    ],
    ids=repr,
)
async def test_values_survive(backend: Backend, value: Any) -> None:
    await backend.mark_as_done(id := new_id(), value)
    got = await AsyncResult(id)
    assert got == value and type(got) is type(value)


async def test_many_awaiters_of_one_handle_and_many_handles_of_one_id(backend: Backend) -> None:
    shared = AsyncResult(id := new_id())
    waiting = [asyncio.ensure_future(shared.get()) for _ in range(10)]
    waiting += [asyncio.ensure_future(AsyncResult(id).get()) for _ in range(10)]
    await waits_for(backend, 1)
    await backend.mark_as_done(id, 1)
    assert await asyncio.gather(*waiting) == [1] * 20


async def test_awaiting_under_asyncio_tools(backend: Backend) -> None:
    for n in range(4):
        await backend.mark_as_done(f"tool-{n}", n)
    handles = [AsyncResult(f"tool-{n}") for n in range(4)]
    assert await asyncio.gather(*handles) == [0, 1, 2, 3]
    assert await asyncio.wait_for(AsyncResult("tool-1"), 20) == 1
    async with asyncio.timeout(20):
        assert await AsyncResult("tool-2") == 2
    async with asyncio.TaskGroup() as group:
        task = group.create_task(AsyncResult("tool-3").get())
    assert task.result() == 3
    assert sorted([await done for done in asyncio.as_completed([AsyncResult(f"tool-{n}") for n in range(4)])]) == [
        0,
        1,
        2,
        3,
    ]
    done, pending = await asyncio.wait([AsyncResult("tool-0").as_future()])
    assert not pending and done.pop().result() == 0


async def test_ignored_results_are_none_at_once(backend: Backend) -> None:
    handle = AsyncResult[Any](new_id())
    handle.ignored = True
    assert await handle is None


# -- timeouts and cancellation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, -1, 0.005, 0.05])
async def test_a_timeout_is_an_error_that_leaves_nothing_behind(backend: Backend, timeout: float) -> None:
    handle = AsyncResult[Any](id := new_id())
    with pytest.raises(ResultTimeout) as caught:
        await handle.get(timeout=timeout)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.task_id == id and caught.value.timeout == timeout
    assert not handle.done()
    await until(lambda: backend.stats().pending == 0)


async def test_timeout_zero_gives_what_is_stored(backend: Backend) -> None:
    await backend.mark_as_done(id := new_id(), 1)
    assert await AsyncResult(id).get(timeout=0) == 1
    await fail(backend, id := new_id())
    with pytest.raises(ValueError, match="boom"):
        await AsyncResult(id).get(timeout=0)


async def test_a_timeout_that_is_no_number(backend: Backend) -> None:
    with pytest.raises(ValueError, match="NaN"):
        await AsyncResult(new_id()).get(timeout=float("nan"))


async def test_a_handle_can_be_awaited_again_after_a_timeout(backend: Backend) -> None:
    handle = AsyncResult[int](id := new_id())
    with pytest.raises(ResultTimeout):
        await handle.get(timeout=0.005)
    await backend.mark_as_done(id, 1)
    assert await handle.get(timeout=20) == 1


async def test_cancelling_one_awaiter_leaves_the_others(backend: Backend) -> None:
    handle = AsyncResult[int](id := new_id())
    first, second = asyncio.ensure_future(handle.get()), asyncio.ensure_future(handle.get())
    await waits_for(backend, 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await backend.mark_as_done(id, 1)
    assert await second == 1


async def test_a_cancelled_wait_leaves_nothing_behind(backend: Backend) -> None:
    async def awaits(handle: AsyncResult[Any]) -> Any:
        return await handle

    waiting = [
        asyncio.ensure_future(wait(AsyncResult(new_id()))) for wait in (AsyncResult.get, awaits) for _ in range(25)
    ]
    await waits_for(backend, 50)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    await until(lambda: backend.stats().pending == 0 and backend.stats().subscribed == 0)


async def test_wanted_again_within_the_linger(backend: Backend) -> None:
    """A key given up and wanted again at once is still served, though its unsubscription was on the way."""
    for _ in range(20):
        handle = AsyncResult[int](id := new_id())
        with pytest.raises(ResultTimeout):
            await handle.get(timeout=0.01)
        waiting = asyncio.ensure_future(handle.get(timeout=20))
        await asyncio.sleep(0)
        await backend.mark_as_done(id, 1)
        assert await waiting == 1


# -- failures -------------------------------------------------------------------------------------------------------


async def test_a_failure_is_raised_as_what_it_was(backend: Backend) -> None:
    await fail(backend, id := new_id(), KeyError("k", 1))
    with pytest.raises(KeyError) as caught:
        await AsyncResult(id)
    assert caught.value.args == ("k", 1)
    assert "ValueError: boom" in str(caught.value.__cause__)
    assert any(id in note for note in caught.value.__notes__)


async def test_an_unknown_class_becomes_task_failed(backend: Backend) -> None:
    record = {"exc_type": "Nested.Error", "exc_message": ["a", 1], "exc_module": "not.imported"}
    await backend.store_result(id := new_id(), record, "FAILURE", traceback="Traceback …")
    with pytest.raises(TaskFailed) as caught:
        await AsyncResult(id)
    error = caught.value
    assert (error.exc_type, error.exc_module, error.exc_args) == ("Nested.Error", "not.imported", ("a", 1))
    assert error.traceback == "Traceback …"


async def test_a_revoked_task(backend: Backend) -> None:
    await backend.mark_as_revoked(id := new_id(), "expired")
    handle = AsyncResult[Any](id)
    with pytest.raises(TaskRevoked, match="expired"):
        await handle
    assert await handle.state() == "REVOKED" and await handle.ready()
    assert not await handle.failed() and not await handle.successful()


async def test_each_raise_is_a_fresh_instance(backend: Backend) -> None:
    await fail(backend, id := new_id())
    handle = AsyncResult[Any](id)
    caught: list[Exception] = []
    for _ in range(2):
        try:
            await handle
        except ValueError as error:
            caught.append(error)
    assert caught[0] is not caught[1]
    assert caught[0].__traceback__ is not caught[1].__traceback__


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "StopIteration"])
async def test_what_must_not_be_raised_is_wrapped(backend: Backend, name: str) -> None:
    record = {"exc_type": name, "exc_message": ["x"], "exc_module": "builtins"}
    await backend.store_result(id := new_id(), record, "FAILURE")
    with pytest.raises(TaskFailed) as caught:
        await AsyncResult(id)
    assert caught.value.exc_type == name


async def test_propagate_false_returns_the_exception(backend: Backend) -> None:
    await fail(backend, id := new_id())
    assert isinstance(await AsyncResult[Any](id).get(propagate=False), ValueError)


async def test_a_task_timeout_is_not_a_timeout_of_the_wait(backend: Backend) -> None:
    await fail(backend, id := new_id(), TimeoutError("inner"))
    with pytest.raises(TimeoutError, match="inner") as caught:
        await AsyncResult(id).get(timeout=20)
    assert not isinstance(caught.value, ResultTimeout)


async def test_retry_keeps_waiting(backend: Backend) -> None:
    handle = AsyncResult[int](id := new_id())
    waiting = asyncio.ensure_future(handle.get())
    await waits_for(backend, 1)
    await backend.mark_as_retry(id, ValueError("again"))
    assert await handle.state() == "RETRY"
    assert isinstance(await handle.result(), ValueError)
    await backend.mark_as_done(id, 1)
    assert await waiting == 1


# -- parents --------------------------------------------------------------------------------------------------------


async def test_a_failing_parent_ends_the_wait(backend: Backend) -> None:
    grandparent = AsyncResult[Any]("grandparent")
    handle = AsyncResult[Any]("child", parent=AsyncResult("parent", parent=grandparent))
    waiting = asyncio.ensure_future(handle.get())
    await waits_for(backend, 3)
    await backend.mark_as_done("parent", 1)
    await fail(backend, "grandparent", KeyError("above"))
    with pytest.raises(KeyError, match="above"):
        await waiting
    await until(lambda: backend.stats().pending == 0)


async def test_a_failed_parent_comes_before_what_the_task_says_of_it(backend: Backend) -> None:
    """As the body of a chord does, whose record tells of the failure in other words."""
    await fail(backend, "parent", KeyError("the cause"))
    await fail(backend, "child", RuntimeError("a dependency failed"))
    for timeout in (None, 20, 0):
        with pytest.raises(KeyError, match="the cause"):
            await AsyncResult("child", parent=AsyncResult("parent")).get(timeout)
    with pytest.raises(RuntimeError, match="a dependency failed"):
        await AsyncResult("child", parent=AsyncResult("parent")).get(follow_parents=False)


async def test_parents_can_be_left_alone(backend: Backend) -> None:
    await fail(backend, "parent")
    handle = AsyncResult[int]("child", parent=AsyncResult("parent"))
    waiting = asyncio.ensure_future(handle.get(follow_parents=False))
    await waits_for(backend, 1)
    await backend.mark_as_done("child", 1)
    assert await waiting == 1


# -- closing --------------------------------------------------------------------------------------------------------


async def test_closing_ends_every_wait(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend()
    handle = backend.result("x")
    waiting: list[Awaitable[Any]] = [
        asyncio.ensure_future(handle.get()),
        asyncio.ensure_future(anext(updates := handle.updates())),
        handle.as_future(),
        handle.then(lambda value: value),
    ]
    assert (await waiting[1]).status == "PENDING"
    waiting[1] = asyncio.ensure_future(anext(updates))
    await waits_for(backend, 1)
    await backend.aclose()
    for wait in waiting:
        with pytest.raises(BackendClosed):
            await wait
    with pytest.raises(BackendClosed):
        await handle.get()
    async with backend:  # entered again, it lives again
        await backend.mark_as_done("x", 1)
        assert await handle.get() == 1


@pytest.mark.not_over("rpc", reason="connect(app) gives one that cannot reply; see test_celery_rpc")
def test_one_backend_under_two_loops(backend_url: str) -> None:
    """Two successive asyncio.run with the same object, without closing it in between."""
    from asyncresult import connect

    backend = connect(backend_url)

    async def store() -> None:
        await backend.mark_as_done("x", 1)
        assert await backend.result("x") == 1

    async def read() -> Any:
        return await backend.result("x").get(timeout=20)

    asyncio.run(store())
    assert asyncio.run(read()) == 1
    asyncio.run(backend.aclose())


async def test_a_handle_of_another_loop_is_refused_loudly(backend: Backend) -> None:
    handle = AsyncResult[int]("x", backend=backend)
    waiting = asyncio.ensure_future(handle.get())
    await waits_for(backend, 1)

    def elsewhere() -> None:
        async def get() -> None:
            with pytest.raises(RuntimeError, match="another event loop"):
                await handle.get(timeout=1)

        asyncio.run(get())

    await asyncio.get_running_loop().run_in_executor(None, elsewhere)
    waiting.cancel()
    await asyncio.wait([waiting])
