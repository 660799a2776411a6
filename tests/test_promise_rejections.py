"""Rejections that nobody sees, interrupts, and promises on the wrong loop or thread."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from asyncresult._promise_rejections import orphans
from asyncresult.promise import Promise
from tests.tools.promises import Thenable, deferred, loop_errors, ticks


@pytest.fixture(autouse=True)
def without_garbage_collector() -> Iterator[None]:
    """What is noticed here is noticed by reference counts alone: promises leave no cycles."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Unseen(Exception):
    """The reason of every rejection below."""


def fail(*_: Any) -> Any:
    raise Unseen


async def fail_later(*_: Any) -> Any:
    await asyncio.sleep(0)
    raise Unseen


class Broken:
    @property
    def then(self) -> None:
        raise Unseen


# -- Rejections that nobody sees


@pytest.mark.parametrize(
    "make",
    [
        lambda: Promise.reject(Unseen()),
        lambda: Promise[Any](fail),
        lambda: Promise.resolve(Thenable(fail)),
        lambda: Promise.resolve(fail_later()),
        lambda: Promise.resolve(1).then(fail),
        lambda: Promise.resolve(1).then(fail_later),
        lambda: Promise.resolve(1).then(fail).then(print).finally_(print).then(),
        lambda: Promise.resolve(1).finally_(fail),
        lambda: Promise.resolve(1).finally_(fail_later),
        lambda: Promise.reject(KeyError()).catch(fail),
        lambda: Promise.reject(KeyError()).finally_(fail),
        lambda: Promise.resolve(1).then(lambda _: Promise.reject(Unseen())),
        lambda: Promise.resolve(1).then(lambda _: Broken()),
        lambda: Promise.all([1, Promise.reject(Unseen())]),
        lambda: Promise.race([fail_later(), 1, Promise.resolve(1).then(fail)]).then(fail),
    ],
)
async def test_an_unseen_rejection_is_reported_once(make: Callable[[], Any]) -> None:
    errors = loop_errors()
    make()
    await ticks(20)
    assert [type(error) for error in errors] == [Unseen]


async def test_every_end_of_a_chain_that_nobody_sees_is_reported() -> None:
    errors = loop_errors()
    promise = Promise.reject(Unseen())
    promise.then(print)
    promise.then(print)
    promise.catch(lambda error: None)
    del promise
    await ticks()
    assert [type(error) for error in errors] == [Unseen, Unseen]


async def test_it_is_not_reported_while_somebody_may_still_look() -> None:
    """``for promise in promises: await promise`` sees them all, however early the last one failed."""
    errors = loop_errors()
    promise = Promise.resolve(1).then(fail)
    await ticks(100)
    assert errors == []
    with pytest.raises(Unseen):
        await promise
    del promise
    await ticks()
    assert errors == []


async def test_what_is_seen_is_not_reported() -> None:
    errors = loop_errors()
    with pytest.raises(Unseen):
        await Promise.resolve(1).then(fail)
    Promise.resolve(1).then(fail).catch(lambda error: None)
    Promise.resolve(1).then(fail).then(None, lambda error: None)
    Promise.all_settled([Promise.resolve(1).then(fail), fail_later()])
    await ticks(20)
    assert errors == []


async def test_joins_take_charge_of_what_they_join() -> None:
    """As ``gather`` does: the first failure is the join's, the later ones are nobody's."""
    errors = loop_errors()
    late, _, reject = deferred()
    with pytest.raises(Unseen):
        await Promise.all([Promise.reject(Unseen()), late, fail_later()])
    assert await Promise.any([fail_later(), 1]) == 1
    reject(Unseen())
    del late, reject
    await ticks()
    assert errors == []


async def test_one_who_stopped_waiting_has_not_seen_it() -> None:
    errors = loop_errors()
    promise, _, reject = deferred()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(promise, 0)
    derived = promise.then(print, print)
    derived.cancel()
    reject(Unseen())
    del promise, derived, reject
    await ticks()
    assert [type(error) for error in errors] == [Unseen]


async def test_cancellation_is_not_reported() -> None:
    errors = loop_errors()
    deferred()[0].cancel()
    Promise.resolve(1).then(fail).then(print).cancel()
    Promise.reject(asyncio.CancelledError()).then(print)
    await ticks()
    assert [type(error) for error in errors] == [Unseen]  # of the promise before the cancelled one


async def test_a_silenced_promise_is_not_reported() -> None:
    """What the layers above use for promises that no user ever holds."""
    errors = loop_errors()
    before: Promise[Any] = Promise()
    before._silence()
    before._reject(Unseen())
    after: Promise[Any] = Promise()
    after._reject(Unseen())
    after._silence()
    del before, after
    await ticks()
    assert errors == []


async def test_the_report_names_the_exception_with_its_traceback() -> None:
    contexts: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: contexts.append(context))
    Promise.resolve(1).then(fail)
    await ticks()
    (context,) = contexts
    assert context["message"] == "Promise rejection was never handled"
    frames = []
    traceback = context["exception"].__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert frames == ["settle_with", "fail"]


async def test_the_handler_runs_in_a_job_of_the_loop() -> None:
    """Never inside the finalizer, which may run in the middle of anything."""
    errors = loop_errors()
    promise = Promise.reject(Unseen())
    del promise
    assert errors == []
    await ticks()
    assert len(errors) == 1


