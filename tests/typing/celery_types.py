"""What the type checkers must infer about Celery's tasks. Checked by mypy and pyright, never run."""

from __future__ import annotations

from typing import Any, assert_type

from celery import Celery

import asyncresult
from asyncresult import AsyncResult, Backend
from asyncresult._handles.base import Node
from asyncresult.integrations.celery import Task, task

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
    assert_type(add.delay(1, y=2), AsyncResult[int])
    assert_type(await add.delay(1), int)
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


def the_core_knows_an_app(result: Any) -> None:
    assert_type(asyncresult.connect(app), Backend)
    assert_type(AsyncResult.from_celery(result), Node[Any])
