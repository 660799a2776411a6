"""The core rows of the fault tests over Sentinel and Cluster: restarts, storms of reconnects and of cancels, chaos.

Failovers are in ``tests/backends/test_sentinel.py`` and ``test_cluster.py``. The figures that each row measures are
properties of the test (``pytest --junitxml``).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import asyncresult
from asyncresult import Backend, BackendUnavailable
from tests.backends.stock import new_ids
from tests.backends.waiting import until, waits_for
from tests.tools.servers import RedisServer
from tests.tools.topologies import Cluster, Sentinels

pytestmark = pytest.mark.topology

KINDS = ["sentinel", "cluster", "sharded"]
#: Where sentinels hear of each other.
HELLO = {"__sentinel__:hello"}
Figure = Callable[[str, object], None]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def shared_topology(kind: str, request: pytest.FixtureRequest) -> Iterator[Sentinels | Cluster]:
    flavour = request.config.getoption("--flavour")
    durable = {"appendonly": "yes"}
    make = Sentinels if kind == "sentinel" else Cluster
    with make(flavour=flavour, options=durable) as servers:
        yield servers


@pytest.fixture
def topology(shared_topology: Sentinels | Cluster) -> Sentinels | Cluster:
    """Durable servers: what was stored survives a kill. Whatever the last test did to them is over."""
    shared_topology.wait_settled()
    return shared_topology


@pytest.fixture
def url(topology: Sentinels | Cluster, kind: str) -> str:
    return topology.url(sharded="true") if kind == "sharded" else topology.url()


@pytest.fixture
async def backend(url: str) -> AsyncIterator[Backend]:
    # Nobody tells the reader of shard channels that a primary stepped down alive: it looks with each heartbeat.
    async with asyncresult.connect(url, heartbeat=1) as backend:
        yield backend


@pytest.fixture
async def writer(url: str) -> AsyncIterator[Backend]:
    """Another process, as far as the servers can tell; it may take its time."""
    backend = asyncresult.connect(url, retry=20)
    yield backend
    await backend.aclose()


def primaries(topology: Sentinels | Cluster) -> list[RedisServer]:
    return [topology.primary] if isinstance(topology, Sentinels) else topology.masters


def data_servers(topology: Sentinels | Cluster) -> list[RedisServer]:
    return [server for server in topology.living if server not in getattr(topology, "sentinels", ())]


def start_waits(backend: Backend, ids: list[str]) -> list[asyncio.Future[Any]]:
    return [asyncio.ensure_future(backend.result(id).get()) for id in ids]


async def finish(waiting: list[asyncio.Future[Any]], ids: list[str], figure: Figure, within: float) -> None:
    """All of them come true, with the right values."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with asyncio.timeout(within):
        assert await asyncio.gather(*waiting) == ids
    figure("lost", 0)
    figure("seconds until the last", round(loop.time() - start, 3))


async def test_a_primary_is_restarted(
    topology: Sentinels | Cluster, backend: Backend, writer: Backend, record_property: Figure
) -> None:
    """Back before anybody promotes a replica, or after: both are fine."""
    ids = new_ids(300)
    waiting = start_waits(backend, ids)
    await waits_for(backend, len(ids))
    await asyncio.gather(*(writer.mark_as_done(id, id) for id in ids[:100]))
    storing = [asyncio.ensure_future(writer.mark_as_done(id, id)) for id in ids[100:200]]
    await asyncio.to_thread(primaries(topology)[0].restart)
    await asyncio.gather(*storing)
    await asyncio.gather(*(writer.mark_as_done(id, id) for id in ids[200:]))
    await finish(waiting, ids, record_property, within=20)


async def test_results_stored_in_the_gaps_of_reconnects(
    topology: Sentinels | Cluster, backend: Backend, writer: Backend, record_property: Figure
) -> None:
    """Every connection of ours is closed again and again while results are stored."""
    ids = new_ids(600)
    waiting = start_waits(backend, ids)
    await waits_for(backend, len(ids))
    for start in range(0, len(ids), 75):
        await until(lambda: backend.stats().connected and backend.stats().subscribed)
        for server in data_servers(topology):
            server.kill_clients("pubsub")
            server.kill_clients("normal")
        await asyncio.gather(*(writer.mark_as_done(id, id) for id in ids[start : start + 75]))
    record_property("reconnects", backend.stats().reconnects)
    assert backend.stats().reconnects >= 3
    await finish(waiting, ids, record_property, within=20)


async def test_cancels_by_the_thousand_amid_results(
    topology: Sentinels | Cluster, backend: Backend, writer: Backend, record_property: Figure
) -> None:
    """4,000 waits; half are cancelled at random moments. The other half is served, and nothing stays behind."""
    ids = new_ids(4000)
    waiting = start_waits(backend, ids)
    storing = [asyncio.ensure_future(writer.mark_as_done(id, id)) for id in ids[::2]]
    unwanted = waiting[1::2]
    random.Random(1).shuffle(unwanted)
    for number, wait in enumerate(unwanted):
        wait.cancel()
        if number % 20 == 0:
            await asyncio.sleep(0)
    await asyncio.gather(*storing)
    await finish(waiting[::2], ids[::2], record_property, within=20)
    await until(lambda: backend.stats().pending == backend.stats().subscribed == 0)
    await until(
        lambda: not any((server.channels() | server.shard_channels()) - HELLO for server in data_servers(topology))
    )


@pytest.mark.slow
async def test_chaos(topology: Sentinels | Cluster, backend: Backend, writer: Backend, record_property: Figure) -> None:
    """Clients are thrown out and primaries step down, at random, under a live load for five seconds."""
    loop = asyncio.get_running_loop()
    dice = random.Random(7)
    end = loop.time() + 5
    delays: list[float] = []
    events = lost_by_redis = 0

    async def load() -> int:
        nonlocal lost_by_redis
        done = 0
        while loop.time() < end:
            (id,) = new_ids(1)
            waiting = asyncio.ensure_future(backend.result(id).get())
            await asyncio.sleep(dice.random() * 0.02)
            while True:
                try:
                    await writer.mark_as_done(id, id)
                    break
                except BackendUnavailable:
                    continue
            stored = loop.time()
            try:
                async with asyncio.timeout(15):
                    assert await waiting == id
            except TimeoutError:  # a primary acknowledged it, stepped down, and forgot it: replication is like that
                assert not await writer.result(id).exists()
                lost_by_redis += 1
            delays.append(loop.time() - stored)
            done += 1
        return done

    async def trouble() -> None:
        nonlocal events
        while loop.time() < end - 1:
            await asyncio.sleep(dice.random() * 0.3)
            events += 1
            if dice.random() < 0.15:
                await asyncio.to_thread(step_down, topology, dice)
            else:
                server = dice.choice(data_servers(topology))
                server.kill_clients(dice.choice(["pubsub", "normal"]))

    served, _ = await asyncio.gather(asyncio.gather(*(load() for _ in range(40))), trouble())
    delays.sort()
    record_property("results", sum(served))
    record_property("events", events)
    record_property("lost", 0)
    record_property("lost by the servers", lost_by_redis)
    record_property("median delay, ms", round(delays[len(delays) // 2] * 1000, 1))
    record_property("longest delay, s", round(delays[-1], 2))


def step_down(topology: Sentinels | Cluster, dice: random.Random) -> None:
    if isinstance(topology, Sentinels):
        topology.failover()
        topology.wait_settled()
    else:
        topology.failover(dice.choice(topology.masters))
