"""``redis+cluster://``: commands find their nodes, and nothing is lost while slots and nodes change."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import asyncresult
from asyncresult import Backend, BackendError, BackendUnavailable
from asyncresult._redis import connection as _connection
from asyncresult._redis.address import Address
from asyncresult._redis.urls import parse_cluster
from asyncresult._redis.wire import Dropped, Refused, Wire
from asyncresult._storage.keys import slot_of
from asyncresult._storage.store import engine_of
from tests.tools import topologies
from tests.tools.certificates import Certificates
from tests.tools.proxy import FaultProxy
from tests.tools.servers import HOST, RedisServer, free_port
from tests.tools.topologies import Cluster

from .stock import new_ids, stock_store
from .waiting import until, waits_for

topology = pytest.mark.topology


@pytest.fixture(params=[False, True], ids=["classic", "sharded"])
def sharded(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def breakable_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster(flavour=request.config.getoption("--flavour")) as cluster:
        yield cluster


@pytest.fixture
def own_cluster(breakable_cluster: Cluster) -> Cluster:
    """A cluster that the test may break: what the last one broke is whole again."""
    for server in breakable_cluster.servers:
        if server.paused:
            server.resume()
        if not server.running:
            server.start()
    breakable_cluster.wait_settled()
    return breakable_cluster


@pytest.fixture
async def backend(own_cluster: Cluster, sharded: bool) -> AsyncIterator[Backend]:
    async with asyncresult.connect(own_cluster.url(), sharded=sharded) as backend:
        yield backend


def start_waits(backend: Backend, ids: list[str]) -> list[asyncio.Future[Any]]:
    return [asyncio.ensure_future(backend.result(id).get()) for id in ids]


def owners(cluster: Cluster, backend: Backend, ids: list[str]) -> dict[RedisServer, list[str]]:
    found: dict[RedisServer, list[str]] = {}
    for id in ids:
        found.setdefault(cluster.owner(slot_of(backend.task_key(id))), []).append(id)
    return found


# -- without a server ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "addresses", "tls", "sharded"),
    [
        ("redis+cluster://h1:1,h2:2,h3", ["h1:1", "h2:2", "h3:6379"], False, False),
        ("valkey+cluster://h1:1;h2:2/0?sharded=true", ["h1:1", "h2:2"], False, True),
        ("rediss+cluster://h1:1", ["h1:1"], True, False),
        ("valkeys+cluster://h1:1", ["h1:1"], True, False),
    ],
)
def test_urls(url: str, addresses: list[str], tls: bool, sharded: bool) -> None:
    _, options = parse_cluster(url, {})
    assert [str(address) for address in options.addresses] == addresses
    assert (options.tls, options.sharded) == (tls, sharded)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis+cluster://:secret@h1/3", "database 0 only"),
        ("redis+cluster://:secret@h1?ssl_ca_certs=x", r"rediss\+cluster://"),
        ("redis+cluster://:secret@h1?shraded=1", "unknown backend option"),
        ("redis://:secret@h1?sharded=true", "unknown backend option"),
    ],
)
def test_mistakes_are_named_and_hold_no_secret(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        asyncresult.connect(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["plain", "{user}:1", "a{b}c{d}", "{}empty", "open{", "{a{b}"])
def test_slots_are_those_of_the_specification(key: str) -> None:
    assert slot_of(key.encode()) == topologies.slot_of(key)
    assert slot_of(b"123456789") == 0x31C3  # the specification's example


def test_a_shard_subscription_names_channels_of_one_slot_only() -> None:
    """The server refuses anything else with CROSSSLOT."""
    wire = Wire(sharded=True, resp3=False)
    wire.start()
    wire.receive(b"+PONG\r\n")
    wire.subscribe([b"{a}1", b"{b}1", b"{a}2"])
    assert wire.data_to_send() == (
        b"*3\r\n$10\r\nSSUBSCRIBE\r\n$4\r\n{a}1\r\n$4\r\n{a}2\r\n*2\r\n$10\r\nSSUBSCRIBE\r\n$4\r\n{b}1\r\n"
    )
    _, events = wire.receive(b"-MOVED 15495 127.0.0.1:7002\r\n")
    assert events == [Refused([b"{a}1", b"{a}2"], "MOVED 15495 127.0.0.1:7002")]


def test_a_subscription_that_the_server_ends_is_distinguished_from_one_that_we_end() -> None:
    """A slot moves while something else is being unsubscribed."""
    wire = Wire(sharded=True, resp3=False)
    wire.start()
    wire.receive(b"+PONG\r\n")
    wire.subscribe([b"a", b"b"])
    wire.data_to_send()
    wire.receive(b"*3\r\n$10\r\nssubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$10\r\nssubscribe\r\n$1\r\nb\r\n:2\r\n")
    wire.unsubscribe([b"a"])
    wire.data_to_send()
    _, events = wire.receive(b"*3\r\n$12\r\nsunsubscribe\r\n$1\r\nb\r\n:1\r\n")
    assert events == [Dropped([b"b"])]
    _, events = wire.receive(b"*3\r\n$12\r\nsunsubscribe\r\n$1\r\na\r\n:0\r\n")
    assert events == []


# -- where things go ----------------------------------------------------------------------------------------


@topology
async def test_reads_and_stores_go_to_the_owners_in_few_round_trips(cluster: Cluster) -> None:
    """No redirection, and a thousand of them are a handful of pipelines."""
    ids = new_ids(1000)
    async with asyncresult.connect(cluster.url()) as backend:
        await asyncio.gather(*(backend.mark_as_done(id, id) for id in new_ids(30)))  # each master gets the script
        for master in cluster.masters:
            master.cli("CONFIG", "RESETSTAT")
        await asyncio.gather(*(backend.mark_as_done(id, id) for id in ids))
        assert await backend.results(ids).get() == ids
        for master in cluster.masters:
            commands = master.commandstats()
            assert 250 < commands["evalsha"] + commands.get("eval", 0) < 420
            assert "MOVED" not in master.cli("INFO", "errorstats").decode()
        assert await backend.forget(*ids) == 1000


@topology
async def test_messages_of_stock_writers_arrive_whatever_node_they_publish_on(cluster: Cluster) -> None:
    ids = new_ids(30)
    async with asyncresult.connect(cluster.url()) as backend:
        waiting = start_waits(backend, ids)
        await waits_for(backend, len(ids))
        for owner, own in owners(cluster, backend, ids).items():
            stock_store(owner, backend, dict.fromkeys(own, "stock"))
        assert await asyncio.gather(*waiting) == ["stock"] * len(ids)


@topology
async def test_shard_channels_stay_in_their_shard(cluster: Cluster) -> None:
    """Each master has the channels of its own slots, no other; the message is published there alone."""
    ids = new_ids(60)
    async with asyncresult.connect(cluster.url(), sharded=True) as backend:
        waiting = start_waits(backend, ids)
        await waits_for(backend, len(ids))
        for owner, own in owners(cluster, backend, ids).items():
            assert owner.shard_channels() == {backend.task_key(id).decode() for id in own}
            assert not owner.channels()
        await asyncio.gather(*(backend.mark_as_done(id, id) for id in ids))
        assert await asyncio.gather(*waiting) == ids
        await until(lambda: not any(master.shard_channels() for master in cluster.masters))


@topology
async def test_a_server_that_is_no_cluster_says_so_at_once(redis_server: RedisServer) -> None:
    url = f"redis+cluster://{redis_server.host}:{redis_server.port}"
    async with asyncresult.connect(url) as backend:
        async with asyncio.timeout(20):
            with pytest.raises(BackendError, match="cluster support disabled"):
                await backend.mark_as_started("x")
            with pytest.raises(BackendError, match="cluster support disabled"):
                await backend.result("x").get()


@topology
async def test_nobody_there_is_an_outage(redis_server: RedisServer) -> None:
    url = f"redis+cluster://127.0.0.1:{free_port()}"
    async with asyncresult.connect(url, retry=0.2) as backend:
        waiting = asyncio.ensure_future(backend.result("x").get())
        with pytest.raises(BackendUnavailable):
            await backend.mark_as_started("x")
        assert not waiting.done()
        waiting.cancel()


@topology
async def test_a_long_way_to_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round trip takes longer than a query waits at first, of the two to five that make one."""
    monkeypatch.setattr(_connection, "QUERY_TIMEOUT", 0.1)
    options = {"cluster-enabled": "yes", "cluster-config-file": "nodes.conf", "cluster-announce-ip": HOST}
    with RedisServer(options=options) as node:
        async with FaultProxy(node) as proxy:
            node.cli("CONFIG", "SET", "cluster-announce-port", proxy.port)
            node.cli("CLUSTER", "ADDSLOTS", *range(16384))
            proxy.delay(0.08, direction="both")
            async with asyncresult.connect(f"redis+cluster://{proxy.host}:{proxy.port}", heartbeat=30.0) as backend:
                waiting = asyncio.ensure_future(backend.result("x").get(timeout=20))
                await waits_for(backend, 1)
                await backend.mark_as_done("x", 1)
                assert await waiting == 1


