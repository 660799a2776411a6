"""The constants of docs/explanation/scale.md, measured: ``python -m benchmarks.scale``. About a minute.

A "process" here is a backend with connections of its own; a thousand of them share one real process, so what they cost
is read from the server, and what one waiting handle costs is read from the client.
"""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Iterable

import asyncresult
from asyncresult import Backend
from asyncresult._storage.store import engine_of
from tests.backends.waiting import until
from tests.tools.servers import RedisServer
from tests.tools.topologies import Cluster

WAITS = 20_000
PROCESSES = 1_000
WAITS_PER_PROCESS = 20
RESULTS = 10_000
ALONE = 2_000


def names(count: int, prefix: str = "") -> list[str]:
    """Ids as long as Celery's."""
    return [prefix + str(number).zfill(36 - len(prefix)) for number in range(count)]


async def subscribed(backends: Iterable[Backend], each: int) -> None:
    await until(lambda: all(engine_of(backend).waiters.subscribed >= each for backend in backends), timeout=60)


def used_memory(servers: Iterable[RedisServer]) -> int:
    return sum(int(server.info("memory")["used_memory"]) for server in servers)


def cpu(servers: Iterable[RedisServer]) -> float:
    """Seconds of CPU that the servers used so far."""
    total = 0.0
    for server in servers:
        used = server.info("cpu")
        total += float(used["used_cpu_sys"]) + float(used["used_cpu_user"])
    return total


def tell(what: str, value: float, unit: str) -> None:
    print(f"| {what} | {value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit} |", flush=True)


async def memory(server: RedisServer) -> None:
    async with asyncresult.connect(server.url()) as backend:
        await asyncio.gather(*(backend.mark_as_done(id, 42) for id in names(RESULTS, "warm")))
        before = used_memory([server])
        await asyncio.gather(*(backend.mark_as_done(id, 42) for id in names(RESULTS, "stored")))
        tell("server memory: a stored result", (used_memory([server]) - before) / RESULTS, "bytes")
        for what in ("a wait in a task of its own", "a member of a join"):
            ids = names(WAITS, what[:8])
            gc.collect()
            before = used_memory([server])
            tracemalloc.start()
            if what == "a member of a join":
                waiting = [asyncio.ensure_future(backend.results(ids).get())]
            else:
                waiting = [asyncio.ensure_future(backend.result(id).get()) for id in ids]
            await subscribed([backend], WAITS)
            tell(f"client memory: {what}", tracemalloc.get_traced_memory()[0] / WAITS, "bytes")
            tracemalloc.stop()
            if len(waiting) > 1:
                tell("server memory: a subscribed channel", (used_memory([server]) - before) / WAITS, "bytes")
            for wait in waiting:
                wait.cancel()
            await asyncio.wait(waiting)
            await until(lambda: not backend.stats().subscribed)


async def work(server: RedisServer) -> None:
    """CPU of the server for each result that is waited for, stored by us, published and read."""
    async with asyncresult.connect(server.url()) as backend:
        before, sent = cpu([server]), int(server.info("stats")["total_net_output_bytes"])
        ids = names(RESULTS, "w")
        waiting = asyncio.ensure_future(backend.results(ids).get())
        await subscribed([backend], RESULTS)
        tell("server CPU: subscribe and read a key", (cpu([server]) - before) / RESULTS * 1e6, "µs")
        before, sent = cpu([server]), int(server.info("stats")["total_net_output_bytes"])
        await asyncio.gather(*(backend.mark_as_done(id, 42) for id in ids))
        await waiting
        tell("server CPU: store and publish a result", (cpu([server]) - before) / RESULTS * 1e6, "µs")
        size = (int(server.info("stats")["total_net_output_bytes"]) - sent) / RESULTS
        tell("server output: a result to its one waiter", size, "bytes")


async def alone(server: RedisServer) -> None:
    """CPU of the server for a result that travels by itself, so that nothing is spread over a batch."""
    async with asyncresult.connect(server.url()) as backend, asyncresult.connect(server.url()) as writer:
        await writer.mark_as_done("warm", 1)
        await backend.result("warm")
        before = cpu([server])
        for id in names(ALONE, "stored"):
            await writer.mark_as_done(id, 42)
        storing = cpu([server]) - before
        tell("server CPU: a result stored by itself", storing / ALONE * 1e6, "µs")
        before = cpu([server])
        for id in names(ALONE, "alone"):
            waiting = asyncio.ensure_future(backend.result(id).get())
            await asyncio.sleep(0)
            await writer.mark_as_done(id, 42)
            await waiting
        tell("server CPU: a wait by itself", (cpu([server]) - before - storing) / ALONE * 1e6, "µs")


