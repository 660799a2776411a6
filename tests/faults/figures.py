"""Figures of single faults, for docs/explanation/reliability.md: how long each lasts, and what it costs the others.

``python -m tests.faults.figures [--times N] [row …]``. Not part of the tests, which show that the faults are survived,
with bounds for machines that are busy. Each time has a server and a loop of its own. The figures are seconds by the
clock, so they hold for an idle machine; of stops of the loop also the CPU time of its thread, which holds for any.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from statistics import median
from typing import Any, TypeAlias

from asyncresult import BackendError, ResultTooLarge, TaskRevoked, connect
from tests.backends.waiting import until, waits_for
from tests.tools.proxy import FaultProxy
from tests.tools.servers import RedisServer

from .load import KEY, outcome, record, start_waits, stored_elsewhere

Figures: TypeAlias = dict[str, float]
#: Seconds: a heartbeat that makes a row short.
HEARTBEAT = 0.3


@asynccontextmanager
async def stops(figures: Figures) -> AsyncIterator[None]:
    """The longest stop of the loop in the block, beside the time that the machine takes for a tick."""
    longest = {"stop": 0.0, "stop (CPU)": 0.0}

    async def tick() -> None:
        while True:
            wall, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0.001)
            longest["stop"] = max(longest["stop"], time.perf_counter() - wall - 0.001)
            longest["stop (CPU)"] = max(longest["stop (CPU)"], time.thread_time() - cpu)

    ticking = asyncio.ensure_future(tick())
    await asyncio.sleep(0.01)
    try:
        yield
    finally:
        await asyncio.sleep(0)
        ticking.cancel()
        figures.update(longest)


async def since(begun: float, wait: Awaitable[Any], expected: type[Exception] | None = None) -> float:
    """Seconds from ``begun`` to the end of a wait, which is to end so."""
    try:
        await wait
    except Exception as error:
        if expected is None or not isinstance(error, expected):
            raise
    else:
        assert expected is None, f"no {expected.__name__}"
    return time.perf_counter() - begun


async def large(server: RedisServer, size: int, *, live: bool) -> Figures:
    """A record of ``size`` bytes that is stored before, or is published to who waits; a small one beside it."""
    payload = record("large", 0).encode().replace(b" 0,", b' "' + b"x" * size + b'",', 1)

    def set_it() -> None:
        server.cli("SET", f"{KEY}large", payload)
        if live:
            server.cli("PUBLISH", f"{KEY}large", payload)

    figures: Figures = {}
    async with connect(server.url()) as backend:
        expected = None if size < backend.codec.limit else ResultTooLarge
        await backend.result("warm").state()
        if not live:
            await asyncio.to_thread(set_it)
        async with stops(figures):
            waits = start_waits(backend, ["small", "large"])
            if live:
                await waits_for(backend, 2)
                await asyncio.to_thread(set_it)
            begun = time.perf_counter()
            figures["end"] = await since(begun, waits[1], expected)
            await stored_elsewhere(server, ["small"])
            await waits[0]
    return figures


async def limited_replies(server: RedisServer) -> Figures:
    """20 records of 100 kB, read at once, where the server sends 1 MB at most, and one of 2 MB, which is more."""
    names = [f"t{number}" for number in range(20)]
    async with connect(server.url()) as elsewhere:
        await asyncio.gather(*(elsewhere.mark_as_done(name, name * 30_000) for name in names))
        await elsewhere.mark_as_done("beyond", "x" * 2_000_000)
    server.limit_replies(1_000_000)
    async with connect(server.url()) as backend:
        begun = time.perf_counter()
        waits = start_waits(backend, [*names, "beyond"])
        return {
            "20 of 100 kB": await since(begun, asyncio.gather(*waits[:-1])),
            "the error of 2 MB": await since(begun, waits[-1], BackendError),
        }


async def half_open(server: RedisServer) -> Figures:
    """Both connections lead nowhere from one moment on. Until each is given up, though nobody needs it."""
    async with FaultProxy(server) as proxy, connect(proxy.url(), heartbeat=HEARTBEAT) as backend:
        await backend.result("x").state()
        waits = start_waits(backend, ["t0"])
        await waits_for(backend, 1)
        old = list(proxy.links)
        fault = proxy.black_hole(only=old.__contains__)
        begun = time.perf_counter()
        await until(lambda: not set(old) & set(proxy.links))
        found = time.perf_counter() - begun
        fault.remove()
        await stored_elsewhere(server, ["t0"])
        await outcome(waits, 20)
        return {f"both given up (heartbeat {HEARTBEAT:g})": found}


async def refused_later(server: RedisServer) -> Figures:
    """The password is another under 100 waits, for a second; then it is put right."""
    names = [f"t{number}" for number in range(100)]
    async with connect(server.url()) as backend:
        waits = start_waits(backend, names)
        await waits_for(backend, len(names))
        with server.control() as control:
            control("CONFIG", "SET", "requirepass", "another")
            control("CLIENT", "KILL", "TYPE", "pubsub")
            control("CLIENT", "KILL", "TYPE", "normal")
        begun = time.perf_counter()
        await until(lambda: "NOAUTH" in str(backend.stats().last_error))
        reported = time.perf_counter() - begun
        await asyncio.sleep(1.0)
        server.cli("CONFIG", "SET", "requirepass", "")
        begun = time.perf_counter()
        await stored_elsewhere(server, names)
        return {"in stats()": reported, "100 results after it was right": await since(begun, outcome(waits, 20))}


async def flushed(server: RedisServer) -> Figures:
    """FLUSHALL under a task that runs: until a request to revoke it has ended it."""
    async with connect(server.url()) as ours, connect(server.url()) as theirs:

        async def work() -> None:
            with suppress(TaskRevoked):
                async with ours.track("t"):
                    await asyncio.Event().wait()

        running = asyncio.ensure_future(work())
        await theirs.result("t").until("STARTED", timeout=20)
        server.cli("FLUSHALL")
        begun = time.perf_counter()
        await theirs.result("t").revoke()
        return {"revoked": await since(begun, running)}


async def one_key_forbidden(server: RedisServer) -> Figures:
    """100 waits, of which one is for a key that may be neither read nor subscribed."""
    names = [f"t{number}" for number in range(100)]
    rules = [f"{sign}{KEY}t*" for sign in ("~", "&")]
    server.cli("ACL", "SETUSER", "app", "reset", "on", ">pw", *rules, "+@all")
    async with connect(f"redis://app:pw@127.0.0.1:{server.port}/0") as backend:
        begun = time.perf_counter()
        waits = start_waits(backend, [*names, "forbidden"])
        refused = await since(begun, waits[-1], BackendError)
        await stored_elsewhere(server, names)
        return {"its error": refused, "the others": await since(begun, outcome(waits[:-1], 20))}


ROWS: dict[str, Callable[[RedisServer], Awaitable[Figures]]] = {
    "100 MB, stored": lambda server: large(server, 100_000_000, live=False),
    "100 MB, published": lambda server: large(server, 100_000_000, live=True),
    "40 MB, stored": lambda server: large(server, 40_000_000, live=False),
    "40 MB, published": lambda server: large(server, 40_000_000, live=True),
    "limited replies": limited_replies,
    "half-open": half_open,
    "refused later": refused_later,
    "FLUSHALL": flushed,
    "one key forbidden": one_key_forbidden,
}


def measure(row: str, times: int) -> str:
    """A line of the median and the worst of each figure."""
    found: list[Figures] = []
    for _ in range(times):
        with RedisServer() as server:
            found.append(asyncio.run(ROWS[row](server)))  # type: ignore[arg-type]
    columns = {name: [figures[name] for figures in found] for name in found[0]}
    cells = (f"{name} {median(values):.3f}, at most {max(values):.3f}" for name, values in columns.items())
    return f"{row:20} " + "; ".join(cells)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="tests.faults.figures", description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], metavar="row", help=", ".join(ROWS))
    options = parser.parse_args(argv)
    logging.disable()  # of the reconnects
    for row in options.rows or ROWS:
        sys.stdout.write(measure(row, options.times) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
