"""``python -m benchmarks.sending [--repeat N]``: sends of tasks without a worker, beside Celery's ``delay()``.

Each measurement is a fresh process, in the contender's own environment, and the contenders take turns. What counts are
CPU times, and ratios of two that were measured in the same repetition: wall time means little on a machine that does
other things. The lag is the longest time for which the event loop kept the CPU from a timer, in a second run, as to
look for it costs CPU too; what asyncio takes in "at once" to make a thousand tasks is in it. Those that are named after
RabbitMQ send to one, as does aio-celery, which has no other broker; they are left out where none is installed, or none
starts, and are compared with ``delay()`` to RabbitMQ.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .contenders import CONTENDERS as PEERS
from .contenders import ROOT, Contender, prepare

RESULTS = Path(__file__).parent / "results"
OURS = "asyncresult.integrations.celery:Task"
#: Contender, and the ways in which it sends.
WAYS = {
    "delay": ("one", "round-trip"),
    "delay-thread": ("one", "at-once"),
    "asyncresult": ("one", "at-once", "send-many", "round-trip"),
    "delay-rabbitmq": ("one",),
    "asyncresult-rabbitmq": ("one", "at-once", "send-many"),
    "aio-celery": ("one", "at-once"),
    "taskiq": ("one", "at-once"),
    "saq": ("one", "at-once"),
    "arq": ("one", "at-once"),
}
COUNTS = {"one": 500, "at-once": 1000, "send-many": 10_000, "round-trip": 200}
ON_RABBITMQ = ("delay-rabbitmq", "asyncresult-rabbitmq", "aio-celery")
#: Row, how it is measured, and what it should be.
TARGETS = [
    ("one by one, times delay()", "one", 2.5),
    ("1,000 at once, times delay()", "at-once", 5.0),
    ("send_many, times delay()", "send-many", 5.0),
]
MOST_LAG = 5.0

Send = Callable[[str, int], Awaitable[None]]
Rows = dict[str, list[dict[str, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.sending", description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(asyncio.run(measure(*arguments.part))))
        return
    rows = run(arguments.repeat)
    show(rows)
    result = {"date": datetime.now(UTC).isoformat(), "python": platform.python_version(), "rows": rows}
    (RESULTS / "sending.json").write_text(json.dumps(result, indent=1) + "\n")


# -- the runner ---------------------------------------------------------------------------------------------


def run(repeat: int) -> Rows:
    """Each contender's measurements, by ``contender way``, in order."""
    from tests.integrations.rabbitmq import RabbitMQ
    from tests.tools.processes import ServerMissing
    from tests.tools.servers import RedisServer

    rows: Rows = {}
    with RedisServer() as server, ExitStack() as stack:
        results = server.url(0).partition("?")[0]
        urls = dict.fromkeys(WAYS, results)
        try:
            rabbitmq = stack.enter_context(RabbitMQ()).url()
        except (ServerMissing, TimeoutError) as missing:
            print(f"{', '.join(ON_RABBITMQ)} are left out: {missing}")
            for name in ON_RABBITMQ:
                del urls[name]
        else:
            urls |= dict.fromkeys(ON_RABBITMQ, f"{rabbitmq} {results}") | {"aio-celery": rabbitmq}
        stack.enter_context(worker(urls["asyncresult"]))
        pythons = {name: python_of(name) for name in urls}
        parts = [(name, way) for name in urls if pythons[name] for way in WAYS[name]]
        for repetition in range(repeat):
            for name, way in parts[:: -1 if repetition % 2 else 1]:
                command = [str(pythons[name]), "-m", "benchmarks.sending", "--part", name, way, urls[name]]
                done = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, timeout=300, check=True)
                rows.setdefault(f"{name} {way}", []).append(json.loads(done.stdout))
    return rows


