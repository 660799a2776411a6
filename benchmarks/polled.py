"""``python -m benchmarks.polled [--waits N] [--seconds S]``: stores that announce nothing, beside Celery's own waiting.

A producer, in a process of its own, stores each result at a random moment of S seconds, by plain SQL. The result is
the moment itself (CLOCK_MONOTONIC, one clock for all processes of the machine), so whoever gets it knows how long it
took. Each client is a fresh process, too: it waits for all, and counts its own queries and its own CPU from the moment
when it waits. The databases are SQLite files, and a private PostgreSQL where one is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.backends.stores import DJANGO_BACKEND, app_storing_in, configure_django
from tests.tools.databases import PostgresServer
from tests.tools.processes import ServerMissing

RESULTS = Path(__file__).parent / "results"

#: store, client, and how many waits at most: a thread each takes minutes for a thousand, and the half of the CPU.
MEASUREMENTS = [
    *((store, client, most) for store in ("sqlite", "django") for client, most in (("asyncresult", 10**6),
                                                                                    ("celery-set", 10**6),
                                                                                    ("celery-threads", 100))),
    ("postgresql", "asyncresult", 10**6),
    ("postgresql-notify", "asyncresult", 10**6),
    ("postgresql", "celery-set", 10**6),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.polled", description=__doc__)
    parser.add_argument("--waits", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--part", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(PARTS[arguments.part[0]](*arguments.part[1:])))
        return
    rows = []
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        url = None
        try:
            url = stack.enter_context(PostgresServer()).url()
        except ServerMissing as missing:
            print(f"without PostgreSQL: {missing}", file=sys.stderr)
        for number, (store, client, most) in enumerate(MEASUREMENTS):
            if store.startswith("postgresql") and url is None:
                continue
            place = str(url) if store.startswith("postgresql") else f"{directory}/{number}.sqlite"
            row = measure(store, client, place, min(most, arguments.waits), arguments.seconds)
            print(row, flush=True)
            rows.append(row)
    results = {"python": platform.python_version(), "seconds": arguments.seconds, "rows": rows}
    path = RESULTS / f"polled-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure(store: str, client: str, place: str, waits: int, seconds: float) -> dict[str, Any]:
    """One client, with a producer beside it."""
    run_part("prepare", store, place)
    waiting = start_part("wait", store, client, place, str(waits))
    assert waiting.stdout is not None
    ids = json.loads(waiting.stdout.readline())  # it waits from now on
    producing = start_part("produce", store, place, str(seconds), *ids)
    output, _ = waiting.communicate(timeout=600)
    producing.communicate(timeout=60)
    return {"store": store, "client": client, "waits": waits, **json.loads(output)}


def start_part(*part: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.polled", "--part", *part],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )


def run_part(*part: str) -> None:
    process = start_part(*part)
    process.communicate(timeout=60)
    assert process.returncode == 0


# -- in processes of their own --------------------------------------------------------------------------------------


def make_app(store: str, place: str) -> Any:
    if store == "django":
        configure_django(Path(place))
        return app_storing_in(DJANGO_BACKEND)
    return app_storing_in(f"db+{place}" if store.startswith("postgresql") else f"db+sqlite:///{place}")


def prepare(store: str, place: str) -> None:
    """Make the tables."""
    app = make_app(store, place)
    app.AsyncResult("nothing").state  # noqa: B018
    if store == "postgresql-notify":
        from asyncresult.integrations.celery import install_trigger

        install_trigger(app)


def produce(store: str, place: str, seconds: str, *ids: str) -> None:
    """Store each at a moment of its own."""
    moments = sorted(random.uniform(0, float(seconds)) for _ in ids)
    order = random.sample(ids, len(ids))  # tasks do not end in the order in which they were sent
    insert = inserter(store, place)
    began = time.monotonic()
    for id, moment in zip(order, moments, strict=True):
        time.sleep(max(0.0, began + moment - time.monotonic()))
        insert(id, repr(time.monotonic()))


def inserter(store: str, place: str) -> Callable[[str, str], Any]:
    if store.startswith("postgresql"):
        import psycopg

        server = psycopg.connect(place.replace("+psycopg", ""), autocommit=True)
        sql = (
            "INSERT INTO celery_taskmeta (id, task_id, status, result) VALUES (nextval('task_id_sequence'), %s, %s, %s)"
        )
        return lambda id, value: server.execute(sql, (id, "SUCCESS", value.encode()))
    import sqlite3

    file = sqlite3.connect(place, isolation_level=None, timeout=60)
    file.execute("PRAGMA synchronous = OFF")  # the disk is not what is measured
    if store == "sqlite":
        statement = "INSERT INTO celery_taskmeta (task_id, status, result) VALUES (?, 'SUCCESS', ?)"
        return lambda id, value: file.execute(statement, (id, value.encode()))
    statement = (
        "INSERT INTO django_celery_results_taskresult (task_id, status, result, content_type, content_encoding,"
        " date_created, date_done) VALUES (?, 'SUCCESS', ?, 'application/json', 'utf-8', '2024-01-01', '2024-01-01')"
    )
    return lambda id, value: file.execute(statement, (id, value))


def wait(store: str, client: str, place: str, waits: str) -> dict[str, Any]:
    """Print the ids, wait for all of them; how long each took, with how many queries and how much CPU."""
    app = make_app(store, place)
    queries = count_queries(store)
    app.AsyncResult("nothing").state  # noqa: B018
    ids = [f"{os.getpid()}-{number}" for number in range(int(waits))]
    took: list[float] = []

    def arrived(stored: float) -> None:
        took.append(time.monotonic() - stored)

    begun = CLIENTS[client](app, ids, arrived, queries)
    return {
        "p50_ms": round(statistics.median(took) * 1000, 1),
        "max_ms": round(max(took) * 1000, 1),
        "queries": len(queries),
        "cpu_s": round(time.process_time() - begun, 2),
    }


def announce(ids: list[str], queries: list[None]) -> float:
    """Everything is set up: the producer may begin, and counting does."""
    queries.clear()
    print(json.dumps(ids), flush=True)
    return time.process_time()


def count_queries(store: str) -> list[None]:
    """A list that grows by one with each query for results, on whatever thread."""
    seen: list[None] = []
    if store == "django":
        from django.db.backends.signals import connection_created

        def count(execute: Any, sql: str, *args: Any) -> Any:
            if sql.startswith("SELECT"):
                seen.append(None)
            return execute(sql, *args)

        def connected(connection: Any, **_: Any) -> None:
            connection.execute_wrappers.append(count)

        connection_created.connect(connected, weak=False)
        return seen
    from sqlalchemy import Engine, event

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT") and "celery_taskmeta" in statement:
            seen.append(None)

    event.listen(Engine, "before_cursor_execute", note)
    return seen


def wait_asyncresult(app: Any, ids: list[str], arrived: Callable[[float], None], queries: list[None]) -> float:
    import asyncresult

    async def run() -> float:
        async with asyncresult.connect(app) as backend:
            await backend.get_meta("nothing")
            waiting = asyncio.ensure_future(collect(backend))
            await asyncio.sleep(0.3)
            begun = announce(ids, queries)
            await waiting
            return begun

    async def collect(backend: Any) -> None:
        async for handle in backend.results(ids).as_completed():
            arrived(handle.value)

    return asyncio.run(run())


def wait_celery_set(app: Any, ids: list[str], arrived: Callable[[float], None], queries: list[None]) -> float:
    begun = announce(ids, queries)
    results = app.ResultSet([app.AsyncResult(id) for id in ids])
    results.get(callback=lambda id, value: arrived(value))
    return begun


def wait_celery_threads(app: Any, ids: list[str], arrived: Callable[[float], None], queries: list[None]) -> float:
    def get(id: str) -> None:
        arrived(app.AsyncResult(id).get())

    threads = [threading.Thread(target=get, args=(id,)) for id in ids]
    for thread in threads:
        thread.start()
    begun = announce(ids, queries)
    for thread in threads:
        thread.join()
    return begun


CLIENTS = {
    "asyncresult": wait_asyncresult,
    "celery-set": wait_celery_set,
    "celery-threads": wait_celery_threads,
}
PARTS: dict[str, Callable[..., Any]] = {"prepare": prepare, "produce": produce, "wait": wait}

if __name__ == "__main__":
    main()
