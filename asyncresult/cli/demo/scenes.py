"""What the demo shows, scene by scene. A scene's source is shown beside what it does."""

# pyright: reportUnknownLambdaType=false
from __future__ import annotations

import asyncio
import inspect
import textwrap
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncresult
from asyncresult import AsyncResult, Backend, ResultSet

from .stage import Stage

__all__ = ["in_memory", "tasks_file", "where_to_go_next", "with_celery"]

DOCUMENTATION = "https://asyncresult.github.io/asyncresult"
TRACEBACK_LINES = 3

Scene = Callable[[Any, Stage], Awaitable[None]]


# --- the scenes: the code of each is shown as it is written here ---------------------------------------


async def one_result(tasks: Any, stage: Stage) -> None:
    handle = await tasks.add.adelay(2, 3)
    value = await handle
    stage.show(f"2 + 3 = {value}")


async def follow_progress(tasks: Any, stage: Stage) -> None:
    handle = await tasks.resize.adelay(10)
    async for meta in handle.updates(timeout=30):
        if meta.status == "PROGRESS":
            stage.bar(meta.result["current"], meta.result["total"])
        elif meta.ready:
            stage.show(f"{meta.status}: {meta.result}")


async def a_failure(tasks: Any, stage: Stage) -> None:
    handle = await tasks.divide.adelay(1, 0)
    try:
        await handle
    except ZeroDivisionError as error:
        stage.show(f"ZeroDivisionError: {error}")
        stage.show(last_lines(error.__cause__))  # the worker's traceback


async def many_at_once(tasks: Any, stage: Stage) -> None:
    start = time.perf_counter()
    handles = await asyncio.gather(*(tasks.add.adelay(n, n) for n in range(1000)))
    stage.show(f"1,000 sent in {time.perf_counter() - start:.2f} s")
    values = await ResultSet(handles).get(timeout=60)
    assert values == [2 * n for n in range(1000)]
    stage.show(f"all there, in order, after {time.perf_counter() - start:.2f} s")


async def the_first_of_many(tasks: Any, stage: Stage) -> None:
    handles = [await tasks.resize.adelay(pictures) for pictures in (9, 3, 6)]
    async for handle in asyncresult.as_completed(handles):
        stage.show(await handle)


async def a_chain(tasks: Any, stage: Stage) -> None:
    handle = await tasks.add.adelay(20, 1)
    doubled = handle.then(lambda n: tasks.add.adelay(n, n))
    text = await doubled.then(lambda n: f"the answer is {n}")
    stage.show(text)


SCENES: list[tuple[str, Scene]] = [
    ("a value: await the handle", one_result),
    ("progress, as it is reported", follow_progress),
    ("a failure arrives as what it was", a_failure),
    ("a thousand results, one wait", many_at_once),
    ("each as soon as it is there", the_first_of_many),
    ("then(): what follows, with nobody waiting in between", a_chain),
]


def last_lines(error: BaseException | None) -> str:
    """The end of a traceback, which is nearest to the task's own code."""
    lines = [line.strip() for line in str(error).replace('"""', "").splitlines()]
    return "\n".join([line for line in lines if line and not set(line) <= set("^~ ")][-TRACEBACK_LINES:])


async def play(tasks: Any, stage: Stage) -> None:
    """All scenes, one after the other."""
    for heading, scene in SCENES:
        stage.title(heading)
        stage.code(textwrap.dedent("".join(inspect.getsourcelines(scene)[0][1:])).rstrip().splitlines())
        await scene(tasks, stage)
        stage.end_scene()


# --- the two theatres ---------------------------------------------------------------------------------


async def with_celery(stage: Stage) -> None:
    """With tasks of a Celery worker."""
    from asyncresult.integrations.celery import install

    from . import tasks

    install(tasks.app)
    async with asyncresult.connect(tasks.app):
        await play(tasks, stage)


async def in_memory(stage: Stage) -> None:
    """Without a server: the tasks run in this process."""
    running: set[asyncio.Future[None]] = set()
    async with asyncresult.connect("memory://") as backend:
        names = ("add", "resize", "divide")
        await play(SimpleNamespace(**{name: _Task(backend, name, running) for name in names}), stage)
        await asyncio.gather(*running, return_exceptions=True)


class _Task:
    """In place of a Celery task."""

    def __init__(self, backend: Backend, name: str, running: set[asyncio.Future[None]]) -> None:
        self._backend = backend
        self._name = name
        self._running = running

    async def adelay(self, *arguments: Any) -> AsyncResult[Any]:
        handle: AsyncResult[Any] = self._backend.result(f"{self._name}-{len(self._running)}")
        work = _work(self._backend, handle.id, self._name, arguments)
        self._running.add(asyncio.create_task(work, name=f"asyncresult demo {handle.id}"))
        return handle


async def _work(backend: Backend, id: str, name: str, arguments: tuple[Any, ...]) -> None:
    """What a worker does: run the task under track(), which stores its states."""
    async with backend.track(id, name=name) as task:
        if name == "add":
            task.set_result(arguments[0] + arguments[1])
        elif name == "divide":
            task.set_result(arguments[0] / arguments[1])
        else:
            for done in range(1, arguments[0] + 1):
                await asyncio.sleep(0.1)
                await task.progress(done, arguments[0])
            task.set_result(f"{arguments[0]} pictures resized")


def tasks_file() -> str:
    """Where the tasks can be read."""
    return str(Path(__file__).with_name("tasks.py"))


def where_to_go_next(stage: Stage) -> None:
    """The last lines."""
    stage.title("where to go next")
    stage.show("your Celery app      from asyncresult import connect, AsyncResult")
    stage.show("                     async with connect(app): value = await AsyncResult(task_id)")
    stage.show("a task's states      asyncresult watch ID -A PROJ        (or --url redis://…)")
    stage.show("nothing comes?       asyncresult doctor ID -A PROJ")
    stage.show("in a browser         asyncresult serve -A PROJ           pip install 'asyncresult[web]'")
    stage.show(f"step by step         {DOCUMENTATION}/tutorial.html")
    stage.show(f"with Celery          {DOCUMENTATION}/howto/celery.html")
