"""The core rows of docs/explanation/reliability.md, the same way, against stock Celery and against asyncresult.

``python -m tests.faults.peers``, or with the names of some rows. An extra, not part of the tests. Each row runs in a
process of its own, which ends with it, because what is left behind is part of the picture.

Celery waits in one thread, in ``ResultSet.join_native``, which is entered again when it raises anything but a timeout;
asyncresult waits in tasks of one event loop. Server, proxy, faults and writer are the same. A wait that has no value
``PATIENCE`` seconds after its result was stored and the fault was mended, is lost.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from asyncresult import AsyncResult, connect
from tests.tools.celery_app import make_app
from tests.tools.processes import wait_until
from tests.tools.proxy import FaultProxy, subscribing
from tests.tools.servers import RedisServer

from .load import KEY, store

PATIENCE = 20.0


class Waits(Protocol):
    """Who waits."""

    def start(self, ids: Sequence[str]) -> None:
        """Begin to wait for all of them; returns at once."""

    def give_up(self, ids: Sequence[str]) -> None:
        """Begin to wait for each and give it up; returns when that is done."""

    def values(self) -> dict[str, Any]:
        """What the waits have got so far."""


class CeleryWaits:
    def __init__(self, url: str) -> None:
        self._app = make_app(broker_url="memory://", result_backend=url)
        self._results: list[Any] = []

    def start(self, ids: Sequence[str]) -> None:
        threading.Thread(target=self._join, args=(ids,), daemon=True).start()

    def _join(self, ids: Sequence[str]) -> None:
        from celery.exceptions import TimeoutError
        from celery.result import ResultSet

        self._results = [self._app.AsyncResult(id) for id in ids]  # here: a backend belongs to one thread
        while True:
            try:
                ResultSet(self._results, app=self._app).join_native(timeout=60, propagate=False)
                return
            except TimeoutError:
                return
            except Exception:
                time.sleep(0.05)

    def give_up(self, ids: Sequence[str]) -> None:
        from celery.exceptions import TimeoutError

        for id in ids:
            try:
                self._app.AsyncResult(id).get(timeout=0.001)
            except TimeoutError:
                pass

    def values(self) -> dict[str, Any]:
        return {result.id: result._cache["result"] for result in self._results if result._cache is not None}


class OurWaits:
    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._backend = connect(url)
        self._waits: dict[str, asyncio.Task[Any]] = {}
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def _do(self, begin: Callable[[], Any]) -> Any:
        async def call() -> Any:
            return begin()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(30)

    def _begin(self, ids: Sequence[str]) -> None:
        for id in ids:
            self._waits[id] = asyncio.ensure_future(AsyncResult[Any](id, backend=self._backend).get())

    def start(self, ids: Sequence[str]) -> None:
        self._do(lambda: self._begin(ids))

    def give_up(self, ids: Sequence[str]) -> None:
        self.start(ids)
        time.sleep(0.1)
        self._do(lambda: [wait.cancel() for wait in self._waits.values()])

    def values(self) -> dict[str, Any]:
        return {id: wait.result() for id, wait in self._waits.items() if wait.done() and not wait.exception()}


def lost(waits: Waits, ids: Sequence[str]) -> str:
    deadline = time.monotonic() + PATIENCE
    while len(waits.values()) < len(ids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return f"{len(ids) - len(waits.values())} of {len(ids)} lost"


def names(count: int) -> list[str]:
    return [f"t{n}" for n in range(count)]


def until_subscribed(server: RedisServer, count: int) -> None:
    wait_until(lambda: len(server.channels()) >= count, "all is subscribed", timeout=30)


# -- the rows: each with a server and a proxy of its own -------------------------------------------------------------


def restart(server: RedisServer, proxy: FaultProxy, waits: Waits) -> str:
    """1,000 waits; the server is killed and restarted, the results are stored at once."""
    waits.start(ids := names(1000))
    until_subscribed(server, 1000)
    server.restart()
    store(server, ids)
    return lost(waits, ids)


def slow_subscribe(server: RedisServer, proxy: FaultProxy, waits: Waits) -> str:
    """500 waits; SUBSCRIBE takes 30 ms, and the results are stored as soon as the first read has gone by."""
    with proxy.delay(0.03, "SUBSCRIBE"):
        waits.start(ids := names(500))
        wait_until(lambda: proxy.stats.commands["MGET"] > 0, "a read", timeout=30, interval=0.001)
        store(server, ids)
        return lost(waits, ids)


def half_open(server: RedisServer, proxy: FaultProxy, waits: Waits) -> str:
    """20 waits; the connection that is subscribed leads nowhere, without a word."""
    waits.start(ids := names(20))
    until_subscribed(server, 20)
    proxy.black_hole(only=subscribing)
    store(server, ids)
    return lost(waits, ids)


def given_up(server: RedisServer, proxy: FaultProxy, waits: Waits) -> str:
    """20 waits that are given up."""
    waits.give_up(names(20))
    time.sleep(1)
    return f"{len(server.channels())} channels left"


def forged(server: RedisServer, proxy: FaultProxy, waits: Waits) -> str:
    """A payload on the channel of one task names another."""
    waits.start(["victim", "other"])
    until_subscribed(server, 2)
    server.cli("PUBLISH", KEY + "other", '{"status": "SUCCESS", "result": "forged", "task_id": "victim"}')
    time.sleep(0.5)
    return "the other task is resolved with it" if waits.values().get("victim") == "forged" else "refused"


ROWS = [restart, slow_subscribe, half_open, given_up, forged]
SUBJECTS: dict[str, Callable[[str], Waits]] = {"asyncresult": OurWaits, "Celery": CeleryWaits}


def _run(row: str, subject: str, answer: Any) -> None:
    logging.disable()
    with RedisServer(aof=True) as server, FaultProxy.in_thread(server) as proxy:
        outcome = globals()[row](server, proxy, SUBJECTS[subject](proxy.url()))
        answer.send(outcome)
        server.kill()


def main(rows: Sequence[str]) -> None:
    context = multiprocessing.get_context("spawn")
    for row in ROWS:
        if rows and row.__name__ not in rows:
            continue
        for subject in SUBJECTS:
            mine, its = context.Pipe()
            process = context.Process(target=_run, args=(row.__name__, subject, its), daemon=True)
            process.start()
            outcome = mine.recv() if mine.poll(60) else "hung"
            process.kill()
            process.join()
            sys.stdout.write(f"{row.__name__:15} {subject:12} {outcome}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
