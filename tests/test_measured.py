"""Each form of waiting is one wait to a probe, however it ends; and a record that ends it came from somewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import asyncresult
from asyncresult import AsyncResult, Backend, Probe, ResultSet, WaitEnded
from asyncresult.states import READY_STATES

from .backends.waiting import until

Handles = list[AsyncResult[Any]]
Form = Callable[[Handles, float | None], Awaitable[Any]]


class Waits(Probe):
    def __init__(self, *backends: Backend) -> None:
        self.ended: list[WaitEnded] = []
        for backend in backends:
            backend.add_probe(self)

    def wait_ended(self, wait: WaitEnded) -> None:
        self.ended.append(wait)


async def awaited(handles: Handles, timeout: float | None) -> None:
    await handles[0]


async def with_messages(handles: Handles, timeout: float | None) -> None:
    await handles[0].get(timeout, on_message=lambda _: None)


async def without_parents(handles: Handles, timeout: float | None) -> None:
    await handles[0].get(timeout, follow_parents=False)


async def loop_over(handles: Handles, timeout: float | None) -> None:
    async for _ in asyncresult.as_completed(handles, timeout=timeout):
        pass


async def as_concurrent_future(handles: Handles, timeout: float | None) -> None:
    await asyncio.wrap_future(handles[0].as_concurrent_future())


def then(of: Callable[[Handles], Any]) -> Form:
    async def form(handles: Handles, timeout: float | None) -> None:
        promise = of(handles).then(lambda value: value)
        try:
            await promise
        except asyncio.CancelledError:
            promise.cancel()  # who awaits a promise may not be the only one
            raise

    return form


FORMS: dict[str, Form] = {
    "await": awaited,
    "get": lambda handles, timeout: handles[0].get(timeout),
    "get, messages": with_messages,
    "get, no parents": without_parents,
    "until": lambda handles, timeout: handles[0].until(*READY_STATES, timeout=timeout),
    "join": lambda handles, timeout: ResultSet(handles).get(timeout),
    "join, exceptions": lambda handles, timeout: ResultSet(handles).get(timeout, return_exceptions=True),
    "gather": lambda handles, timeout: asyncresult.gather(*handles, timeout=timeout),
    "as_completed": loop_over,
    "wait": lambda handles, timeout: asyncresult.wait(handles, timeout=timeout),
    "first_success": lambda handles, timeout: ResultSet(handles[:1]).first_success(timeout=timeout),
    "as_future": lambda handles, timeout: handles[0].as_future(),
    "as_concurrent_future": as_concurrent_future,
    "then": then(lambda handles: handles[0]),
    "then, of a set": then(ResultSet),
}
#: They raise nothing that a task has raised.
CALM = {"as_completed", "wait", "join, exceptions"}
WITHOUT_TIMEOUT = {"await", "as_future", "as_concurrent_future", "then", "then, of a set"}


@pytest.mark.parametrize("name", FORMS)
async def test_each_form_of_waiting_ends_one_wait(name: str) -> None:
    async def run(end: Callable[[Backend, asyncio.Task[None]], Awaitable[Any]], timeout: float | None = None) -> str:
        async with asyncresult.connect("memory://") as backend:
            await backend.mark_as_done("other", 1)
            handles = [backend.result("t"), backend.result("other")]
            await handles[1].get()
            waits = Waits(backend)

            async def wait() -> None:
                await FORMS[name](handles, timeout)

            waiting = asyncio.create_task(wait())
            if timeout is None:
                await until(lambda: backend.stats().pending == 1)
            await end(backend, waiting)
            await asyncio.wait([waiting])
            waiting.cancelled() or waiting.exception()
            del waiting
            await until(lambda: bool(waits.ended))
        (ended,) = waits.ended
        assert ended.seconds > 0
        assert handles[0] in ended.handles
        assert ended.source == ("memory" if ended.outcome in ("success", "failure", "revoked") else None)
        return ended.outcome

    async def cancel(backend: Backend, waiting: asyncio.Task[None]) -> None:
        waiting.cancel()

    async def nothing(backend: Backend, waiting: asyncio.Task[None]) -> None: ...

    assert await run(lambda backend, _: backend.mark_as_done("t", 1)) == "success"
    failed = "success" if name in CALM else "failure"
    assert await run(lambda backend, _: backend.mark_as_failure("t", ValueError("no"))) == failed
    assert await run(cancel) == "cancelled"
    assert await run(lambda backend, _: backend.aclose()) == "error"
    if name not in WITHOUT_TIMEOUT:
        assert await run(nothing, timeout=0.001) == "timeout"
        assert await run(nothing, timeout=0) == "timeout"


@pytest.mark.parametrize("name", FORMS)
async def test_what_is_known_is_no_wait(name: str) -> None:
    async with asyncresult.connect("memory://") as backend:
        await backend.mark_as_done("t", 1)
        handle = backend.result("t")
        await handle
        waits = Waits(backend)
        await FORMS[name]([handle], None)
    assert waits.ended == []


async def test_a_loop_that_is_left_is_given_up() -> None:
    async with asyncresult.connect("memory://") as backend:
        waits = Waits(backend)
        await backend.mark_as_done("a", 1)
        async for _ in asyncresult.as_completed([backend.result("a"), backend.result("b")]):
            break
        await until(lambda: bool(waits.ended))
        assert (waits.ended[0].outcome, waits.ended[0].error, waits.ended[0].source) == ("cancelled", None, None)


async def test_until_a_state_in_between() -> None:
    async with asyncresult.connect("memory://") as backend:
        waits = Waits(backend)
        waiting = asyncio.create_task(backend.result("t").until("STARTED"))
        await until(lambda: backend.stats().pending == 1)
        await backend.store_result("t", None, "STARTED")
        assert (await waiting).status == "STARTED"
    assert [(wait.outcome, wait.source) for wait in waits.ended] == [("success", "memory")]


@pytest.mark.parametrize("name", FORMS)
async def test_a_wait_that_cannot_begin_has_ended(name: str) -> None:
    async with asyncresult.connect("memory://") as backend:
        waits = Waits(backend)
        handles = [backend.result("t"), backend.result("other")]
    with pytest.raises(asyncresult.BackendClosed):
        await FORMS[name](handles, None)
    await until(lambda: waits.ended)
    assert [(wait.outcome, wait.source) for wait in waits.ended] == [("error", None)]


@pytest.mark.parametrize("name", sorted(FORMS.keys() - {"get, messages"}))
async def test_where_the_record_came_from(name: str, redis_url: str) -> None:
    async with asyncresult.connect(redis_url) as backend:
        waits = Waits(backend)
        await backend.mark_as_done("there", 1)
        await FORMS[name]([backend.result("there")], None)
        waiting = asyncio.ensure_future(FORMS[name]([backend.result("later")], None))
        await until(lambda: backend.stats().subscribed == 1 + (backend.stats().pending == 0))
        await backend.get_meta("later")  # behind the read that follows the subscription
        await backend.mark_as_done("later", 1)
        await waiting
    assert [(wait.outcome, wait.source) for wait in waits.ended] == [("success", "read"), ("success", "pushed")]


async def test_the_source_of_a_large_join_and_of_a_sweep(redis_url: str) -> None:
    async with asyncresult.connect(redis_url, safety_interval=0.2) as backend:
        ids = [f"{n}" for n in range(150)]
        await asyncio.gather(*(backend.mark_as_done(id, 1) for id in ids))
        waits = Waits(backend)
        await backend.results(ids).get()
        waiting = asyncio.ensure_future(backend.result("later").get())
        await until(lambda: backend.stats().subscribed == 1)
        await backend.get_meta("later")  # behind the read that follows the subscription
        await backend.mark_as_done("later", 1)
        await waiting
        await until(lambda: backend.stats().subscribed == 0)
        record = await backend.get_raw("0")
        assert record is not None
        waiting = asyncio.ensure_future(backend.result("silent").get())
        await until(lambda: backend.stats().subscribed == 1 and backend.stats().sweeps > 0)
        await backend.command("SET", backend.task_key("silent"), record.replace(b'"0"', b'"silent"'))
        await waiting
    assert [wait.source for wait in waits.ended] == ["read", "pushed", "swept"]