@topology
async def test_closing_waits_for_what_is_being_stored(cluster: Cluster) -> None:
    """Also when the slots are not known yet."""
    backend = asyncresult.connect(cluster.url())
    storing = asyncio.ensure_future(backend.mark_as_done("x", 1))
    await asyncio.sleep(0)
    await backend.aclose()
    assert await storing


@topology
async def test_passwords_and_tls(certificates: Certificates, sharded: bool, request: pytest.FixtureRequest) -> None:
    flavour = request.config.getoption("--flavour")
    with Cluster(flavour=flavour, replicas=0, tls=certificates, password="pä:ss") as locked:
        async with asyncresult.connect(locked.url(), sharded=sharded) as backend:
            waiting = start_waits(backend, ids := new_ids(20))
            await waits_for(backend, len(ids))
            await asyncio.gather(*(backend.mark_as_done(id, id) for id in ids))
            assert await asyncio.gather(*waiting) == ids
        async with asyncresult.connect(locked.url(), sharded=sharded, password="wrong") as backend:
            async with asyncio.timeout(20):
                with pytest.raises(asyncresult.BackendPermissionError):
                    await backend.mark_as_started("x")
                with pytest.raises(asyncresult.BackendPermissionError):
                    await backend.result("x").get()


# -- slots move ---------------------------------------------------------------------------------------------