async def storm(server: RedisServer) -> None:
    """All processes lose all connections at once."""
    backends = [asyncresult.connect(server.url()) for _ in range(PROCESSES)]
    memory_before = used_memory([server])
    waiting = []
    for number, backend in enumerate(backends):
        waiting.append(asyncio.ensure_future(backend.results(names(WAITS_PER_PROCESS, f"p{number}-")).get()))
    await subscribed(backends, WAITS_PER_PROCESS)
    tell("server memory: a process that waits for 20", (used_memory([server]) - memory_before) / PROCESSES, "bytes")
    used, start, client = cpu([server]), time.monotonic(), time.process_time()
    accepted = int(server.info("stats")["total_connections_received"])
    server.kill_clients("pubsub")
    server.kill_clients("normal")
    await until(lambda: sum(backend.stats().reconnects for backend in backends) >= PROCESSES, timeout=60)
    await subscribed(backends, WAITS_PER_PROCESS)
    took = time.monotonic() - start
    tell(f"storm: {PROCESSES} processes x {WAITS_PER_PROCESS} waits are back after", took, "s")
    tell("storm: of which CPU of the one client that plays them all", time.process_time() - client, "s")
    tell("storm: of which CPU of the server", cpu([server]) - used, "s")
    connections = int(server.info("stats")["total_connections_received"]) - accepted
    tell("storm: connections made", connections, "")
    tell("storm: server CPU a process", (cpu([server]) - used) / PROCESSES * 1e6, "µs")
    for backend in backends:
        await backend.aclose()
    await asyncio.gather(*waiting, return_exceptions=True)


async def shards(cluster: Cluster, *, sharded: bool) -> None:
    """What all nodes together pay for a result, by the way it is announced."""
    kind = "sharded" if sharded else "classic"
    nodes = cluster.servers
    async with asyncresult.connect(cluster.url(sharded=str(sharded))) as backend:
        ids = names(RESULTS, kind)
        memory_before = used_memory(cluster.masters)
        waiting = asyncio.ensure_future(backend.results(ids).get())
        await subscribed([backend], RESULTS)
        tell(f"cluster, {kind}: memory of a channel", (used_memory(cluster.masters) - memory_before) / RESULTS, "bytes")
        used = cpu(nodes)
        sent = [bus(node) for node in nodes]
        start, client = time.monotonic(), time.process_time()
        await asyncio.gather(*(backend.mark_as_done(id, 42) for id in ids))
        await waiting
        tell(f"cluster, {kind}: CPU of the client for a result", (time.process_time() - client) / RESULTS * 1e6, "µs")
        tell(f"cluster, {kind}: CPU of all nodes for a result", (cpu(nodes) - used) / RESULTS * 1e6, "µs")
        messages = sum(bus(node) - before for node, before in zip(nodes, sent, strict=True)) / RESULTS
        tell(f"cluster, {kind}: messages on the bus for a result", messages, "")
        tell(f"cluster, {kind}: results a second, one client", RESULTS / (time.monotonic() - start), "/s")


def bus(node: RedisServer) -> int:
    info = dict(line.split(":", 1) for line in node.cli("CLUSTER", "INFO").decode().splitlines() if ":" in line)
    kinds = ("publish", "publishshard")
    return sum(int(info.get(f"cluster_stats_messages_{kind}_sent", 0)) for kind in kinds)


def main() -> None:
    print("| what | measured |\n| --- | ---: |")
    with RedisServer() as server:
        asyncio.run(memory(server))
        asyncio.run(work(server))
        asyncio.run(alone(server))
    with RedisServer() as server:
        asyncio.run(storm(server))
    with Cluster() as cluster:
        asyncio.run(shards(cluster, sharded=False))
        asyncio.run(shards(cluster, sharded=True))


if __name__ == "__main__":
    main()
