"""What promises owe to asyncio: awaiting, cancelling, finally_, contexts, weak callbacks."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import traceback
import weakref
from typing import Any

import pytest

from asyncresult.promise import Promise
from tests.tools.promises import deferred, ticks

name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")
EAGER: Any = getattr(asyncio, "eager_task_factory", None)


# -- Making one


async def test_the_executor_runs_at_once_and_what_it_raises_rejects() -> None:
    calls: list[str] = []

    def executor(resolve: Any, reject: Any) -> None:
        calls.append("executor")
        raise KeyError

    promise = Promise[int](executor)
    assert calls == ["executor"]
    with pytest.raises(KeyError):
        await promise


async def test_an_executor_that_is_not_callable_is_refused() -> None:
    with pytest.raises(TypeError, match="executor must be callable"):
        Promise("text")  # type: ignore[arg-type]


async def test_resolve_returns_a_promise_as_it_is() -> None:
    promise, *_ = deferred()
    assert Promise.resolve(promise) is promise
    assert await Promise.resolve() is None


@pytest.mark.parametrize("reason", [KeyError, "text", None])
async def test_a_reason_is_an_exception(reason: Any) -> None:
    promise, resolve, reject = deferred()
    with pytest.raises(TypeError, match="rejected with an exception"):
        reject(reason)
    with pytest.raises(TypeError, match="rejected with an exception"):
        Promise.reject(reason)
    resolve(1)  # the wrong call did not count
    assert await promise == 1


async def test_stop_iteration_becomes_a_runtime_error_of_the_await() -> None:
    """As in every generator (PEP 479)."""
    promise: Promise[Any] = Promise.resolve(iter(())).then(next)
    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        await promise
    assert isinstance(caught.value.__cause__, StopIteration)


async def test_repr_shows_the_state() -> None:
    promise, resolve, _ = deferred()
    assert repr(promise) == "<Promise pending>"
    resolve("x" * 1000)
    assert repr(promise).startswith("<Promise fulfilled: 'xxx")
    assert len(repr(promise)) < 80
    failed = Promise.reject(KeyError("k"))
    assert repr(failed) == "<Promise rejected: KeyError('k')>"
    failed.catch(lambda error: None)


# -- Awaiting


async def test_it_can_be_awaited_by_many_tasks_and_again() -> None:
    promise, resolve, _ = deferred()

    async def wait() -> Any:
        return await promise

    tasks = [asyncio.create_task(wait()) for _ in range(3)]
    await ticks()
    resolve("value")
    assert await asyncio.gather(*tasks, promise) == ["value"] * 4
    assert await asyncio.wait_for(promise, 20) == "value"


async def test_awaiting_what_is_done_does_not_yield() -> None:
    trace: list[str] = []
    promise = Promise.resolve(1)
    asyncio.get_running_loop().call_soon(trace.append, "job")
    await promise
    assert trace == []


async def test_cancelling_one_who_waits_leaves_the_promise() -> None:
    promise, resolve, _ = deferred()

    async def wait() -> Any:
        return await promise

    task, other = asyncio.create_task(wait()), asyncio.create_task(wait())
    await ticks()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert len(promise._reactions or ()) == 1  # and it has left nothing behind
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(promise, 0)
    assert not promise.done()
    resolve(1)
    assert await other == 1


async def test_settling_while_one_who_waits_is_being_cancelled() -> None:
    promise, resolve, _ = deferred()

    async def wait() -> Any:
        return await promise

    task, other = asyncio.create_task(wait()), asyncio.create_task(wait())
    await ticks()
    task.cancel()
    resolve(1)
    assert await other == 1
    assert task.cancelled()


async def test_awaiting_often_does_not_pile_up_tracebacks() -> None:
    async def fail(value: int) -> None:
        raise KeyError

    promise = Promise.resolve(1).then(fail)
    lengths = []
    for _ in range(3):
        try:
            await promise
        except KeyError as error:
            lengths.append(len(traceback.extract_tb(error.__traceback__)))
    assert lengths == [lengths[0]] * 3


async def test_a_callback_that_awaits_its_own_promise_is_refused() -> None:
    async def wait(value: int) -> Any:
        return await promise

    promise: Promise[Any] = Promise.resolve(1).then(wait)
    with pytest.raises(RuntimeError, match="its own"):
        await promise


@pytest.mark.skipif(EAGER is None, reason="there are no eager tasks before Python 3.12")
async def test_what_a_callback_starts_is_no_eager_task() -> None:
    """It is known to the promise before it runs: it can be cancelled, and cannot wait for itself."""

    async def wait(value: int) -> Any:
        return await waiting

    async def cancel(value: int) -> None:
        cancelled.cancel()
        try:
            await asyncio.sleep(20)
        finally:
            stopped.append(value)

    stopped: list[int] = []
    asyncio.get_running_loop().set_task_factory(EAGER)
    waiting: Promise[Any] = Promise.resolve(1).then(wait)
    cancelled: Promise[Any] = Promise.resolve(1).then(cancel)
    with pytest.raises(RuntimeError, match="its own"):
        async with asyncio.timeout(5):
            await waiting
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await ticks()
    assert stopped == [1]


# -- Cancelling


async def cancelled(promise: Promise[Any]) -> bool:
    try:
        await promise
    except asyncio.CancelledError:
        return True
    return False


async def test_a_cancelled_promise_is_done_and_its_callbacks_do_not_run() -> None:
    parent, resolve, _ = deferred()
    calls: list[Any] = []
    promise = parent.then(calls.append, calls.append)
    assert promise.cancel()
    assert promise.done()
    assert not promise.cancel()
    assert not parent.done()
    assert parent._reactions == {}
    resolve(1)
    assert await parent == 1
    assert await cancelled(promise)
    await ticks()
    assert calls == []


async def test_cancel_reaches_a_callback_whose_job_is_put_up_already() -> None:
    calls: list[Any] = []
    promise = Promise.resolve(1).then(calls.append)
    promise.cancel()
    await ticks()
    assert calls == []


async def test_cancel_stops_a_running_coroutine() -> None:
    trace: list[str] = []

    async def work(value: int) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            trace.append("cleaned up")
        return "dropped"

    promise = Promise.resolve(1).then(work)
    await ticks()
    promise.cancel()
    assert await cancelled(promise)
    await ticks()
    assert trace == ["cleaned up"]
    assert await cancelled(promise)


async def test_cancel_goes_down_the_chain_past_then_and_through_finally() -> None:
    promise, *_ = deferred()
    trace: list[Any] = []
    derived = promise.then(trace.append, trace.append).catch(trace.append).finally_(lambda: trace.append("finally"))
    promise.cancel()
    assert await cancelled(derived)
    assert trace == ["finally"]


async def test_cancel_leaves_what_is_followed() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(asyncio.sleep(0, "slept"))
    inner, resolve, _ = deferred()
    for source in (future, task, inner):
        promise = Promise[Any](lambda resolve, reject, source=source: resolve(source))  # type: ignore[misc]
        promise.cancel()
        gone = weakref.ref(promise)
        del promise
        assert gone() is None  # nothing of it stays with what goes on
    future.set_result(1)
    resolve(2)
    assert [await future, await task, await inner] == [1, "slept", 2]


async def test_a_callback_may_cancel_its_own_promise() -> None:
    promise: Promise[Any] = Promise.resolve(1).then(lambda value: promise.cancel())
    assert await cancelled(promise)


async def test_a_late_resolve_of_a_cancelled_promise_is_dropped() -> None:
    promise, resolve, _ = deferred()
    promise.cancel()
    resolve(1)
    assert await cancelled(promise)


async def test_rejecting_with_a_cancelled_error_is_cancelling() -> None:
    promise, _, reject = deferred()
    derived = promise.catch(lambda error: pytest.fail("called"))
    reject(asyncio.CancelledError())
    assert await cancelled(derived)


# -- finally_


async def test_finally_keeps_the_outcome_and_gets_no_argument() -> None:
    calls: list[tuple[Any, ...]] = []

    def note(*args: Any) -> str:
        calls.append(args)
        return "ignored"

    assert await Promise.resolve(1).finally_(note) == 1
    with pytest.raises(KeyError):
        await Promise.reject(KeyError()).finally_(note)
    assert calls == [(), ()]


async def test_finally_waits_for_what_it_returns() -> None:
    clean, resolve, _ = deferred()
    promise = Promise.resolve(1).finally_(lambda: clean)
    await ticks()
    assert not promise.done()
    resolve("ignored")
    assert await promise == 1


async def test_what_finally_raises_takes_the_place_of_the_outcome() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    for promise in (Promise.resolve(1), Promise.reject(KeyError())):
        with pytest.raises(ZeroDivisionError):
            await promise.finally_(fail)


async def test_cancel_stops_what_finally_started() -> None:
    trace: list[str] = []

    async def clean() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            trace.append("stopped")

    running, waiting = Promise.resolve(1).finally_(clean), deferred()[0].finally_(lambda: pytest.fail("called"))
    await ticks()
    assert running.cancel()
    assert waiting.cancel()
    await ticks()
    assert trace == ["stopped"]
    assert await cancelled(running)


# -- Context variables and tasks


async def test_callbacks_see_the_context_of_registration() -> None:
    async def read_later(value: Any) -> str:
        await asyncio.sleep(0)
        return name.get()

    promise, resolve, _ = deferred()
    derived = []
    for value in ("ann", "bob"):
        name.set(value)
        derived += [promise.then(lambda _: name.get()), promise.then(read_later)]
    name.set("carol")
    resolve(None)
    assert await Promise.all(derived) == ["ann", "ann", "bob", "bob"]


async def test_what_a_callback_sets_stays_in_it() -> None:
    name.set("ann")
    await Promise.resolve(None).then(lambda _: name.set("bob"))
    await Promise.resolve(None).finally_(lambda: name.set("bob"))
    assert name.get() == "ann"


async def test_a_running_coroutine_is_held_and_named() -> None:
    """The loop holds tasks weakly, and nobody holds this chain: only the promise's hold keeps it alive."""
    done: list[int] = []
    futures: weakref.WeakSet[asyncio.Future[int]] = weakref.WeakSet()

    async def wait(value: int) -> None:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        futures.add(future)
        done.append(await future)

    Promise.resolve(1).then(wait)
    await ticks()
    gc.collect()
    (task,) = asyncio.all_tasks() - {asyncio.current_task()}
    assert "wait" in task.get_name()
    del task
    for future in futures:
        future.set_result(5)
    await ticks()
    assert done == [5]


