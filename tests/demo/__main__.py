"""The main job, shown: results of a real Celery worker, awaited.

With ``--memory`` it shows what can be done with neither a server nor Celery.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
import traceback
from typing import Any

import asyncresult
from asyncresult import AsyncResult, Backend, ResultSet

MANY = 1000


def say(text: str = "") -> None:
    print(text, flush=True)


def title(text: str) -> None:
    say(f"\n\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() else f"\n== {text}")


async def watch(handle: AsyncResult[Any]) -> None:
    """A live line while the task reports its progress."""
    async for meta in handle.updates(timeout=30):
        if meta.status == "PROGRESS":
            current, total = meta.result["current"], meta.result["total"]
            bar = "█" * (20 * current // total)
            say(f"   PROGRESS [{bar:<20}] {current}/{total}") if not sys.stdout.isatty() else print(
                f"\r   PROGRESS [{bar:<20}] {current}/{total}", end="", flush=True
            )
        elif meta.ready:
            if sys.stdout.isatty():
                say()
            say(f"   {meta.status}: {meta.result!r}")


async def show_failure(handle: AsyncResult[Any]) -> None:
    try:
        await handle.get(timeout=30)
    except ZeroDivisionError as error:
        say(f"   except ZeroDivisionError: {error}")
        say("   and what the worker saw:")
        for line in "".join(traceback.format_exception(error)).rstrip().splitlines():
            say(f"   | {line}")


async def with_celery(backend_url: str, admin: Any) -> None:
    from tests.demo.tasks import add, divide, resize

    def send(task: Any, *args: Any) -> AsyncResult[Any]:
        """Publish with Celery, wait with asyncresult: all that joins them is the task's id."""
        return AsyncResult(task.apply_async(args, ignore_result=False).id)

    async with asyncresult.connect(backend_url) as backend:
        title("value = await AsyncResult(task_id)")
        handle = send(add, 2, 3)
        say(f"   task {handle.id}")
        say(f"   2 + 3 = {await handle.get(timeout=30)}")

        title("async for meta in handle.updates()")
        await watch(send(resize, 10))

        title("a failure arrives as what it was")
        await show_failure(send(divide, 1, 0))

        title(f"await ResultSet of {MANY:,}")
        before = time.perf_counter()
        results = ResultSet([send(add, n, n) for n in range(MANY)])
        sent = time.perf_counter()
        waiting = asyncio.ensure_future(results.get(timeout=60))
        await asyncio.sleep(0.05)
        ours = [line for line in admin.clients() if line.get("lib-name") == "asyncresult" or line["name"] == "demo"]
        values = await waiting
        assert values == [2 * n for n in range(MANY)], "every value is the right one"
        say(f"   sent in {sent - before:.2f} s; all there {time.perf_counter() - sent:.2f} s later, each the right one")
        say(f"   connections of asyncresult to the server meanwhile: {len(ours)}; threads: none")
        say(f"   {backend.stats()}")

        title("then() chains, with nobody waiting in between")
        text = await send(add, 20, 1).then(lambda n: send(add, n, n)).then(lambda n: f"the answer is {n}")
        say(f"   {text}")


async def in_memory() -> None:
    async with asyncresult.connect("memory://") as backend:

        async def worker(id: str, pictures: int) -> None:
            """Stands for any process that runs tasks."""
            await backend.mark_as_started(id)
            for done in range(1, pictures + 1):
                await asyncio.sleep(0.05)
                await backend.store_result(id, {"current": done, "total": pictures}, "PROGRESS")
            await backend.mark_as_done(id, f"{pictures} pictures resized")

        async def failing(id: str) -> None:
            try:
                _ = 1 / 0
            except ZeroDivisionError as error:
                await backend.mark_as_failure(id, error, traceback=traceback.format_exc())

        title("async for meta in handle.updates()")
        running = asyncio.ensure_future(worker("resize", 10))
        await watch(AsyncResult("resize"))
        await running
        title("a failure arrives as what it was")
        running = asyncio.ensure_future(failing("divide"))
        await show_failure(AsyncResult("divide"))
        await running
        title(f"await ResultSet of {MANY:,}")
        await many(backend)


async def many(backend: Backend) -> None:
    waiting = asyncio.ensure_future(backend.results(str(n) for n in range(MANY)).get(timeout=30))
    await asyncio.sleep(0)
    start = time.perf_counter()
    await asyncio.gather(*(backend.mark_as_done(str(n), n) for n in range(MANY)))
    assert await waiting == list(range(MANY)), "every value is the right one"
    say(f"   stored and joined in {time.perf_counter() - start:.3f} s")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 dev demo", description=__doc__)
    parser.add_argument("--memory", action="store_true", help="no server and no Celery")
    if parser.parse_args().memory:
        asyncio.run(in_memory())
        return

    from tests.tools.celery_worker import CeleryWorker
    from tests.tools.servers import RedisServer

    start = time.perf_counter()
    with RedisServer() as server:
        say(f"a private server: {server}")
        os.environ.update(DEMO_BROKER=server.url(0), DEMO_BACKEND=server.url(1))
        with CeleryWorker(
            broker=server.url(0), backend=server.url(1), app="tests.demo.tasks:app", pool="threads", concurrency=4
        ) as worker:
            say(f"a stock Celery worker: process {worker.pid}")
            asyncio.run(with_celery(server.url(1, client_name="demo"), server))
    say(f"\nall stopped after {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
