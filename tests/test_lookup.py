"""What is not awaited cannot be mistaken for an answer, and is a coroutine to everything that takes one."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

import asyncresult
from asyncresult import AsyncResult, Backend, EagerResult, GroupResult, ResultSet

Ask = Callable[[], Coroutine[Any, Any, Any]]
OF_ONE = ["state", "status", "ready", "successful", "failed", "exists"]
OF_SETS = ["ready", "successful", "failed", "waiting", "completed_count"]


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with asyncresult.connect("memory://") as backend:
        await backend.mark_as_done("done", 5)
        yield backend


@pytest.fixture(params=[*(("one", name) for name in OF_ONE), *(("set", name) for name in OF_SETS), ("eager", "exists")])
def ask(request: pytest.FixtureRequest, backend: Backend) -> Ask:
    kind, name = request.param
    handles = {
        "one": AsyncResult("done", backend=backend),
        "set": GroupResult("g", [AsyncResult("done", backend=backend)]),
        "eager": EagerResult("done", 5),
    }
    asked: Ask = getattr(handles[kind], name)
    return asked


MISUSES: dict[str, Callable[[Any], object]] = {
    "if": lambda lookup: "yes" if lookup else "no",
    "not": lambda lookup: not lookup,
    "==": lambda lookup: lookup == "SUCCESS",
    "!=": lambda lookup: lookup != "SUCCESS",
    "the other way round": lambda lookup: "SUCCESS" == lookup,  # noqa: SIM300
    "in": lambda lookup: lookup in ("SUCCESS", "FAILURE"),
    "str": str,
    "f-string": lambda lookup: f"state: {lookup}",
    "format": lambda lookup: f"{lookup:>10}",
    "%": lambda lookup: "state: %s" % lookup,  # noqa: UP031
    ">": lambda lookup: lookup > 3,
    "int": int,
    "all": lambda lookup: all([lookup]),
    "list": list,
}


@pytest.mark.parametrize("misuse", MISUSES)
async def test_what_takes_it_for_the_answer_fails(ask: Ask, misuse: str) -> None:
    asked = ask()
    with pytest.raises(TypeError):
        MISUSES[misuse](asked)
    await asked


async def test_the_error_says_what_to_do(backend: Backend) -> None:
    asked: Any = backend.result("done").ready()
    for misuse in ("if", "==", "!=", "in", "f-string", "str", ">"):
        with pytest.raises(TypeError, match=r"AsyncResult\.ready\(\) is a coroutine: await it"):
            MISUSES[misuse](asked)
    with pytest.raises(AttributeError, match=r"AsyncResult\.ready\(\) is a coroutine: await it .*'lower'"):
        asked.lower()
    assert await asked


async def test_every_way_of_running_a_coroutine(ask: Ask) -> None:
    expected = await ask()
    assert await asyncio.create_task(ask()) == expected
    assert await asyncio.ensure_future(ask()) == expected
    assert await asyncio.gather(ask(), ask()) == [expected] * 2
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ask())
    assert task.result() == expected
    async with asyncio.timeout(5):
        assert await ask() == expected
    done, _ = await asyncio.wait([asyncio.create_task(ask())])
    assert done.pop().result() == expected
    assert [await one for one in asyncio.as_completed([ask()])] == [expected]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(lambda: asyncio.run_coroutine_threadsafe(ask(), loop).result(5))
        assert await asyncio.wrap_future(future) == expected


async def test_it_is_a_coroutine_to_whoever_looks(ask: Ask) -> None:
    asked: Any = ask()
    assert isinstance(asked, Coroutine)
    assert asyncio.iscoroutine(asked)
    assert inspect.isawaitable(asked)
    assert inspect.getcoroutinestate(asked) == inspect.CORO_CREATED
    assert asked == asked
    assert asked in [asked]
    assert len({asked, asked}) == 1
    await asked
    assert inspect.getcoroutinestate(asked) == inspect.CORO_CLOSED
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await asked


async def test_debuggers_see_a_name(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    asked = backend.result("done").state()
    assert repr(asked) == "<AsyncResult.state(): a coroutine, to be awaited>"
    logging.getLogger(__name__).warning("%r", asked)
    assert "AsyncResult.state()" in caplog.text
    task = asyncio.create_task(asked)
    assert "AsyncResult.state()" in repr(task)
    await task


async def test_one_that_is_never_awaited_is_warned_of(backend: Backend) -> None:
    with pytest.warns(RuntimeWarning, match=r"coroutine 'AsyncResult.ready' was never awaited"):
        backend.result("done").ready()  # type: ignore[unused-coroutine]


async def test_one_that_is_closed_is_not(backend: Backend) -> None:
    backend.result("done").ready().close()
    gc.collect()


async def test_it_passes_on_what_is_thrown_and_cancelled(backend: Backend) -> None:
    task = asyncio.create_task(backend.result("missing").ready())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    asked = ResultSet([backend.result("missing")]).ready()
    asked.send(None)
    with pytest.raises(KeyError):
        asked.throw(KeyError("thrown"))
