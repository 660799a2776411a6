"""What a promise follows: Promises/A+ 1.1, clause 2.3, by its numbers, then futures and coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import pytest

from asyncresult.promise import Promise
from tests.tools.promises import Settle, Thenable, at_any_moment, deferred, fulfilling, rejecting, ticks

# -- 2.3 The promise resolution procedure


async def test_2_3_1_a_promise_resolved_with_itself_is_a_type_error() -> None:
    promise, resolve, _ = deferred()
    resolve(promise)
    with pytest.raises(TypeError, match="itself"):
        await promise

    derived: Promise[Any] = Promise.resolve(1).then(lambda _: derived)
    with pytest.raises(TypeError, match="itself"):
        await derived


async def test_2_3_1_nor_with_what_waits_for_it() -> None:
    """Promises/A+ leaves circles open; here two and more that follow each other are found too."""
    (first, resolve_first, _), (second, resolve_second, _) = deferred(), deferred()
    resolve_first(second)
    resolve_second(first)
    with pytest.raises(TypeError, match="itself"):
        await first
    with pytest.raises(TypeError, match="itself"):
        await second

    promise, resolve, _ = deferred()
    resolve(promise.then(lambda value: value).finally_(lambda: None))
    with pytest.raises(TypeError, match="itself"):
        await promise


async def test_2_3_2_1_a_promise_that_follows_a_pending_one_stays_pending() -> None:
    inner, resolve, _ = deferred()
    outer = Promise.resolve(None).then(lambda _: inner)
    await ticks()
    assert not outer.done()
    resolve(1)
    assert await outer == 1


@at_any_moment
async def test_2_3_2_2_a_followed_value_is_taken_over(moment: str) -> None:
    inner, settle = fulfilling(moment)
    outer = Promise.resolve(None).then(lambda _: inner)
    settle()
    assert await outer == "value"


@at_any_moment
async def test_2_3_2_3_a_followed_rejection_is_taken_over(moment: str) -> None:
    inner, settle = rejecting(moment, reason := KeyError())
    outer = Promise.resolve(None).then(lambda _: inner)
    settle()
    with pytest.raises(KeyError) as caught:
        await outer
    assert caught.value is reason


async def test_2_3_2_a_promise_that_follows_one_cannot_be_settled_otherwise() -> None:
    inner, resolve_inner, _ = deferred()
    outer, resolve, reject = deferred()
    resolve(inner)
    resolve("other")
    reject(KeyError())
    resolve_inner("inner")
    assert await outer == "inner"


async def test_2_3_3_1_then_is_looked_up_once() -> None:
    thenable = Thenable(lambda resolve, reject: resolve(1))
    assert await Promise.resolve(thenable) == 1
    assert thenable.looked_up == 1


async def test_2_3_3_2_what_the_lookup_of_then_raises_rejects() -> None:
    class Broken:
        @property
        def then(self) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Promise.resolve(Broken())


async def test_2_3_3_3_then_is_called_as_a_method_with_two_functions() -> None:
    seen: list[Any] = []

    class Recorder:
        def then(self, *args: Any) -> None:
            seen.append((self, *args))

    recorder = Recorder()
    promise = Promise.resolve(recorder)
    assert seen == []  # as every foreign call, not in the caller's frame
    await ticks()
    ((this, resolve, reject),) = seen
    assert this is recorder
    assert callable(resolve)
    assert callable(reject)
    assert not promise.done()


@pytest.mark.parametrize("depth", [1, 2, 5_000])
async def test_2_3_3_3_1_a_thenable_may_resolve_to_a_thenable(depth: int) -> None:
    """However deep they are nested, the stack does not grow."""
    value: Any = "value"
    for _ in range(depth):
        value = Thenable(lambda resolve, reject, value=value: resolve(value))  # type: ignore[misc]
    assert await Promise.resolve(value) == "value"


async def test_2_3_3_3_2_a_thenable_may_reject() -> None:
    reason = KeyError()
    with pytest.raises(KeyError) as caught:
        await Promise.resolve(Thenable(lambda resolve, reject: reject(reason)))
    assert caught.value is reason


async def test_2_3_3_3_2_a_reason_is_not_followed() -> None:
    """The reason is an exception, whatever methods it has."""

    class Odd(Exception):
        def then(self, *args: Any) -> None:
            pytest.fail("called")

    with pytest.raises(Odd):
        await Promise.resolve(Thenable(lambda resolve, reject: reject(Odd())))


async def test_2_3_3_3_3_the_first_call_of_a_thenable_wins() -> None:
    def resolve_first(resolve: Settle, reject: Settle) -> None:
        resolve(1)
        resolve(2)
        reject(KeyError())

    def reject_first(resolve: Settle, reject: Settle) -> None:
        reject(KeyError())
        resolve(1)
        reject(ValueError())

    def resolve_with_pending_first(resolve: Settle, reject: Settle) -> None:
        resolve(pending)
        resolve(2)
        reject(KeyError())

    assert await Promise.resolve(Thenable(resolve_first)) == 1
    with pytest.raises(KeyError):
        await Promise.resolve(Thenable(reject_first))
    pending, resolve_pending, _ = deferred()
    promise = Promise.resolve(Thenable(resolve_with_pending_first))
    await ticks()
    assert not promise.done()
    resolve_pending(3)
    assert await promise == 3


async def test_2_3_3_3_4_1_what_then_raises_after_a_call_is_ignored() -> None:
    def resolve_and_raise(resolve: Settle, reject: Settle) -> None:
        resolve(1)
        raise ZeroDivisionError

    def reject_and_raise(resolve: Settle, reject: Settle) -> None:
        reject(KeyError())
        raise ZeroDivisionError

    assert await Promise.resolve(Thenable(resolve_and_raise)) == 1
    with pytest.raises(KeyError):
        await Promise.resolve(Thenable(reject_and_raise))


async def test_2_3_3_3_4_2_what_then_raises_otherwise_rejects() -> None:
    def raise_first(resolve: Settle, reject: Settle) -> None:
        asyncio.get_running_loop().call_soon(resolve, 1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Promise.resolve(Thenable(raise_first))


async def test_2_3_3_4_a_then_that_is_not_callable_makes_no_thenable() -> None:
    class Plain:
        then = "and now"

    plain = Plain()
    assert await Promise.resolve(plain) is plain


@pytest.mark.parametrize("value", [None, 0, 1.5, "then", b"", (), [Promise], {"then": print}, object(), Promise])
async def test_2_3_4_anything_else_is_the_value(value: Any) -> None:
    """A class is a value too, although its instances' ``then`` can be reached through it."""
    assert await Promise.resolve(value) is value


