"""Explicit reads of a polled store: one future, answered when the last of several records is there."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import AsyncResultError, copy_error

__all__ = ["Question", "Questions", "answer_with", "first_of", "pass_on"]


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


class Questions:
    """Questions by the task that they are about, the oldest task first."""

    def __init__(self) -> None:
        self._places: dict[str, list[tuple[Question, int]]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def add(self, task_id: str, question: Question, index: int) -> None:
        self._places.setdefault(task_id, []).append((question, index))

    def take(self, most: int) -> Questions:
        """Those about the first tasks, which are not here any more."""
        taken = Questions()
        for task_id in list(itertools.islice(self._places, most)):
            taken._places[task_id] = self._places.pop(task_id)
        return taken

    def answer(self, found: Mapping[str, bytes], refused: Mapping[str, Exception]) -> None:
        """End them by what was found about their tasks; an error for those about whom it was refused."""
        for task_id, places in self._places.items():
            for question, index in places:
                if task_id in refused:
                    question.fail(refused[task_id])
                else:
                    question.answer(index, found.get(task_id))

    def fail(self, error: Exception) -> None:
        self.answer({}, dict.fromkeys(self._places, error))


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
