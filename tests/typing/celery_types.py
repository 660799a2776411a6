"""What the type checkers must infer about Celery's tasks. Checked by mypy and pyright, never run."""

from __future__ import annotations

import asyncio
from typing import Any, assert_type

from celery import Celery

import asyncresult
from asyncresult import AsyncResult, Backend, ResultSet
from asyncresult.integrations.celery import AwaitableResult, Task, chain, chord, group, task

app: Any = Celery("typed")


@task(app)
def add(x: int, y: int = 0) -> int:
    return x + y


@task(app, bind=True, max_retries=3)
def name_of(self: Task[..., Any], id: int) -> str:
    return f"{self.request.id}:{id}"


@task(app)
async def fetch(url: str) -> bytes:
    return url.encode()


@task(app, bind=True)
async def fetch_bound(self: Task[..., Any], url: str) -> bytes:
    return url.encode()


async def a_task_carries_its_signature() -> None:
    assert_type(add(1, y=2), int)
    assert_type(fetch("x"), bytes)  # it blocks
    assert_type(add.delay(1, y=2), AwaitableResult[int])
    assert_type(await add.delay(1), int)
    assert_type(await add.apply_async((1,), countdown=1), int)
    assert_type(add.delay(1).handle, AsyncResult[int])
    assert_type(await add.adelay(1, 2), AsyncResult[int])
    assert_type(await (await add.adelay(1, 2)), int)
    assert_type(await add.aapply_async((1, 2), countdown=3), AsyncResult[int])
    assert_type(await (await name_of.adelay(5)).get(timeout=1.0), str)
    assert_type(await (await fetch.adelay("x")), bytes)
    assert_type(await (await fetch_bound.adelay("x")), bytes)


async def a_wrong_call_is_found() -> None:
    add.delay("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await add.adelay()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await name_of.adelay(self=1, id=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def handles_join_with_their_types() -> None:
    one, two = await add.adelay(1), await fetch.adelay("x")
    assert_type(await asyncresult.gather(one, two), tuple[int, bytes])


async def celerys_results_join_with_their_types() -> None:
    assert_type(await asyncio.gather(add.delay(1), name_of.delay(2)), tuple[int, str])
    assert_type(await asyncresult.gather(add.delay(1), fetch.delay("x")), tuple[int, bytes])
    assert_type(await ResultSet([add.delay(1), add.delay(2)]), list[int])
    async with asyncresult.scope() as tasks:
        assert_type(await tasks.adopt(add.delay(1)), int)


async def a_canvas_knows_what_comes_of_it() -> None:
    assert_type(await (await chain(add.s(1), name_of.s()).adelay()), str)
    assert_type(await (await group([add.s(1), add.s(2)]).adelay()), list[int])
    assert_type(await (await chord([add.s(1), add.s(2)], name_of.s()).adelay()), str)
    assert_type(await (await (add.s(1) | name_of.s()).aapply_async(countdown=1)), str)
    assert_type(await chain(add.s(1), add.s(2), name_of.s()).delay(), str)


def blocking_code_is_as_it_was() -> None:
    result = add.delay(1)
    assert_type(result.get(timeout=1), int)
    assert_type(result.state, str)
    assert_type(result.failed(), bool)


def the_core_knows_an_app(result: Any) -> None:
    assert_type(asyncresult.connect(app), Backend)
    assert_type(AsyncResult.from_celery(result), Any)  # Celery's classes have no types
    assert_type(AsyncResult.from_celery(add.delay(1)), AsyncResult[int])
    assert_type(AsyncResult.from_celery(add.delay(1).handle), AsyncResult[int])
