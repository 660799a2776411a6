"""Explicit reads of a polled store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncresult._storage.questions import Question, Questions, answer_with, first_of


def settled(value: Any) -> asyncio.Future[Any]:
    future = asyncio.get_running_loop().create_future()
    future.set_exception(value) if isinstance(value, Exception) else future.set_result(value)
    return future


async def test_a_read_of_several_ends_with_the_last_of_them() -> None:
    question = Question(asyncio.get_running_loop(), 2)
    answer_with(question, 1, settled(b"second"))
    assert not question.future.done()
    answer_with(question, 0, settled(None))
    assert await question.future == [None, b"second"]


async def test_a_read_of_nothing_has_its_answer() -> None:
    assert await Question(asyncio.get_running_loop(), 0).future == []


async def test_the_first_failure_ends_it() -> None:
    question = Question(asyncio.get_running_loop(), 3)
    answer_with(question, 0, settled(ConnectionError("first")))
    answer_with(question, 1, settled(ConnectionError("second")))
    answer_with(question, 2, settled(b"late"))
    with pytest.raises(ConnectionError, match="first"):
        await question.future


@pytest.mark.parametrize("answer", [[b"value"], ConnectionError("away")])
async def test_nobody_is_left_who_wants_the_first(answer: Any) -> None:
    """And no failure is reported as never seen, which the fixtures look for."""
    target: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
    target.cancel()
    first_of(target, settled(answer))
    assert target.cancelled()


async def test_questions_are_taken_in_order_and_answered_by_their_tasks() -> None:
    questions = Questions()
    first, second = (Question(asyncio.get_running_loop(), 2) for _ in range(2))
    for index, task_id in enumerate(["a", "b"]):
        questions.add(task_id, first, index)
    for index, task_id in enumerate(["b", "c"]):
        questions.add(task_id, second, index)
    taken = questions.take(2)
    assert (list(taken), list(questions)) == (["a", "b"], ["c"])
    taken.answer({"a": b"1", "b": b"2"}, {})
    assert await first.future == [b"1", b"2"]
    assert not second.future.done()
    questions.answer({}, {"c": ConnectionError("away")})
    with pytest.raises(ConnectionError, match="away"):
        await second.future