def python_of(name: str) -> str | None:
    """The interpreter of a contender; None if its environment cannot be made."""
    peer: Contender | None = next((peer for peer in PEERS if peer.name == name), None)
    if peer is None:
        return sys.executable
    reason = prepare(peer)
    if reason is not None:
        print(f"{name} is left out: {reason}")
    return None if reason else peer.python


def worker(url: str) -> ExitStack:
    """A stock Celery worker for the round trips, on a queue of its own."""
    code = (
        "from benchmarks.sending import celery_app; import os; celery_app(os.environ['URL'], {}).worker_main("
        "['worker', '--pool', 'solo', '-Q', 'trips', '-l', 'ERROR', '--without-mingle', '--without-gossip'])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"URL": url})
    stack = ExitStack()
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return stack


def show(rows: Rows) -> None:
    """Print the table, and which goals were met."""
    print(f"{'':26}{'a second':>10}{'wall, ms':>10}{'CPU, ms':>10}{'x delay() by CPU':>18}{'lag, ms CPU':>13}")
    for name, measured in rows.items():
        wall, cpu, lag = (statistics.median(row[key] for row in measured) for key in ("wall", "cpu", "lag"))
        base = rows[base_of(name)]
        print(f"{name:26}{1000 / wall:10.0f}{wall:10.3f}{cpu:10.3f}{ratio(base, measured):18.2f}{lag:13.1f}")
    for label, way, least in TARGETS:
        reached = ratio(rows["delay one"], rows[f"asyncresult {way}"])
        print(f"{label}: {reached:.2f}, goal {least}: {'met' if reached >= least else 'NOT met'}")
    for way in ("at-once", "send-many"):
        lag = statistics.median(row["lag"] for row in rows[f"asyncresult {way}"])
        print(f"loop lag, {way}: {lag:.1f} ms, goal {MOST_LAG:.0f}: {'met' if lag <= MOST_LAG else 'NOT met'}")
    for way in ("one", "at-once"):
        if f"aio-celery {way}" in rows:
            reached = ratio(rows[f"aio-celery {way}"], rows[f"asyncresult-rabbitmq {way}"])
            print(f"CPU of aio-celery, {way}, times ours: {reached:.2f}, goal 1: {'met' if reached > 1 else 'NOT met'}")


def base_of(name: str) -> str:
    """The row with ``delay()`` that another is compared with."""
    if name.endswith("round-trip"):
        return "delay round-trip"
    return "delay-rabbitmq one" if name.partition(" ")[0] in ON_RABBITMQ else "delay one"


def ratio(base: list[dict[str, float]], measured: list[dict[str, float]]) -> float:
    """How many times as much CPU the first takes: the median over the repetitions."""
    return statistics.median(
        ours["cpu"] and theirs["cpu"] / ours["cpu"] for theirs, ours in zip(base, measured, strict=True)
    )


# -- one measurement, in a process of its own -------------------------------------------------------------------


async def measure(name: str, way: str, url: str) -> dict[str, float]:
    """Milliseconds of wall time and of CPU for one task, and of the longest turn of the loop."""
    stack, send = await SENDERS[name](url)
    count = COUNTS[way]
    await send(way, 20)  # connects, declares, and loads what is loaded at first use
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    await send(way, count)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    turns = LongestTurn()
    await asyncio.sleep(0)  # it looks from here on, and so at the turn that makes the tasks
    await send(way, count)
    lag = await turns.stop()
    await stack()
    return {"wall": wall / count * 1000, "cpu": cpu / count * 1000, "lag": lag * 1000}


class LongestTurn:
    """Looks, every half a millisecond, how much CPU the loop's thread has used since."""

    def __init__(self) -> None:
        self._worst = 0.0
        self._task = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        while True:
            begun = time.thread_time()
            await asyncio.sleep(0.0005)
            self._worst = max(self._worst, time.thread_time() - begun)

    async def stop(self) -> float:
        """Seconds of the longest."""
        await asyncio.sleep(0.002)
        self._task.cancel()
        return self._worst


def add(x: int, y: int) -> int:
    """The task."""
    return x + y


def celery_app(url: str, options: dict[str, Any]) -> Any:
    """An app with the task, in this process.

    Args:
        url: That of the broker; behind a space that of the results, if they are elsewhere.
    """
    from celery import Celery

    broker, _, backend = url.partition(" ")
    app: Any = Celery("sending", broker=broker, backend=backend or broker, set_as_current=False, **options)
    app.task(name="add", shared=False)(add)
    return app


async def nothing() -> None: ...


def one_or_all(send: Callable[[int], Awaitable[Any]]) -> Send:
    async def sends(way: str, count: int) -> None:
        if way == "one":
            for number in range(count):
                await send(number)
        else:
            await asyncio.gather(*[send(number) for number in range(count)])

    return sends


async def by_delay(url: str) -> tuple[Any, Send]:
    task = celery_app(url, {}).tasks["add"]

    async def send(way: str, count: int) -> None:
        for number in range(count):
            if way == "round-trip":
                task.apply_async((number, 1), queue="trips").get(timeout=60)
            else:
                task.delay(number, 1)

    return nothing, send


async def by_delay_in_thread(url: str) -> tuple[Any, Send]:
    task = celery_app(url, {}).tasks["add"]
    return nothing, one_or_all(lambda number: asyncio.to_thread(task.delay, number, 1))


async def by_asyncresult(url: str) -> tuple[Any, Send]:
    from asyncresult import connect
    from asyncresult.integrations.celery import send_many

    app = celery_app(url, {"task_cls": OURS})
    task = app.tasks["add"]
    backend = connect(app)
    await backend.__aenter__()
    plain = one_or_all(lambda number: task.adelay(number, 1))

    async def send(way: str, count: int) -> None:
        if way == "send-many":
            await send_many(task.s(number, 1) for number in range(count))
        elif way == "round-trip":
            for number in range(count):
                await (await task.aapply_async((number, 1), queue="trips"))
        else:
            await plain(way, count)

    return backend.aclose, send


async def by_aio_celery(url: str) -> tuple[Any, Send]:
    from aio_celery import Celery

    app: Any = Celery()
    app.conf.update(broker_url=url)
    context = app.setup()
    await context.__aenter__()

    async def close() -> None:
        await context.__aexit__(None, None, None)

    return close, one_or_all(lambda number: app.send_task("add", args=(number, 1)))


async def by_taskiq(url: str) -> tuple[Any, Send]:
    from taskiq_redis import ListQueueBroker

    broker: Any = ListQueueBroker(url, max_connection_pool_size=20)
    await broker.startup()
    task = broker.register_task(add, task_name="add")
    return broker.shutdown, one_or_all(lambda number: task.kiq(number, 1))


async def by_saq(url: str) -> tuple[Any, Send]:
    from saq import Queue

    queue: Any = Queue.from_url(url)
    await queue.connect()
    return queue.disconnect, one_or_all(lambda number: queue.enqueue("add", x=number, y=1))


async def by_arq(url: str) -> tuple[Any, Send]:
    from arq import ArqRedis
    from redis.asyncio import BlockingConnectionPool

    # Its own pool has no bound: as many connections as there are sends.
    pool: Any = ArqRedis(BlockingConnectionPool.from_url(url, max_connections=20, timeout=None))
    return pool.aclose, one_or_all(lambda number: pool.enqueue_job("add", number, 1))


SENDERS: dict[str, Callable[[str], Awaitable[tuple[Any, Send]]]] = {
    "delay": by_delay,
    "delay-thread": by_delay_in_thread,
    "delay-rabbitmq": by_delay,
    "asyncresult-rabbitmq": by_asyncresult,
    "asyncresult": by_asyncresult,
    "aio-celery": by_aio_celery,
    "taskiq": by_taskiq,
    "saq": by_saq,
    "arq": by_arq,
}

if __name__ == "__main__":
    main()
