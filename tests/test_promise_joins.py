"""Promise.all, all_settled, any and race."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from asyncresult.promise import Promise, Settled
from tests.tools.promises import Thenable, deferred, ticks

Join = Callable[[Any], Promise[Any]]
every_join = pytest.mark.parametrize("join", [Promise.all, Promise.all_settled, Promise.any, Promise.race])


async def value_of(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


async def test_all_keeps_the_order_of_the_items() -> None:
    first, resolve_first, _ = deferred()
    second, resolve_second, _ = deferred()
    promise = Promise.all([first, second, first])
    resolve_second(2)
    await ticks()
    assert not promise.done()
    resolve_first(1)
    assert await promise == [1, 2, 1]


@pytest.mark.parametrize("container", [list, tuple, iter, lambda items: (item for item in items)])
async def test_items_may_be_anything(container: Callable[[Any], Any]) -> None:
    def items() -> list[Any]:
        return [0, Promise.resolve(1), value_of(2), Thenable(lambda resolve, reject: resolve(3)), asyncio.sleep(0, 4)]

    assert await Promise.all(container(items())) == [0, 1, 2, 3, 4]
    settled = await Promise.all_settled(container(items()))
    assert settled == [Settled("fulfilled", value) for value in range(5)]
    assert await Promise.any(container(items())) == 0
    assert await Promise.race(container(items())) == 0


async def test_all_fails_with_the_first_rejection_and_stops_nobody() -> None:
    pending, resolve, _ = deferred()
    finished: list[int] = []

    async def work() -> None:
        await asyncio.sleep(0)
        finished.append(1)

    with pytest.raises(KeyError):
        await Promise.all([pending, work(), Promise.reject(KeyError()), Promise.reject(ValueError())])
    await ticks()
    assert finished == [1]
    resolve(1)
    assert await pending == 1


async def test_all_settled_reports_how_each_ended() -> None:
    error = KeyError()
    cancelled = Promise[int]()
    cancelled.cancel()
    first, second, third = await Promise.all_settled([Promise.resolve(1), Promise.reject(error), cancelled])
    assert first == Settled("fulfilled", 1, None)
    assert second == Settled("rejected", None, error)
    assert third.status == "rejected"
    assert isinstance(third.reason, asyncio.CancelledError)


async def test_any_takes_the_first_value_past_rejections() -> None:
    promise, resolve, _ = deferred()
    first = Promise.any([Promise.reject(KeyError()), promise, deferred()[0]])
    await ticks()
    assert not first.done()
    resolve(1)
    assert await first == 1


async def test_any_groups_the_reasons_when_all_fail() -> None:
    errors = [KeyError("a"), ValueError("b"), KeyError("c")]
    last, _, reject = deferred()
    promise = Promise.any([last, *map(Promise.reject, errors[1:])])
    await ticks()
    reject(errors[0])
    with pytest.raises(ExceptionGroup) as caught:
        await promise
    assert caught.value.exceptions == tuple(errors)


async def test_any_leaves_cancellation_out_of_the_group() -> None:
    cancelled = Promise[int]()
    cancelled.cancel()
    with pytest.raises(ExceptionGroup) as caught:
        await Promise.any([cancelled, Promise.reject(KeyError())])
    assert [type(error) for error in caught.value.exceptions] == [KeyError]
    with pytest.raises(asyncio.CancelledError):
        await Promise.any([cancelled, cancelled])


async def test_race_takes_the_first_outcome_good_or_bad() -> None:
    pending, *_ = deferred()
    assert await Promise.race([pending, Promise.resolve(1), Promise.reject(KeyError())]) == 1
    with pytest.raises(KeyError):
        await Promise.race([pending, Promise.reject(KeyError()), Promise.resolve(1)])


async def test_joins_of_nothing() -> None:
    assert await Promise.all([]) == []
    assert await Promise.all_settled([]) == []
    with pytest.raises(ValueError, match="nothing"):
        await Promise.any([])
    forever: Promise[Any] = Promise.race([])
    await ticks()
    assert not forever.done()


@every_join
async def test_they_settle_in_a_job_of_the_loop(join: Join) -> None:
    promise = join([Promise.resolve(1)])
    assert not promise.done()
    await promise


@every_join
async def test_when_one_is_known_the_rest_is_let_go(join: Join) -> None:
    """A long-lived promise raced again and again does not collect what raced against it."""
    pending, resolve, _ = deferred()
    for _ in range(10):
        other, settle, _ = deferred()
        promise = join([pending, other])
        settle(1)
        if join is not Promise.race and join is not Promise.any:
            promise.cancel()
        await ticks()
        assert promise.done()
        assert not pending._reactions
    resolve(1)
    assert await pending == 1


@every_join
async def test_cancel_stops_the_coroutines_and_leaves_promises_and_tasks(join: Join) -> None:
    trace: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            trace.append(name)

    pending, resolve, _ = deferred()
    task = asyncio.create_task(work("task"))
    promise = join([pending, work("coroutine"), task])
    await ticks()
    promise.cancel()
    await ticks()
    assert trace == ["coroutine"]
    assert not pending.done()
    with pytest.raises(asyncio.CancelledError):
        await promise
    resolve(None)
    task.cancel()
    await asyncio.wait([task])


@every_join
async def test_what_the_iterable_raises_is_raised_at_once(join: Join) -> None:
    pending, *_ = deferred()

    def items() -> Iterator[Any]:
        yield pending
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        join(items())
    assert not pending._reactions
    with pytest.raises(TypeError):
        join(1)


async def test_a_large_join() -> None:
    assert await Promise.all(Promise.resolve(i) for i in range(10_000)) == list(range(10_000))