async def test_a_rejection_collected_in_another_thread_is_reported_by_the_next_promise() -> None:
    errors = loop_errors()
    held = [Promise.reject(Unseen())]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    await ticks()
    assert errors == []
    Promise.resolve()
    await ticks()
    assert [type(error) for error in errors] == [Unseen]
    assert not orphans


def test_a_rejection_collected_while_its_loop_is_stopped_is_reported_when_it_runs() -> None:
    errors: list[Any] = []

    async def reject() -> Promise[Any]:
        nonlocal errors
        errors = loop_errors()
        return Promise.reject(Unseen())

    async def another() -> None:
        Promise.resolve()
        await ticks()

    with asyncio.Runner() as runner, asyncio.Runner() as other:
        promise = runner.run(reject())
        del promise
        other.run(another())  # is not told, and does not lose it
        assert errors == []
        runner.run(another())
        assert [type(error) for error in errors] == [Unseen]


def test_reports_for_closed_loops_are_dropped() -> None:
    async def reject() -> Promise[Any]:
        return Promise.reject(Unseen())

    async def another() -> None:
        Promise.resolve()
        await ticks()

    asyncio.run(reject())
    assert len(orphans) == 1
    asyncio.run(another())
    assert not orphans


async def test_settled_promises_leave_no_cycles() -> None:
    """Callbacks, promises and exceptions go with the last reference, without a garbage collector."""

    class Value:
        pass

    async def identity(value: Any) -> Any:
        return value

    value = Value()
    gone = weakref.ref(value)
    promise = Promise.resolve(value).then(identity).finally_(lambda: None).then(lambda value: [value])
    assert await Promise.all([promise, Promise.race([promise])])
    del value
    error = Unseen()
    error_gone = weakref.ref(error)
    failed = Promise.reject(error).then(identity).finally_(lambda: None)
    assert len(await Promise.all_settled([failed])) == 1
    try:
        await failed
    except Unseen:
        pass
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    followed_gone = weakref.ref(Promise.resolve(future))
    future.cancel()
    del promise, failed, error, future
    await ticks()
    assert gone() is None
    assert error_gone() is None
    assert followed_gone() is None


# -- Interrupts


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("coroutine", [False, True])
def test_interrupts_of_a_callback_stop_the_loop_and_reject(interrupt: type[BaseException], coroutine: bool) -> None:
    """As out of asyncio's own callbacks and tasks. ``finally_`` runs, ``on_error`` does not."""
    trace: list[str] = []
    errors: list[Any] = []
    promise: Promise[Any]

    def plain(value: Any) -> None:
        raise interrupt

    async def awaited(value: Any) -> None:
        raise interrupt

    async def main() -> None:
        nonlocal errors, promise
        errors = loop_errors()
        callback: Callable[[Any], Any] = awaited if coroutine else plain
        promise = Promise.resolve(1).then(callback)
        promise.catch(lambda error: trace.append("on_error")).finally_(lambda: trace.append("finally"))
        try:
            await asyncio.Event().wait()
        finally:
            await ticks()  # the loop runs on, to cancel what it runs

    errors = []
    with pytest.raises(interrupt):
        asyncio.run(main())
    assert repr(promise) == f"<Promise rejected: {interrupt.__name__}()>"
    assert trace == ["finally"]
    assert errors == []


async def test_interrupts_of_an_executor_are_raised_where_it_was_called() -> None:
    def executor(resolve: Any, reject: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Promise[int](executor)


# -- Loops and threads


def test_without_a_loop_there_is_no_promise() -> None:
    makers: list[Callable[[], Any]] = [
        Promise,
        Promise.resolve,
        lambda: Promise.reject(KeyError()),
        lambda: Promise.all([]),
    ]
    for make in makers:
        with pytest.raises(RuntimeError, match="running event loop"):
            make()


def misuse(promise: Promise[Any], resolve: Callable[[Any], None]) -> None:
    uses: list[Callable[[], Any]] = [
        lambda: promise.then(print),
        lambda: promise.catch(print),
        lambda: promise.finally_(print),
        lambda: promise.__await__().send(None),
        promise.cancel,
        lambda: resolve(1),
    ]
    for use in uses:
        with pytest.raises(RuntimeError, match="another event loop or thread"):
            use()


def test_it_belongs_to_one_loop() -> None:
    async def make() -> Any:
        return deferred()[:2]

    async def use(promise: Promise[Any], resolve: Callable[[Any], None]) -> None:
        misuse(promise, resolve)

    promise, resolve = asyncio.run(make())
    misuse(promise, resolve)
    asyncio.run(use(promise, resolve))


async def test_it_belongs_to_one_thread() -> None:
    promise, resolve, _ = deferred()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            misuse(promise, resolve)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert failures == []
    resolve(2)  # the wrong calls did not count
    assert await promise == 2


class Odd(Exception):
    """A class that has redefined what a promise needs of an exception."""

    @property
    def __traceback__(self) -> Any:
        raise ZeroDivisionError

    @__traceback__.setter
    def __traceback__(self, traceback: Any) -> None: ...

    def with_traceback(self, traceback: Any) -> Any:
        raise ZeroDivisionError


async def test_the_class_of_an_exception_may_have_redefined_anything() -> None:
    error = Odd()

    def fail(_: Any) -> Any:
        raise error

    seen: list[BaseException] = []
    promise = Promise.resolve(1).then(fail).catch(seen.append)
    async with asyncio.timeout(5):
        await promise
    assert len(seen) == 1 and seen[0] is error
