"""What the type checkers must infer about executors. Checked by mypy and pyright, never run."""

from __future__ import annotations

import asyncio
from typing import assert_type

from asyncresult import AsyncResult, Backend, Executor, GroupResult, ResultSet, TaskContext, current_task, value_of
from asyncresult.control import Reply


async def to_text_later(value: int, *, width: int = 0) -> str:
    return str(value).rjust(width)


def to_text(value: int, *, width: int = 0) -> str:
    return str(value).rjust(width)


async def submit_carries_the_type_of_the_function(executor: Executor) -> None:
    assert_type(executor.submit(to_text, 1), AsyncResult[str])
    assert_type(executor.submit(to_text_later, 1), AsyncResult[str])
    assert_type(executor.submit(to_text_later, 1, width=3), AsyncResult[str])
    assert_type(await executor.submit(to_text_later, 1), str)
    assert_type(await executor.submit(to_text_later, 1).get(timeout=1), str)
    assert_type(executor.submit(asyncio.sleep, 1, "x"), AsyncResult[str])
    assert_type(executor.submit(lambda: 1), AsyncResult[int])
    assert_type(executor.options(timeout=1, retries=3).submit(to_text, 1), AsyncResult[str])


async def map_gives_a_group(executor: Executor) -> None:
    assert_type(executor.map(to_text, [1, 2]), GroupResult[str])
    assert_type(executor.map(to_text_later, range(3)), GroupResult[str])
    assert_type(await executor.options(process=True).map(to_text, [1]), list[str])


async def handles_stand_for_values(executor: Executor, number: AsyncResult[int], numbers: ResultSet[int]) -> None:
    assert_type(value_of(number), int)
    assert_type(value_of(numbers), list[int])
    assert_type(executor.submit(to_text, value_of(number)), AsyncResult[str])
    executor.submit(to_text, number)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


async def wrong_arguments_are_refused(executor: Executor) -> None:
    executor.submit(to_text, "1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    executor.submit(to_text)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    executor.submit(to_text_later, 1, height=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    executor.map(to_text, ["1"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    executor.options(retry=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def the_context_of_a_block(backend: Backend, handle: AsyncResult[int]) -> None:
    async with backend.track("id", name="n", history=5) as task:
        assert_type(task, TaskContext)
        await task.progress(1, 2, note="x")
    assert_type(current_task(), TaskContext | None)
    assert_type(await handle.revoke(wait=True), list[Reply])