@topology
async def test_a_slot_moves_during_waits(cluster: Cluster, sharded: bool) -> None:
    """Stored before, in the middle (ASK) and after (MOVED): all of it arrives, and long before a sweep."""
    ids = [f"{{moving}}:{number}" for number in range(6)]
    async with asyncresult.connect(cluster.url(), sharded=sharded) as backend:
        slot = slot_of(backend.task_key(ids[0]))
        source = cluster.owner(slot)
        target = next(master for master in cluster.masters if master is not source)
        waiting = start_waits(backend, ids)
        await waits_for(backend, len(ids))
        await backend.mark_as_done(ids[0], 0)
        with cluster.migrating(slot, target):
            assert await backend.mark_as_started(ids[1])
            assert await backend.result(ids[1]).state() == "STARTED"
            assert await backend.mark_as_done(ids[1], 1)
            assert await backend.mark_as_done(ids[2], 2)
            metas = await backend.get_many(ids[:4])
            assert [meta.status for meta in metas] == ["SUCCESS", "SUCCESS", "SUCCESS", "PENDING"]
        assert await backend.mark_as_done(ids[3], 3)
        stock_store(target, backend, {ids[4]: 4}, announce=not sharded)
        await backend.mark_as_done(ids[5], 5)
        if sharded:  # nobody announced it on the shard channel: that is what sharded=true means
            waiting.pop(4).cancel()
        async with asyncio.timeout(20):
            assert await asyncio.gather(*waiting) == ([0, 1, 2, 3, 5] if sharded else [0, 1, 2, 3, 4, 5])
        assert backend.stats().sweeps == 0


