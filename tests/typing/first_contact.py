"""What the README's first programs come out as. Handles are made here from scratch, as users make them.

Checked by mypy and pyright, never run. A line marked ``# type: ignore`` must be an error for both: each reports a mark
that is not needed.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any, assert_type
from uuid import uuid4

import asyncresult
import asyncresult.sync as sync
from asyncresult import AsyncResult, Backend, EagerResult, GroupResult, ResultSet, connect, gather, scope, wait


@dataclass
class Report:
    pages: int


async def untyped(task_id: str, ids: list[str]) -> None:
    value = await AsyncResult(task_id)
    assert_type(value, Any)
    handle = AsyncResult(uuid4())
    assert_type(handle, AsyncResult[Any])
    values = await ResultSet([AsyncResult(i) for i in ids])
    assert_type(values, list[Any])
    group = GroupResult("g", [handle])
    assert_type(group, GroupResult[Any])
    assert_type(await gather(handle, AsyncResult(task_id)), tuple[Any, Any])
    assert_type(EagerResult(task_id, 1), EagerResult[Any])


async def typed(task_id: str) -> None:
    assert_type(await AsyncResult(task_id, type=int), int)
    assert_type(await AsyncResult(task_id, type=Report), Report)
    assert_type(await AsyncResult(task_id, type=list[int]), list[int])
    assert_type(AsyncResult(task_id, type=Annotated[int, "positive"]), AsyncResult[Any])
    expected: AsyncResult[int] = AsyncResult(task_id)
    assert_type(await expected, int)
    subscripted = AsyncResult[str](task_id)
    assert_type(await subscripted, str)
    parent = AsyncResult(task_id, parent=expected, type=int)
    assert_type(parent, AsyncResult[int])


async def of_a_backend(task_id: str) -> None:
    async with connect("memory://") as backend:
        assert_type(backend, Backend)
        assert_type(backend.result(task_id), AsyncResult[Any])
        assert_type(backend.result(task_id, type=int), AsyncResult[int])
        assert_type(backend.result(task_id, type=list[str]), AsyncResult[list[str]])
        assert_type(await backend.results([task_id]), list[Any])
        assert_type(await backend.results([task_id], type=int), list[int])


async def exceptions_instead(task_id: str, choice: bool) -> None:
    handle = AsyncResult(task_id, type=int)
    assert_type(await handle.get(timeout=1), int)
    assert_type(await handle.get(propagate=True), int)
    assert_type(await handle.get(propagate=False), int | Exception)
    assert_type(await handle.get(propagate=choice), int | Exception)
    results = ResultSet([handle])
    assert_type(results, ResultSet[int])
    assert_type(await results.get(), list[int])
    assert_type(await results.get(propagate=False), list[int | Exception])
    assert_type(await results.get(return_exceptions=True), list[int | Exception])
    text = AsyncResult(task_id, type=str)
    assert_type(await gather(handle, text), tuple[int, str])
    assert_type(await gather(handle, text, return_exceptions=True), tuple[int | Exception, str | Exception])
    assert_type(await gather(*[handle], return_exceptions=True), tuple[int | Exception, ...])


def exceptions_instead_in_blocking_code(task_id: str, choice: bool) -> None:
    handle = sync.AsyncResult(task_id, type=int)
    assert_type(handle.get(), int)
    assert_type(handle.get(10, True), int)
    assert_type(handle.get(timeout=1, propagate=False), int | Exception)
    assert_type(handle.get(10, False), int | Exception)
    assert_type(handle.get(propagate=choice), int | Exception)
    assert_type(handle.wait(propagate=False), int | Exception)
    results = sync.ResultSet([handle])
    assert_type(results.get(timeout=1), list[int])
    assert_type(results.join(propagate=False), list[int | Exception])
    assert_type(results.get(1, False), list[int | Exception])
    assert_type(results.get(return_exceptions=True), list[int | Exception])
    assert_type(results.join_native(propagate=False), list[int | Exception])
    text = sync.AsyncResult(task_id, type=str)
    assert_type(sync.gather(handle, text), tuple[int, str])
    assert_type(sync.gather(handle, text, return_exceptions=True), tuple[int | Exception, str | Exception])
    assert_type(sync.gather(*[handle], return_exceptions=True), tuple[int | Exception, ...])
    for done in sync.as_completed([handle]):
        assert_type(done, sync.AsyncResult[int])
    assert_type(sync.wait([handle])[0], set[sync.AsyncResult[int]])


def portable_forms(handle: AsyncResult[int], group: GroupResult[int], form: Any) -> None:
    assert_type(AsyncResult.from_celery(handle), AsyncResult[int])
    assert_type(AsyncResult.from_celery(group), GroupResult[int])
    assert_type(asyncresult.result_from_tuple(handle), AsyncResult[int])
    assert_type(asyncresult.result_from_tuple((("id", None), None)), AsyncResult[Any])
    assert_type(asyncresult.result_from_tuple((("id", None), [(("member", None), None)])), GroupResult[Any])
    _ = asyncresult.result_from_tuple(form).get_leaf


async def choices(handle: AsyncResult[int]) -> None:
    await handle.get(on_timeout="revoke", on_cancel="detach")
    await handle.get(on_timeout="revok")  # type: ignore[call-overload]
    await handle.get(on_cancel="cancel")  # type: ignore[call-overload]
    await wait([handle], return_when=asyncio.FIRST_COMPLETED)
    await wait([handle], return_when=asyncresult.FIRST_EXCEPTION)
    await wait([handle], return_when="FIRST")  # type: ignore[arg-type]
    await ResultSet([handle]).wait(return_when="ALL")  # type: ignore[arg-type]
    scope(on_error="revoke")
    scope(on_error="ignore")  # type: ignore[arg-type]


async def wrong_values(task_id: str) -> list[int]:
    either: int = await AsyncResult(task_id, type=int).get(propagate=False)  # type: ignore[assignment]
    AsyncResult(5)  # type: ignore[call-overload]
    ResultSet(AsyncResult(task_id))  # type: ignore[call-overload]
    return [either, *await ResultSet([AsyncResult(task_id, type=str)])]  # type: ignore[list-item]


async def answers(handle: AsyncResult[int], results: ResultSet[int]) -> None:
    assert_type(await handle.ready(), bool)
    assert_type(await handle.state(), str)
    assert_type(await results.completed_count(), int)
    assert_type(await asyncio.create_task(handle.exists()), bool)
    assert_type(await asyncio.gather(handle.ready(), handle.state()), tuple[bool, str])
    async with asyncio.TaskGroup() as group:
        assert_type(group.create_task(results.ready()), asyncio.Task[bool])


def blocking(task_id: str, ids: list[str]) -> None:
    handle = sync.AsyncResult(task_id)
    assert_type(handle, sync.AsyncResult[Any])
    assert_type(sync.AsyncResult(task_id, type=int).get(timeout=1), int)
    assert_type(sync.ResultSet([sync.AsyncResult(i) for i in ids]).get(), list[Any])
    assert_type(sync.ResultSet([sync.AsyncResult(i, type=int) for i in ids]).get(), list[int])
    with sync.connect("memory://") as backend:
        assert_type(backend.result(task_id, type=int), sync.AsyncResult[int])
        assert_type(backend.results(ids, type=str).get(), list[str])
    handle.get(on_timeout="revok")  # type: ignore[call-overload]
