"""The body of a failed chord ends every form of waiting with the header's failure, whichever record comes first.

Celery stores a ChordError of its own for the body, behind the failure of the header: two records, in any order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

import asyncresult
from asyncresult import AsyncResult, Backend, GroupResult, ResultSet, TaskMeta, as_completed, gather, wait
from asyncresult._handles import handle
from asyncresult._handles.joins import READ_FIRST
from asyncresult._storage.memory import Records
from asyncresult._storage.store import engine_of
from asyncresult.codec.codec import LARGE_PAYLOAD_BYTES
from tests.backends.waiting import until, waits_for

Body = AsyncResult[Any]


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with asyncresult.connect("memory://") as backend:
        yield backend


async def _done_callback(body: Body) -> Any:
    called: asyncio.Future[Body] = asyncio.get_running_loop().create_future()
    body.add_done_callback(called.set_result)
    return (await called).value


async def _first_success(*bodies: Body) -> Any:
    try:
        return await ResultSet(bodies).first_success()
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def _first_of(stream: Any) -> Any:
    return (await anext(stream)).value


async def _waited_for(body: Body) -> Any:
    await wait([body])
    return body.value


async def _returned(value: Awaitable[Any]) -> Any:
    """The exception that is returned, or the first of several."""
    returned = await value
    raise returned if isinstance(returned, Exception) else returned[0]


async def _on_message(body: Body) -> Any:
    messages: list[TaskMeta] = []
    try:
        return await body.get(on_message=messages.append)
    finally:
        assert [meta.status for meta in messages if meta.ready] in (["FAILURE"], [])  # the latter where it was known


async def _await(body: Body) -> Any:
    return await body


async def _again(body: Body) -> Any:
    with suppress(Exception):
        await body
    return await body


async def _callback_of_a_set(body: Body) -> Any:
    values: list[Any] = []
    await ResultSet([body]).get(propagate=False, callback=lambda id, value: values.append(value))
    raise values[0]


def many(body: Body) -> ResultSet[Any]:
    return ResultSet([*(AsyncResult(f"other{number}") for number in range(READ_FIRST)), body])


FORMS: dict[str, Callable[[Body], Any]] = {
    "get": lambda body: body.get(),
    "await": _await,
    "await again": _again,
    "get of a tail": lambda body: AsyncResult("tail", parent=body).get(),
    "get(propagate=False)": lambda body: _returned(body.get(propagate=False)),
    "get(on_message=…)": _on_message,
    "gather": lambda body: gather(body, AsyncResult("never")),
    "gather(return_exceptions=True)": lambda body: _returned(gather(body, return_exceptions=True)),
    "a set": lambda body: ResultSet([body]).get(),
    "a set of very many": lambda body: many(body).get(),
    "a set with a callback": _callback_of_a_set,
    "a group": lambda body: GroupResult("g", [body]).get(),
    "then": lambda body: body.then(print),
    "then of a set": lambda body: ResultSet([body]).then(print),
    "as_future": lambda body: body.as_future(),
    "as_concurrent_future": lambda body: asyncio.wrap_future(body.as_concurrent_future()),
    "add_done_callback": _done_callback,
    "as_completed": lambda body: _first_of(as_completed([body])),
    "as_completed of very many": lambda body: _first_of(many(body).as_completed()),
    "wait": _waited_for,
    "first_success": _first_success,
}
LOOKS: dict[str, Callable[[Body], Any]] = {
    "get(0)": lambda body: body.get(0),
    "get(0) of a tail": lambda body: AsyncResult("tail", parent=body).get(0),
    "a set": lambda body: ResultSet([body]).get(0),
    "as_completed": lambda body: _first_of(as_completed([body], timeout=0)),
}


def body() -> Body:
    return AsyncResult("body", parent=GroupResult("header", [AsyncResult("one"), AsyncResult("two")]))


async def header_fails(backend: Backend) -> None:
    await backend.mark_as_done("one", 1)
    await backend.mark_as_failure("two", KeyError("two"))


async def body_fails(backend: Backend) -> None:
    await backend.mark_as_failure("body", RuntimeError("because of two"))


async def ends_of(forms: dict[str, Any]) -> dict[str, str]:
    async with asyncio.timeout(20):
        ends = await asyncio.gather(*forms.values(), return_exceptions=True)
    return {name: repr(end) for name, end in zip(forms, ends, strict=True)}


@pytest.mark.parametrize("first", ["header", "body"])
async def test_early_whichever_is_seen_first(backend: Backend, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = {name: asyncio.ensure_future(form(body())) for name, form in FORMS.items()}
    await until(lambda: backend.stats().pending == backend.stats().subscribed == READ_FIRST + 5)
    if first == "header":
        await header_fails(backend)
    else:
        with monkeypatch.context() as unannounced:
            unannounced.setattr(Records, "publish", lambda *_: 0)
            await header_fails(backend)
    await body_fails(backend)
    assert await ends_of(waiting) == dict.fromkeys(FORMS, "KeyError('two')")
    waiting.clear()  # with their tracebacks they hold streams that were left
    await until(lambda: backend.stats().pending == backend.stats().subscribed == 0)


@pytest.mark.parametrize("known", [False, True])
async def test_late(backend: Backend, known: bool) -> None:
    await header_fails(backend)
    await body_fails(backend)

    async def ready() -> Body:
        handle = body()
        if known:
            await handle.meta()  # its own record, and nothing of the header
        return handle

    for forms in (FORMS, LOOKS):
        assert await ends_of({name: form(await ready()) for name, form in forms.items()}) == dict.fromkeys(
            forms, "KeyError('two')"
        )


async def test_its_own_failure_is_to_be_had(backend: Backend) -> None:
    await header_fails(backend)
    await body_fails(backend)
    handle = body()
    with pytest.raises(KeyError, match="two"):
        await handle
    for own in (handle.get(follow_parents=False), handle.maybe_throw(), body().get(follow_parents=False)):
        with pytest.raises(RuntimeError, match="because of two"):
            await own
    assert repr(await handle.result()) == "RuntimeError('because of two')"


async def test_one_before_it_that_cannot_be_read_does_not_hide_the_failure_of_another(backend: Backend) -> None:
    """Nor where that one takes longer to read."""
    await engine_of(backend).put(backend.task_key("one"), b"garbage", None)
    await backend.mark_as_failure("two", KeyError("two" * LARGE_PAYLOAD_BYTES))
    await body_fails(backend)
    with pytest.raises(KeyError, match="two"):
        await body()


async def test_nothing_before_it_failed(backend: Backend) -> None:
    """Then its failure is its own; and so it is where the tasks before it cannot be read any more."""
    await backend.mark_as_done("one", 1)
    await body_fails(backend)
    assert await ends_of({name: form(body()) for name, form in FORMS.items()}) == dict.fromkeys(
        FORMS, "RuntimeError('because of two')"
    )


@pytest.mark.parametrize("leave", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("form", ["on_message", "callback"])
def test_a_callback_that_wants_to_leave_ends_its_own_wait_only(leave: type[BaseException], form: str) -> None:
    """It leaves the loop, as it does out of any task; a notebook then runs the same loop again."""

    def fail(*_: object) -> None:
        raise leave

    async def meet(backend: Backend) -> tuple[asyncio.Task[Any], asyncio.Task[Any]]:
        await backend.__aenter__()
        one, other = AsyncResult[int]("one"), AsyncResult[int]("one")
        own = one.get(on_message=fail) if form == "on_message" else ResultSet([one]).get(callback=fail)
        waits = asyncio.ensure_future(own), asyncio.ensure_future(other.get())
        await until(lambda: backend.stats().subscribed == 1)
        await backend.mark_as_done("one", 1)
        return waits

    async def ended(wait: asyncio.Task[Any]) -> Any:
        return await asyncio.wait_for(wait, 20)

    with asyncio.Runner() as runner:
        backend = asyncresult.connect("memory://")
        meeting = runner.get_loop().create_task(meet(backend))
        with pytest.raises(leave):
            runner.get_loop().run_until_complete(meeting)
            runner.get_loop().run_until_complete(asyncio.sleep(20))
        own, other = runner.get_loop().run_until_complete(meeting)
        assert runner.run(ended(other)) == 1
        assert own.done()
        assert isinstance(own.exception(), leave)
        runner.run(backend.__aexit__(None, None, None))


async def test_a_cause_that_cannot_be_read_in_time(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait ends with the task's own failure, and nothing is reported of the reads that were given up."""
    monkeypatch.setattr(handle, "LOOK_ONCE_TIMEOUT", 0.01)
    waiting = asyncio.ensure_future(body().get())
    await waits_for(backend, 3)
    engine_of(backend).read = lambda key: asyncio.get_running_loop().create_future()  # type: ignore[method-assign]
    await body_fails(backend)
    with pytest.raises(RuntimeError, match="because of two"):
        async with asyncio.timeout(5):
            await waiting
