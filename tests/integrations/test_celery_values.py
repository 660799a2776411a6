"""What a worker stores of a task with ``convert=True``: the body runs as in a worker, in the process of the test."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import datetime
import functools
import uuid
from collections.abc import Callable, Generator
from typing import Any

import msgspec
import pytest
from celery import Celery
from celery.app.trace import build_tracer
from pydantic import BaseModel

from asyncresult import _portal
from asyncresult.integrations.celery import task
from asyncresult.integrations.celery.coroutines import running_task

DAY = datetime.date(2024, 5, 6)


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Struct(msgspec.Struct):
    when: datetime.date


class Model(BaseModel):
    when: datetime.date


class Strange:
    pass


@pytest.fixture
def app(no_leaks: None) -> Generator[Celery]:
    made = Celery("values", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield made
    _portal.stop()
    made.close()


def run_as_worker(declared: Any, *args: Any) -> Any:
    """What the task returns to the worker, or the failure that the worker stores, by Celery's own code for it."""
    tracer = build_tracer(declared.name, declared, app=declared.app)
    task_id = str(uuid.uuid4())
    outcome = tracer(task_id, args, {}, {"id": task_id, "task": declared.name})
    return outcome.info.retval if outcome.info is not None else outcome.retval


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (Point(1, 2), {"x": 1, "y": 2}),
        ((1, Point(2, 3)), (1, {"x": 2, "y": 3})),
        ({3: "three"}, {"3": "three"}),
        (Struct(DAY), {"when": DAY}),
        ([Model(when=DAY)], [{"when": "2024-05-06"}]),
        (b"raw", b"raw"),
    ],
)
def test_what_is_stored_is_plain(app: Celery, value: Any, stored: Any) -> None:
    @task(app, convert=True, shared=False)
    def give() -> Any:
        return value

    assert run_as_worker(give) == stored
    assert give() is value, "called as a function it returns what it returns"


def test_what_nobody_can_make_plain_is_left_to_the_serializer(app: Celery) -> None:
    strange = Strange()

    @task(app, convert=True, shared=False, ignore_result=True)
    def give() -> Any:
        return [strange]

    assert run_as_worker(give) == [strange]


def test_a_coroutine_s_value_is_made_plain_too(app: Celery) -> None:
    @task(app, convert=True, bind=True, shared=False)
    async def give(self: Any, x: int) -> tuple[int, bool]:
        running = running_task()
        return x, running is not None and running.task.name == self.name

    assert run_as_worker(give, 3) == (3, True)


def passing_on(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that hands the coroutine on, and is no coroutine function itself."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args) if args else "nothing to await"

    return wrapper


def test_a_decorated_coroutine_function(app: Celery) -> None:
    @task(app, shared=False)
    @passing_on
    async def give(x: int) -> int:
        return x

    assert run_as_worker(give, 3) == 3
    assert run_as_worker(give) == "nothing to await"


def test_a_coroutine_function_with_models_of_pydantic(app: Celery) -> None:
    @task(app, pydantic=True, shared=False)
    async def later(model: Model, days: int) -> Model:
        return Model(when=model.when + datetime.timedelta(days))

    assert run_as_worker(later, {"when": "2024-05-06"}, 1) == {"when": "2024-05-07"}


def test_a_coroutine_that_is_cancelled_from_within_fails(app: Celery) -> None:
    """As an exception that the worker stores: asyncio's own is none."""

    @task(app, shared=False)
    async def give_up() -> None:
        raise asyncio.CancelledError("enough")

    error = run_as_worker(give_up)
    assert isinstance(error, concurrent.futures.CancelledError)
    assert error.args == ("enough",)


def test_an_eager_task(app: Celery) -> None:
    @task(app, convert=True, shared=False)
    async def give() -> Point:
        return Point(1, 2)

    assert give.apply().get() == Point(1, 2)