@topology
async def test_nodes_that_name_each_other_do_not_keep_us_running(cluster: Cluster) -> None:
    """MOVED in a circle: the command waits for a look at the slots between its attempts."""
    async with asyncresult.connect(cluster.url(), retry=0.3) as backend:
        await backend.mark_as_started("x")
        engine: Any = engine_of(backend)
        topology = engine._topology
        owner = cluster.owner(slot_of(backend.task_key("x")))
        async with FaultProxy(owner) as proxy:
            slot = slot_of(backend.task_key("x"))
            there = Address(proxy.host, proxy.port)
            circle = proxy.reply_error(f"MOVED {slot} {proxy.host}:{proxy.port}", "STRLEN")
            look = topology._apply
            topology._apply = lambda slots, told_by: (
                look(slots, told_by),
                topology.slots._owners.__setitem__(slot, there),
            )
            topology.slots._owners[slot] = there
            with pytest.raises(BackendUnavailable):
                await backend.result("x").exists()
            assert circle.hits < 20


# -- nodes fail ---------------------------------------------------------------------------------------------


@topology
async def test_a_master_is_killed(own_cluster: Cluster, backend: Backend, record_property: Any) -> None:
    """Its replica is promoted: waits and stores that were under way all come true."""
    ids = new_ids(600)
    waiting = start_waits(backend, ids)
    await waits_for(backend, len(ids))
    by_owner = owners(own_cluster, backend, ids)
    victim = own_cluster.masters[0]
    killing = asyncio.ensure_future(asyncio.to_thread(own_cluster.kill_node, victim))
    healthy = [id for owner, own in by_owner.items() if owner is not victim for id in own]
    await asyncio.gather(*(backend.mark_as_done(id, id) for id in healthy))
    await killing
    loop = asyncio.get_running_loop()
    start = loop.time()
    await asyncio.gather(*(backend.mark_as_done(id, id) for id in by_owner[victim]))
    async with asyncio.timeout(20):
        assert await asyncio.gather(*waiting) == ids
    record_property("seconds after the promotion", round(loop.time() - start, 3))


@topology
async def test_a_master_steps_down_alive(own_cluster: Cluster, backend: Backend, sharded: bool) -> None:
    ids = new_ids(300)
    waiting = start_waits(backend, ids)
    await waits_for(backend, len(ids))
    storing = [asyncio.ensure_future(backend.mark_as_done(id, id)) for id in ids[:150]]
    old = own_cluster.masters[0]
    await asyncio.to_thread(own_cluster.failover, old)
    storing += [asyncio.ensure_future(backend.mark_as_done(id, id)) for id in ids[150:]]
    async with asyncio.timeout(20):
        assert all(await asyncio.gather(*storing))
        assert await asyncio.gather(*waiting) == ids


@topology
async def test_a_frozen_master_holds_up_its_own_keys_only(cluster: Cluster) -> None:
    """Reads of the others go on, although a read of the frozen one's keys hangs."""
    ids = new_ids(90)
    async with asyncresult.connect(cluster.url()) as backend:
        by_owner = owners(cluster, backend, ids)
        await asyncio.gather(*(backend.mark_as_done(id, id) for id in ids))
        engine: Any = engine_of(backend)
        topology = engine._topology
        waiting = asyncio.ensure_future(backend.result("never").get())
        await waits_for(backend, 1)
        frozen = next(master for master in cluster.masters if topology._subscribed_at.port != master.port)
        frozen.pause()
        try:
            stuck = start_waits(backend, by_owner[frozen])
            await asyncio.sleep(0)
            others = [id for id in ids if id not in set(by_owner[frozen])]
            async with asyncio.timeout(8):  # sooner than the hanging read is given up, after twice the heartbeat
                assert await asyncio.gather(*start_waits(backend, others)) == others
            # Not "none is done": an announcement may have been on its way over the cluster's bus.
            assert not all(wait.done() for wait in stuck)
        finally:
            frozen.resume()
        async with asyncio.timeout(20):
            assert await asyncio.gather(*stuck) == by_owner[frozen]
        waiting.cancel()
    await asyncio.to_thread(cluster.wait_settled)


