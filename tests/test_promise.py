"""Promises/A+ 1.1, clauses 2.1 and 2.2, by their numbers. Clause 2.3 is in test_promise_following.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncresult.promise import Promise
from tests.tools.promises import at_any_moment, deferred, fulfilling, rejecting, ticks

# -- 2.1 States


async def test_2_1_1_pending_may_become_fulfilled_or_rejected() -> None:
    first, resolve, _ = deferred()
    second, _, reject = deferred()
    assert not first.done()
    assert not second.done()
    resolve("value")
    reject(KeyError())
    assert first.done()
    assert second.done()
    assert await first == "value"
    with pytest.raises(KeyError):
        await second


async def test_2_1_2_fulfilled_stays_as_it_is() -> None:
    """2.1.2.1 no other state, 2.1.2.2 the same value."""
    promise, resolve, reject = deferred()
    value = object()
    resolve(value)
    resolve("other")
    reject(ValueError())
    promise.cancel()
    assert await promise is value
    assert await promise is value


async def test_2_1_3_rejected_stays_as_it_is() -> None:
    """2.1.3.1 no other state, 2.1.3.2 the same reason."""
    promise, resolve, reject = deferred()
    reason = KeyError()
    reject(reason)
    reject(ValueError())
    resolve("value")
    promise.cancel()
    for _ in range(2):
        with pytest.raises(KeyError) as caught:
            await promise
        assert caught.value is reason


# -- 2.2 The then method


@at_any_moment
async def test_2_2_1_both_callbacks_are_optional(moment: str) -> None:
    promise, settle = fulfilling(moment)
    derived = promise.then()
    settle()
    assert await derived == "value"


@pytest.mark.parametrize("callback", [0, False, "text", object()])
async def test_2_2_1_what_is_not_callable_is_refused(callback: Any) -> None:
    """Deviation: Promises/A+ ignores it, which in Python would only hide a mistake. None is for leaving out."""
    promise: Promise[int] = Promise()
    with pytest.raises(TypeError, match="on_success must be callable"):
        promise.then(callback)
    with pytest.raises(TypeError, match="on_error must be callable"):
        promise.then(None, callback)
    with pytest.raises(TypeError, match="on_error must be callable"):
        promise.catch(callback)
    with pytest.raises(TypeError, match="fn must be callable"):
        promise.finally_(callback)


@at_any_moment
async def test_2_2_2_on_success_is_called_once_with_the_value(moment: str) -> None:
    """2.2.2.1 after it is fulfilled, with the value; 2.2.2.2 not before; 2.2.2.3 not more than once."""
    promise, settle = fulfilling(moment)
    calls: list[Any] = []
    promise.then(lambda value: calls.append((promise.done(), value)), lambda error: calls.append(error))
    settle()
    settle()
    await ticks()
    assert calls == [(True, "value")]


async def test_2_2_2_2_on_success_is_not_called_while_pending() -> None:
    promise, resolve, _ = deferred()
    calls: list[Any] = []
    promise.then(calls.append, calls.append)
    await ticks()
    assert calls == []
    resolve(1)
    await ticks()
    assert calls == [1]


@at_any_moment
async def test_2_2_3_on_error_is_called_once_with_the_reason(moment: str) -> None:
    """2.2.3.1 after it is rejected, with the reason; 2.2.3.2 not before; 2.2.3.3 not more than once."""
    reason = KeyError("k")
    promise, settle = rejecting(moment, reason)
    calls: list[Any] = []
    promise.then(calls.append, lambda error: calls.append((promise.done(), error)))
    settle()
    settle()
    await ticks()
    assert calls == [(True, reason)]


async def test_2_2_3_2_on_error_is_not_called_while_pending() -> None:
    promise, _, reject = deferred()
    calls: list[Any] = []
    promise.then(calls.append, calls.append)
    await ticks()
    assert calls == []
    reject(reason := KeyError())
    await ticks()
    assert calls == [reason]


@at_any_moment
async def test_2_2_4_callbacks_run_in_a_job_of_the_loop(moment: str) -> None:
    """Neither in the frame that calls ``then`` nor in the one that settles, nor within another callback."""
    for promise, settle in (fulfilling(moment), rejecting(moment, KeyError())):
        trace: list[str] = []

        def outer(_: Any, promise: Promise[Any] = promise, trace: list[str] = trace) -> None:
            trace.append("outer begins")
            promise.then(lambda _: trace.append("inner"), lambda _: trace.append("inner"))
            trace.append("outer ends")

        promise.then(outer, outer)
        trace.append("after then")
        settle()
        trace.append("after settling")
        await ticks()
        assert trace == ["after then", "after settling", "outer begins", "outer ends", "inner"]


async def test_2_2_4_each_callback_is_a_job_of_its_own() -> None:
    """Another job of the loop that was put up between two ``then`` runs between their callbacks."""
    trace: list[str] = []
    promise = Promise.resolve(1)
    promise.then(lambda _: trace.append("first"))
    asyncio.get_running_loop().call_soon(trace.append, "job")
    promise.then(lambda _: trace.append("second"))
    await ticks()
    assert trace == ["first", "job", "second"]


async def test_2_2_5_callbacks_are_plain_functions_of_one_argument() -> None:
    calls: list[Any] = []

    def callback(*args: Any, **kwargs: Any) -> None:
        calls.append((args, kwargs))

    reason = KeyError()
    Promise.resolve(1).then(callback)
    Promise.reject(reason).catch(callback)
    await ticks()
    assert calls == [((1,), {}), ((reason,), {})]


@at_any_moment
async def test_2_2_6_1_on_success_callbacks_run_in_the_order_of_then(moment: str) -> None:
    promise, settle = fulfilling(moment)
    order: list[int] = []

    def second(_: Any) -> None:
        order.append(2)
        raise KeyError  # is no concern of the third

    derived = [promise.then(lambda _: order.append(1)), promise.then(second), promise.then(lambda _: order.append(3))]
    settle()
    ended = await Promise.all_settled(derived)
    assert order == [1, 2, 3]
    assert [record.status for record in ended] == ["fulfilled", "rejected", "fulfilled"]


@at_any_moment
async def test_2_2_6_2_on_error_callbacks_run_in_the_order_of_then(moment: str) -> None:
    promise, settle = rejecting(moment, KeyError())
    order: list[int] = []
    derived = [promise.catch(lambda _, i=i: order.append(i)) for i in range(3)]  # type: ignore[misc, arg-type]
    settle()
    await Promise.all(derived)
    assert order == [0, 1, 2]


async def test_2_2_6_awaits_and_callbacks_share_one_order() -> None:
    promise, resolve, _ = deferred()
    order: list[str] = []

    async def wait(name: str) -> None:
        await promise
        order.append(name)

    promise.then(lambda _: order.append("then 1"))
    first = asyncio.create_task(wait("await 2"))
    await ticks()
    promise.then(lambda _: order.append("then 3"))
    second = asyncio.create_task(wait("await 4"))
    await ticks()
    resolve(None)
    await asyncio.gather(first, second)
    assert order == ["then 1", "await 2", "then 3", "await 4"]


async def test_2_2_7_then_returns_another_promise() -> None:
    promise = Promise.resolve(1)
    derived = promise.then(lambda value: value)
    assert isinstance(derived, Promise)
    assert derived is not promise


@at_any_moment
async def test_2_2_7_1_what_a_callback_returns_resolves_the_derived_promise(moment: str) -> None:
    promise, settle = fulfilling(moment, 20)
    by_success = promise.then(lambda value: value + 1)
    by_promise = promise.then(lambda value: Promise.resolve(value + 2))
    settle()
    assert [await by_success, await by_promise] == [21, 22]

    promise, settle = rejecting(moment, KeyError("k"))
    by_error = promise.then(None, lambda error: error.args)
    settle()
    assert await by_error == ("k",)


@at_any_moment
async def test_2_2_7_2_what_a_callback_raises_rejects_the_derived_promise(moment: str) -> None:
    reason = ZeroDivisionError()

    def callback(_: Any) -> None:
        raise reason

    for promise, settle in (fulfilling(moment), rejecting(moment, KeyError())):
        derived = promise.then(callback, callback)
        settle()
        with pytest.raises(ZeroDivisionError) as caught:
            await derived
        assert caught.value is reason


@at_any_moment
async def test_2_2_7_3_without_on_success_the_value_is_passed_on(moment: str) -> None:
    promise, settle = fulfilling(moment)
    derived = promise.then(None, lambda error: pytest.fail("called")).catch(lambda error: pytest.fail("called"))
    settle()
    assert await derived == "value"


@at_any_moment
async def test_2_2_7_4_without_on_error_the_reason_is_passed_on(moment: str) -> None:
    reason = KeyError()
    promise, settle = rejecting(moment, reason)
    derived: Promise[Any] = promise.then(lambda value: pytest.fail("called")).then()
    settle()
    with pytest.raises(KeyError) as caught:
        await derived
    assert caught.value is reason