# -- Weak callbacks


class Listener:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def notice(self, value: Any) -> str:
        self.calls.append(value)
        return "noticed"


async def test_weak_callbacks_run_while_their_object_exists() -> None:
    listener = Listener()

    def function(value: Any) -> str:
        return "called"

    promise = Promise.resolve(1)
    assert await promise.then(listener.notice, weak=True) == "noticed"
    assert await promise.then(function, weak=True) == "called"
    assert await Promise.reject(KeyError()).then(None, listener.notice, weak=True) == "noticed"
    assert len(listener.calls) == 2


async def test_weak_callbacks_whose_object_is_gone_pass_the_outcome_on() -> None:
    promise, resolve, _ = deferred()
    failing, _, reject = deferred()
    listener = Listener()
    gone = weakref.ref(listener)
    success = promise.then(listener.notice, weak=True)
    failure = failing.then(listener.notice, listener.notice, weak=True)
    of_lambda: Promise[Any] = promise.then(lambda value: pytest.fail("called"), weak=True)
    del listener
    assert gone() is None
    resolve(1)
    reject(KeyError())
    assert [await success, await of_lambda] == [1, 1]
    with pytest.raises(KeyError):
        await failure


async def test_callbacks_are_held_by_default() -> None:
    promise, resolve, _ = deferred()
    derived = promise.then(Listener().notice)
    gc.collect()
    resolve(1)
    assert await derived == "noticed"


async def test_what_cannot_be_held_weakly_is_refused() -> None:
    class Slotted:
        __slots__ = ()

        def __call__(self, value: Any) -> None: ...

    with pytest.raises(TypeError, match="weak reference"):
        Promise.resolve(1).then(Slotted(), weak=True)