# -- What asyncio adds: futures, coroutines and other awaitables


class Later:
    """An awaitable that is neither a coroutine nor a future."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __await__(self) -> Generator[Any, None, Any]:
        yield from asyncio.sleep(0).__await__()
        return self.value


async def later(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


async def failing(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


@pytest.mark.parametrize("make", [later, Later, lambda value: asyncio.ensure_future(later(value)), Promise.resolve])
async def test_what_a_callback_returns_is_awaited(make: Callable[[Any], Any]) -> None:
    assert await Promise.resolve(1).then(make) == 1
    assert await Promise.reject(KeyError("k")).catch(make) is not None
    assert await Promise.resolve(make(2)) == 2


@pytest.mark.parametrize("make", [failing, lambda error: asyncio.ensure_future(failing(error)), Promise.reject])
async def test_what_an_awaitable_raises_rejects(make: Callable[[Any], Any]) -> None:
    error = KeyError("k")
    with pytest.raises(KeyError) as caught:
        await Promise.resolve(error).then(make)
    assert caught.value is error


async def test_callbacks_may_be_any_callable() -> None:
    class Calculator:
        async def __call__(self, value: int) -> int:
            return value + 1

        async def method(self, value: int) -> int:
            return value + 10

    async def add(left: int, right: int) -> int:
        return left + right

    calculator = Calculator()
    promise = Promise.resolve(1).then(calculator).then(calculator.method).then(partial(add, 100)).then(str)
    assert await promise == "112"


async def test_what_a_coroutine_returns_is_followed_in_its_turn() -> None:
    async def nested(value: int) -> Any:
        return Promise.resolve(Thenable(lambda resolve, reject: resolve(later(value))))

    assert await Promise.resolve(3).then(nested) == 3


async def test_a_future_goes_before_its_then() -> None:
    """Also one of a subclass that has a ``then``, and it needs no task."""

    class Chained(asyncio.Future[int]):
        def then(self, *args: Any) -> None:
            pytest.fail("called")

    future = Chained()
    promise = Promise.resolve(future)
    future.set_result(1)
    assert await promise == 1


async def test_a_then_goes_before_await() -> None:
    class Handle:
        def then(self, resolve: Settle, reject: Settle) -> None:
            resolve("then")

        def __await__(self) -> Generator[Any, None, Any]:
            pytest.fail("awaited")

    assert await Promise.resolve(Handle()) == "then"


async def test_a_cancelled_future_makes_a_cancelled_promise() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    promise = Promise.resolve(future)
    future.cancel("why")
    with pytest.raises(asyncio.CancelledError, match="why"):
        await promise


async def test_a_cancelled_error_out_of_a_callback_makes_a_cancelled_promise() -> None:
    def plain(value: Any) -> None:
        raise asyncio.CancelledError

    handlers: list[Any] = []
    for callback in (plain, lambda value: failing(asyncio.CancelledError())):
        promise = Promise.resolve(1).then(callback)
        derived = promise.then(handlers.append, handlers.append)
        with pytest.raises(asyncio.CancelledError):
            await promise
        with pytest.raises(asyncio.CancelledError):
            await derived
    assert handlers == []


async def test_a_long_chain_of_followers_needs_no_stack_and_no_quadratic_time() -> None:
    first, resolve, _ = deferred()
    promise = first
    for _ in range(50_000):
        promise = Promise[Any](lambda resolve, reject, inner=promise: resolve(inner))  # type: ignore[misc]
    derived = promise.then(lambda value: value + 1)
    resolve(1)
    assert await derived == 2


async def test_a_long_chain_of_then_needs_no_stack() -> None:
    first, resolve, _ = deferred()
    promise: Promise[int] = first
    for _ in range(50_000):
        promise = promise.then(lambda value: value + 1)
    resolve(0)
    assert await promise == 50_000


def test_a_promise_or_future_of_another_loop_is_not_followed() -> None:
    async def make() -> tuple[Any, ...]:
        return deferred()[0], asyncio.get_running_loop().create_future()

    async def follow(foreign: Any) -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            await Promise.resolve(None).then(lambda _: foreign)

    for foreign in asyncio.run(make()):
        asyncio.run(follow(foreign))
