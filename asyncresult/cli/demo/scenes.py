"""What the demo shows, scene by scene. A scene's source is printed before it runs."""

from __future__ import annotations

import asyncio
import inspect
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncresult
from asyncresult import AsyncResult, Backend, ResultSet

from ..output import coloured, moves_cursor

__all__ = ["in_memory", "say", "where_to_go_next", "with_celery"]

MANY = 1000
BAR_CELLS = 24

Send = Callable[..., Awaitable[AsyncResult[Any]]]


def say(text: str = "") -> None:
    print(text, flush=True)


def title(text: str) -> None:
    say(f"\n\x1b[1m{text}\x1b[0m" if coloured(sys.stdout) else f"\n== {text}")


async def show(heading: str, scene: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    """Print a scene's heading and code, then run it."""
    title(heading)
    code = textwrap.dedent("".join(inspect.getsourcelines(scene)[0][1:]))
    colours = coloured(sys.stdout)
    for line in code.rstrip().splitlines():
        say(f"\x1b[2m   │ {line}\x1b[0m" if colours else f"   | {line}")
    await scene(*arguments)


def progress(current: int, total: int) -> None:
    done = BAR_CELLS * current // total
    text = f"   PROGRESS {'#' * done}{'.' * (BAR_CELLS - done)} {current}/{total}"
    if moves_cursor(sys.stdout):
        print(f"\r{text}", end="\n" if current == total else "", flush=True)
    else:
        say(text)


# --- the scenes: each is shown as it stands here ------------------------------------------------------


async def one_result(send: Send) -> None:
    handle = await send("add", 2, 3)
    value = await handle.get(timeout=30)
    say(f"   2 + 3 = {value}")


async def follow_progress(send: Send) -> None:
    handle = await send("resize", 10)
    async for meta in handle.updates(timeout=30):
        if meta.status == "PROGRESS":
            progress(meta.result["current"], meta.result["total"])
        elif meta.ready:
            say(f"   {meta.status}: {meta.result!r}")


async def a_failure(send: Send) -> None:
    try:
        await send_and_wait(send, "divide", 1, 0)
    except ZeroDivisionError as error:
        say(f"   except ZeroDivisionError: {error}; and what the worker saw:")
        for line in str(error.__cause__).strip().splitlines():
            say(f"   > {line}")


async def many_at_once(send: Send) -> None:
    before = time.perf_counter()
    results = ResultSet(await asyncio.gather(*(send("add", n, n) for n in range(MANY))))
    sent = time.perf_counter()
    values = await results.get(timeout=60)
    assert values == [2 * n for n in range(MANY)], "every value is the right one"
    say(f"   sent in {sent - before:.2f} s; all there {time.perf_counter() - sent:.2f} s later, each the right one")


async def a_chain(send: Send) -> None:
    first = await send("add", 20, 1)
    text = await first.then(lambda n: send("add", n, n)).then(lambda n: f"the answer is {n}")
    say(f"   {text}")


# --- the two stages -----------------------------------------------------------------------------------


async def send_and_wait(send: Send, *task: Any) -> Any:
    return await (await send(*task)).get(timeout=30)


async def with_celery(backend_url: str) -> None:
    """All scenes, with tasks of a Celery worker."""
    from asyncresult.integrations.celery import install

    from . import tasks

    install(tasks.app)

    async def send(name: str, *arguments: Any) -> AsyncResult[Any]:
        task: Any = getattr(tasks, name)
        handle: AsyncResult[Any] = await task.adelay(*arguments)
        return handle

    async with asyncresult.connect(tasks.app) as backend:
        say(f"results at {backend}")
        await show("value = await handle", one_result, send)
        await show("async for meta in handle.updates()", follow_progress, send)
        await show("a failure arrives as what it was", a_failure, send)
        await show(f"await ResultSet of {MANY:,}", many_at_once, send)
        await show("then() chains, with nobody waiting in between", a_chain, send)
        say(f"\n   {backend.stats()}")


async def in_memory() -> None:
    """The same scenes without a server: the tasks run in this process."""
    async with asyncresult.connect("memory://") as backend:

        async def send(name: str, *arguments: Any) -> AsyncResult[Any]:
            handle: AsyncResult[Any] = backend.result(f"{name}-{len(running)}")
            running.append(asyncio.ensure_future(_work(backend, handle.id, name, arguments)))
            return handle

        running: list[asyncio.Future[None]] = []
        await show("value = await handle", one_result, send)
        await show("async for meta in handle.updates()", follow_progress, send)
        await show("a failure arrives as what it was", a_failure, send)
        await show(f"await ResultSet of {MANY:,}", many_at_once, send)
        await show("then() chains, with nobody waiting in between", a_chain, send)
        await asyncio.gather(*running, return_exceptions=True)


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


def where_to_go_next() -> None:
    """The last lines."""
    title("where to go next")
    say("   your Celery app:     async with asyncresult.connect(app): value = await AsyncResult(task_id)")
    say("   a task's state:      asyncresult watch ID --url redis://…   (asyncresult --help for more)")
    say("   why nothing comes:   asyncresult doctor ID --url redis://…")
    say("   the documentation:   docs/tutorial.md, docs/howto/celery.md")