@topology
async def test_the_node_that_is_listened_to_freezes(own_cluster: Cluster) -> None:
    """It still accepts connections and says nothing: another one is listened to, and everything is read again."""
    async with asyncresult.connect(own_cluster.url(), heartbeat=0.5) as backend:
        ids = new_ids(30)
        waiting = start_waits(backend, ids)
        await waits_for(backend, len(ids))
        engine: Any = engine_of(backend)
        topology = engine._topology
        listened_to = own_cluster.at(topology._subscribed_at.port)
        listened_to.pause()
        by_owner = owners(own_cluster, backend, ids)
        for owner, own in by_owner.items():
            if owner is not listened_to:
                stock_store(owner, backend, dict.fromkeys(own, "stock"))
        rest = set(by_owner.get(listened_to, ()))
        async with asyncio.timeout(20):
            alive = [wait for id, wait in zip(ids, waiting, strict=True) if id not in rest]
            assert set(await asyncio.gather(*alive)) == {"stock"}
        for wait in waiting:
            wait.cancel()


@topology
async def test_a_node_that_fell_out_of_the_cluster_is_not_listened_to(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lives and answers, but hears no messages any more, and says so when asked."""
    async with asyncresult.connect(cluster.url(), heartbeat=0.2) as backend:
        waiting = asyncio.ensure_future(backend.result("x").get())
        await waits_for(backend, 1)
        engine: Any = engine_of(backend)
        topology = engine._topology
        fallen_out = topology._subscribed_at

        async def query(options: Any, address: Address, *rest: Any, **more: Any) -> list[Any]:
            info, slots = await _connection.query(options, address, *rest, **more)
            return [b"cluster_state:fail" if address == fallen_out else info, slots]

        monkeypatch.setattr("asyncresult._redis.cluster.query", query)
        await until(lambda: topology._subscribed_at != fallen_out)
        await backend.mark_as_done("x", 1)
        assert await waiting == 1


@topology
async def test_cancelled_by_the_thousand_nothing_stays_subscribed(cluster: Cluster, sharded: bool) -> None:
    async with asyncresult.connect(cluster.url(), sharded=sharded) as backend:
        waiting = start_waits(backend, new_ids(1000))
        await waits_for(backend, 1000)
        for wait in waiting:
            wait.cancel()
        kinds: list[Callable[[RedisServer], set[str]]] = [RedisServer.channels, RedisServer.shard_channels]
        await until(lambda: backend.stats().pending == backend.stats().subscribed == 0)
        await until(lambda: not any(kind(node) for kind in kinds for node in cluster.living))


@topology
async def test_one_task_at_a_time_keeps_few_connections(cluster: Cluster, sharded: bool) -> None:
    """One command connection a master; one subscription, or one a master."""
    async with asyncresult.connect(cluster.url(), sharded=sharded, client_name="me") as backend:
        for id in new_ids(60):
            waiting = asyncio.ensure_future(backend.result(id).get())
            await waits_for(backend, 1)
            await backend.mark_as_done(id, id)
            assert await waiting == id
        mine = Counter(
            client["cmd"].startswith(("subscribe", "unsubscribe", "ssubscribe", "sunsubscribe"))
            for node in cluster.living
            for client in node.clients()
            if client["name"] == "me"
        )
        assert mine[True] == (3 if sharded else 1)
        assert mine[False] == 3
