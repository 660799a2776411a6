"""Explicit reads of a polled store: one future, answered when the last of several records is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..errors import AsyncResultError, copy_error
from .polling import Records

__all__ = ["Question", "answer_with", "first_of", "last_for_ever", "nothing", "pass_on", "read_group", "settle_none"]


class Question:
    """An explicit read of one record or of several: a future that is answered when the last of them is there."""

    def __init__(self, loop: asyncio.AbstractEventLoop, size: int) -> None:
        self.future: asyncio.Future[list[bytes | None]] = loop.create_future()
        self._values: list[bytes | None] = [None] * size
        self._missing = size
        if not size:
            self.future.set_result([])

    def answer(self, index: int, value: bytes | None) -> None:
        self._values[index] = value
        self._missing -= 1
        if not self._missing and not self.future.done():
            self.future.set_result(self._values)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            # Whom else it ends gets another instance.
            self.future.set_exception(copy_error(error) if isinstance(error, AsyncResultError) else error)


def pass_on(source: asyncio.Future[Any], target: asyncio.Future[Any], convert: Callable[[Any], Any]) -> None:
    if target.done():
        source.exception()  # it was given up: nobody is left to see it
    elif (error := source.exception()) is not None:
        target.set_exception(error)
    else:
        target.set_result(convert(source.result()))


def first_of(target: asyncio.Future[bytes | None], source: asyncio.Future[list[bytes | None]]) -> None:
    pass_on(source, target, lambda values: values[0])


def answer_with(question: Question, index: int, read: asyncio.Future[bytes | None]) -> None:
    if (error := read.exception()) is not None:
        question.fail(error)  # type: ignore[arg-type]
    else:
        question.answer(index, read.result())


def settle_none(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def last_for_ever(loop: asyncio.AbstractEventLoop) -> None:
    await loop.create_future()


def read_group(group_id: str, records: Records) -> bytes | None:
    return records.read_group(group_id)


def nothing() -> None: ...
