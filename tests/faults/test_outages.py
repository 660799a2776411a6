"""An outage never ends a wait (P1 to P4, P15): whatever happens to the server or the way to it, 0 are lost.

Times are bounds, several times what an idle machine needs; the measured figures stand in reliability.md.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from asyncresult import Backend, BackendError, connect
from tests.backends.waiting import until, waits_for
from tests.tools.proxy import FaultProxy
from tests.tools.servers import RedisServer

from .load import nothing_left, outcome, start_waits, store, stored_elsewhere, subscribed

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def ids(count: int) -> list[str]:
    return [f"t{n}" for n in range(count)]


@pytest.fixture
async def backend(redis_url: str) -> AsyncIterator[Backend]:
    async with connect(redis_url, heartbeat=0.5) as entered:
        yield entered


@pytest.fixture
async def proxied(proxy: FaultProxy) -> AsyncIterator[Backend]:
    async with connect(proxy.url(), heartbeat=0.3) as entered:
        yield entered


# -- P1: no lost wake-up --------------------------------------------------------------------------------------------


async def test_p1_10000_races_between_storing_and_awaiting(redis_server: RedisServer, backend: Backend) -> None:
    """Each wait begins within a millisecond or so of its result being stored, before or after."""
    choice = random.Random(20)
    names = ids(10_000)
    waits: list[asyncio.Task[object]] = []
    for start in range(0, len(names), 500):
        some = names[start : start + 500]
        storing = asyncio.ensure_future(asyncio.gather(*(backend.mark_as_done(id, int(id[1:])) for id in some)))
        for id in some:
            if choice.random() < 0.05:
                await asyncio.sleep(choice.random() / 1000)
            waits += start_waits(backend, [id])
        await storing
    await outcome(waits, 30)
    await nothing_left(redis_server, backend)


async def test_p1_joins_begin_while_their_results_are_stored(redis_server: RedisServer, backend: Backend) -> None:
    """A join of many reads first. What is stored between its read and its subscription is not lost."""
    choice = random.Random(22)
    joins = 40
    names = [[f"{join}-{n}" for n in range(150)] for join in range(joins)]
    storing = [asyncio.ensure_future(backend.mark_as_done(id, id)) for some in names for id in some]
    waits = []
    for some in names:
        await asyncio.sleep(choice.random() / 200)
        waits.append(asyncio.ensure_future(backend.results(some).get()))
    await asyncio.gather(*storing)
    async with asyncio.timeout(30):
        assert await asyncio.gather(*waits) == names
    await nothing_left(redis_server, backend)


async def test_a_read_that_hangs_does_not_hold_up_a_join_of_many(
    redis_server: RedisServer, proxy: FaultProxy, proxied: Backend
) -> None:
    """No answer comes from the command connection: half a second later the join listens, and gets what is published."""
    await proxied.get_meta("warm")
    names = ids(200)
    let_go = asyncio.Event()
    async with connect(redis_server.url()) as elsewhere:
        with proxy.before("MGET", lambda request: let_go.wait()):
            waiting = asyncio.ensure_future(proxied.results(names).get())
            await waits_for(proxied, len(names))
            await asyncio.gather(*(elsewhere.mark_as_done(id, id) for id in names))
            async with asyncio.timeout(30):
                assert await waiting == names
            let_go.set()


async def test_p1_a_slow_subscribe_loses_nothing(
    redis_server: RedisServer, proxy: FaultProxy, proxied: Backend
) -> None:
    """500 results are stored while their SUBSCRIBE is under way (30 ms late)."""
    with proxy.delay(0.03, "SUBSCRIBE"):
        waits = []
        for batch in range(50):
            some = [f"t{batch * 10 + n}" for n in range(10)]
            waits += start_waits(proxied, some)
            await asyncio.sleep(0.004)
            for id in some:
                redis_server.cli("SET", f"celery-task-meta-{id}", f'{{"status": "SUCCESS", "result": {id[1:]}}}')
                redis_server.cli("PUBLISH", f"celery-task-meta-{id}", f'{{"status": "SUCCESS", "result": {id[1:]}}}')
        await outcome(waits, 20)


async def test_p1_stored_in_the_gap_of_a_reconnect(
    redis_server: RedisServer, proxy: FaultProxy, proxied: Backend
) -> None:
    for round_ in range(30):
        id = f"gap-{round_}"
        waits = start_waits(proxied, [id])
        await subscribed(proxied, 1)
        with proxy.refuse():
            proxy.cut()
            await until(lambda: not proxied.stats().connected)
            await stored_elsewhere(redis_server, [id])
        await outcome(waits, 20)
        await until(lambda: proxied.stats().subscribed == 0)


# -- P2, P3: the server goes away and comes back --------------------------------------------------------------------


@pytest.fixture
def durable() -> RedisServer:
    return RedisServer(aof=True)


@pytest.mark.parametrize("stored", ["before the kill", "right at the return", "after the return"])
async def test_p2_kill_and_restart(durable: RedisServer, stored: str) -> None:
    with durable:
        async with connect(durable.url(), heartbeat=0.5) as backend:
            waits = start_waits(backend, names := ids(1000))
            await subscribed(backend, 1000)
            if stored == "before the kill":
                store(durable, names, publish=False)
            durable.kill()
            await until(lambda: not backend.stats().connected)
            durable.start()
            if stored == "right at the return":
                store(durable, names)  # before the loop, and with it the subscriber, can run again
            elif stored == "after the return":
                await stored_elsewhere(durable, names)
            await outcome(waits, 15)
            await nothing_left(durable, backend)


async def test_p2_client_kill_storms(redis_server: RedisServer, backend: Backend) -> None:
    """Both connections are killed again and again while 1,000 results arrive."""
    waits = start_waits(backend, names := ids(1000))
    await subscribed(backend, 1000)
    for start in range(0, 1000, 100):
        redis_server.kill_clients("pubsub")
        redis_server.kill_clients()
        await stored_elsewhere(redis_server, names[start : start + 100], publish=True)
    for wait, number in zip(waits, range(1000), strict=True):
        assert await asyncio.wait_for(wait, 20) == number % 100
    await nothing_left(redis_server, backend)


@pytest.mark.parametrize("seconds", [8.0, pytest.param(30.0, marks=pytest.mark.slow)])
async def test_p3_a_long_outage(durable: RedisServer, seconds: float) -> None:
    with durable:
        async with connect(durable.url(), heartbeat=0.5) as backend:
            waits = start_waits(backend, names := ids(1000))
            await subscribed(backend, 1000)
            durable.kill()
            await asyncio.sleep(seconds)  # the outage itself
            await asyncio.to_thread(durable.start)
            await stored_elsewhere(durable, names)
            await outcome(waits, 15)


async def test_p3_20000_waits_come_back(redis_server: RedisServer, backend: Backend) -> None:
    waits = start_waits(backend, names := ids(20_000))
    await subscribed(backend, 20_000)
    redis_server.kill_clients("pubsub")
    await until(lambda: backend.stats().reconnects >= 1)
    await stored_elsewhere(redis_server, names)
    await outcome(waits, 30)


async def test_p3_no_more_clients(redis_server: RedisServer, backend: Backend) -> None:
    """The server is full when the subscriber comes back; it waits for its place."""
    waits = start_waits(backend, names := ids(100))
    await subscribed(backend, 100)
    with redis_server.control() as control:
        control("CONFIG", "SET", "maxclients", "1")
        control("CLIENT", "KILL", "TYPE", "pubsub")
        control("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await until(lambda: "max number of clients" in str(backend.stats().last_error))
        control("CONFIG", "SET", "maxclients", "1000")
    await stored_elsewhere(redis_server, names)
    await outcome(waits, 20)


@pytest.mark.parametrize(
    "message",
    [
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    ],
    ids=lambda message: message.split()[0],
)
async def test_p3_a_server_that_cannot_now(
    redis_server: RedisServer, proxy: FaultProxy, proxied: Backend, message: str
) -> None:
    """SUBSCRIBE and MGET are refused for a while; nobody is told but those who asked with a limit."""
    with proxy.reply_error(message, "SUBSCRIBE MGET"):
        waits = start_waits(proxied, names := ids(100))
        await asyncio.sleep(0.3)  # several attempts
        assert not any(wait.done() for wait in waits)
    await stored_elsewhere(redis_server, names)
    await outcome(waits, 20)


@pytest.mark.parametrize(
    "message",
    [
        "READONLY You can't write against a read only replica.",
        "NOREPLICAS Not enough good replicas to write.",
        # Redis 6:
        "ERR Error running script (call to f_6b1bf48): @user_script:12: @user_script: 12: -READONLY You can't write …",
    ],
    ids=lambda message: message.split()[0],
)
async def test_p3_a_store_outlives_a_failover(proxy: FaultProxy, proxied: Backend, message: str) -> None:
    with proxy.reply_error(message, "EVAL", times=3):
        assert await proxied.mark_as_done("x", 1) is True
    assert await proxied.result("x").get(timeout=10) == 1


# -- P4, P15: silence -----------------------------------------------------------------------------------------------


async def test_p4_a_half_open_subscription_is_found(
    redis_server: RedisServer, proxy: FaultProxy, proxied: Backend
) -> None:
    """All open connections lead nowhere from now on, without a word; new ones would work."""
    waits = start_waits(proxied, names := ids(20))
    await subscribed(proxied, 20)
    fault = proxy.black_hole(only=lambda link: True)
    await stored_elsewhere(redis_server, names)
    took = await outcome(waits, 10)
    assert took > 0.1, "they did come through the second connection"
    fault.remove()
    # More than one, if this process stood still while a PING was under way: its proxy did, too.
    assert 1 <= proxied.stats().reconnects <= 5


async def test_p4_a_half_open_command_connection_is_found(proxy: FaultProxy, proxied: Backend) -> None:
    await proxied.mark_as_done("x", 1)
    fault = proxy.black_hole(only=lambda link: True)
    assert await asyncio.wait_for(proxied.result("x").get(), 10) == 1
    assert await asyncio.wait_for(proxied.result("x").state(), 10) == "SUCCESS"
    fault.remove()


async def test_p4_a_half_open_command_connection_is_found_while_it_is_idle(proxy: FaultProxy, proxied: Backend) -> None:
    """Before anybody needs it: a PING once in a heartbeat."""
    await proxied.result("x").state()
    proxy.black_hole(only=lambda link: True).remove()
    start = asyncio.get_running_loop().time()
    await until(lambda: not proxy.links)
    assert asyncio.get_running_loop().time() - start < 2 * 0.3 + 3.0
    assert await asyncio.wait_for(proxied.result("x").state(), 10) == "PENDING"


# -- slow lines and servers with limits -----------------------------------------------------------------------------


async def test_a_reply_may_take_as_long_as_its_bytes_keep_coming(redis_server: RedisServer) -> None:
    """1.5 MB at 0.5 MB/s, with a heartbeat of 0.3 s; and what stands behind it arrives as well."""
    async with FaultProxy(redis_server, parse=False) as proxy, connect(redis_server.url()) as elsewhere:
        await asyncio.gather(elsewhere.mark_as_done("large", "x" * 1_500_000), elsewhere.mark_as_done("small", 1))
        proxy.throttle(500_000, direction="down")
        async with connect(proxy.url(), heartbeat=0.3) as backend:
            waits = start_waits(backend, ["large", "small"])
            assert [len(await asyncio.wait_for(waits[0], 30)), await asyncio.wait_for(waits[1], 30)] == [1_500_000, 1]
            assert await asyncio.wait_for(backend.result("small").state(), 30) == "SUCCESS"
            assert proxy.stats.accepted <= 3, "no connection was given up"


async def test_a_server_that_limits_the_replies_of_its_clients(redis_server: RedisServer) -> None:
    """20 stored records of 100 kB are more than it sends at once, and one of 2 MB is more than it ever sends."""
    names = ids(20)
    async with connect(redis_server.url()) as elsewhere:
        await asyncio.gather(*(elsewhere.mark_as_done(id, f"{id} " * 30_000) for id in names))
        await elsewhere.mark_as_done("beyond", "x" * 2_000_000)
    redis_server.limit_replies(1_000_000)
    try:
        async with connect(redis_server.url()) as backend:
            waits = start_waits(backend, [*names, "beyond"], timeout=30)
            for id, wait in zip(names, waits, strict=False):
                assert (await wait).startswith(id)
            with pytest.raises(BackendError, match=r"celery-task-meta-beyond.*client-output-buffer-limit"):
                await waits[-1]
            assert await backend.result("t0").state() == "SUCCESS"
    finally:
        redis_server.limit_replies(0)


async def test_p15_every_notification_is_lost(redis_server: RedisServer, proxy: FaultProxy) -> None:
    with proxy.drop_messages():
        async with connect(proxy.url(), safety_interval=0.5) as backend:
            waits = start_waits(backend, names := ids(500))
            await waits_for(backend, 500)
            await stored_elsewhere(redis_server, names)
            await outcome(waits, 10)
