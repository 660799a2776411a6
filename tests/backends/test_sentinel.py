"""``sentinel://``: the primary is found, followed through failovers, and the sentinels may be down."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any
from urllib.parse import quote

import pytest

import asyncresult
from asyncresult import Backend, BackendError, BackendPermissionError, BackendUnavailable
from asyncresult._redis import connection as _connection
from asyncresult._redis.address import Address
from asyncresult._redis.sentinel import Sentinel
from asyncresult._redis.urls import parse_sentinel
from asyncresult._storage.store import engine_of
from tests.tools.certificates import Certificates
from tests.tools.proxy import FaultProxy
from tests.tools.topologies import Sentinels

from .stock import new_ids, stock_store
from .waiting import until, waits_for

# -- the URL ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "hosts", "db", "login", "service"),
    [
        ("sentinel://h1:1;h2:2;h3/3?service=s", ["h1:1", "h2:2", "h3:26379"], 3, (None, None), "s"),
        ("sentinel://h1:1,h2:2/3?service=s", ["h1:1", "h2:2"], 3, (None, None), "s"),
        ("sentinel://me:p%40s@h1:1;h2:2?master_name=s", ["h1:1", "h2:2"], 0, ("me", "p@s"), "s"),
        ("sentinel://:pw@h1:1/2;sentinel://:pw@h2:2/2?service=s", ["h1:1", "h2:2"], 2, (None, "pw"), "s"),
        ("sentinel://h1:1;sentinel://:pw@h2:2/2?service=s", ["h1:1", "h2:2"], 2, (None, "pw"), "s"),
        ("sentinel://[::1]:1;h2:2/0?service=s&db=5", ["::1:1", "h2:2"], 5, (None, None), "s"),
    ],
)
def test_urls(url: str, hosts: list[str], db: int, login: tuple[str | None, str | None], service: str) -> None:
    _, options = parse_sentinel(url, {})
    assert options.sentinels is not None
    assert [str(address) for address in options.sentinels.addresses] == hosts
    assert (options.db, (options.username, options.password), options.service) == (db, login, service)
    assert (options.sentinels.username, options.sentinels.password) == (None, None)


def test_the_two_layers_have_their_own_users_and_share_the_rest(certificates: Certificates) -> None:
    ca = str(certificates.ca_cert)
    url = f"sentinels://:data@h1/0?service=s&ssl_ca_certs={quote(ca)}&sentinel_username=u&sentinel_password=p"
    _, options = parse_sentinel(url, {})
    assert options.sentinels is not None
    assert options.tls
    assert options.sentinels.tls
    assert options.sentinels.ssl_options == options.ssl_options == {"ssl_ca_certs": ca}
    assert (options.sentinels.username, options.sentinels.password) == ("u", "p")
    _, options = parse_sentinel(f"sentinel://h1?service=s&sentinel_ssl=true&ssl_ca_certs={quote(ca)}", {})
    assert options.sentinels is not None
    assert (options.tls, options.sentinels.tls) == (False, True)


def test_celerys_transport_options() -> None:
    given = {
        "master_name": "mymaster",
        "min_other_sentinels": 1,
        "sentinel_kwargs": {"username": "u", "password": "p", "socket_timeout": 0.5},
    }
    _, options = parse_sentinel("sentinel://:pw@h1:26379/2;sentinel://:pw@h2:26380/2", given)
    assert options.sentinels is not None
    assert (options.service, options.min_other_sentinels, options.password) == ("mymaster", 1, "pw")
    assert (options.sentinels.password, options.sentinels.socket_timeout) == ("p", 0.5)


@pytest.mark.parametrize(
    ("url", "given", "message"),
    [
        ("sentinel://:secret@h1", {}, "needs .service="),
        ("sentinel://:secret@h1:x?service=s", {}, "port"),
        ("sentinel://:secret@h1/x?service=s", {}, "number of a database"),
        ("sentinel://:secret@h1?service=s&ssl_ca_certs=x", {}, "sentinels://"),
        ("sentinel://:secret@h1?service=s&servis=s", {}, "unknown backend option 'servis'"),
        ("sentinel://:secret@h1?service=s", {"sentinel_kwargs": {"nope": 1}}, "unknown backend option 'nope'"),
    ],
)
def test_mistakes_are_named_and_hold_no_secret(url: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        asyncresult.connect(url, **given)
    assert "secret" not in str(caught.value)


def test_the_backend_shows_its_address_without_secrets() -> None:
    backend = asyncresult.connect("sentinel://me:secret@h1:1;h2:2/3?service=s&sentinel_password=secret")
    assert str(backend) == "sentinel://h1:1;h2:2/3?service=s"
    assert "secret" not in repr(backend)
    assert "secret" not in repr(backend.driver.options)  # type: ignore[attr-defined]


# -- failovers ----------------------------------------------------------------------------------------------


@pytest.fixture
def own_sentinels(request: pytest.FixtureRequest) -> Iterator[Sentinels]:
    """A set that the test may break."""
    with Sentinels(flavour=request.config.getoption("--flavour")) as sentinels:
        yield sentinels


@pytest.fixture
async def backend(own_sentinels: Sentinels) -> AsyncIterator[Backend]:
    async with asyncresult.connect(own_sentinels.url()) as backend:
        yield backend


#: Seconds that a busy machine may need after a promotion; an idle one needs less than 1. The next sweep is later.
ARRIVED = 15.0


async def gather_within(waiting: Sequence[asyncio.Future[Any]], seconds: float) -> tuple[list[Any], float]:
    """Their results, and the seconds that it took."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with asyncio.timeout(seconds):
        results = await asyncio.gather(*waiting)
    return results, loop.time() - start


@pytest.mark.topology
@pytest.mark.parametrize("old_primary", ["alive", "killed", "frozen"])
async def test_waits_follow_a_failover(
    own_sentinels: Sentinels, backend: Backend, old_primary: str, record_property: Any
) -> None:
    """Whatever is stored at the new primary arrives soon after the promotion, ours and stock, without a sweep."""
    ids = new_ids(300)
    waiting = [asyncio.ensure_future(backend.result(id).get()) for id in ids]
    await waits_for(backend, len(ids))
    if old_primary == "alive":
        new = await asyncio.to_thread(own_sentinels.failover)
    elif old_primary == "killed":
        new = await asyncio.to_thread(own_sentinels.kill_primary)
    else:
        old = own_sentinels.primary
        old.pause()
        new = await asyncio.to_thread(own_sentinels.wait_promoted, old)
    stock_store(new, backend, dict.fromkeys(ids[:150], "stock"))
    stores = [asyncio.ensure_future(backend.mark_as_done(id, "ours")) for id in ids[150:]]
    results, seconds = await gather_within(waiting, ARRIVED)
    assert results == ["stock"] * 150 + ["ours"] * 150
    assert all(await asyncio.gather(*stores))
    assert new.cli("EXISTS", *(backend.task_key(id) for id in ids)) == len(ids)
    record_property("seconds after the promotion", round(seconds, 3))


@pytest.mark.topology
async def test_a_result_replicated_before_the_failover_is_found(own_sentinels: Sentinels, backend: Backend) -> None:
    """Stored and replicated, but the announcement was lost with the primary: the new one is read."""
    (id,) = new_ids(1)
    waiting = asyncio.ensure_future(backend.result(id).get())
    await waits_for(backend, 1)
    (replica,) = own_sentinels.replicas
    stock_store(own_sentinels.primary, backend, {id: "replicated"}, announce=False)
    await until(lambda: replica.cli("EXISTS", backend.task_key(id)))
    await asyncio.to_thread(own_sentinels.kill_primary)
    assert (await gather_within([waiting], ARRIVED))[0] == ["replicated"]


@pytest.mark.topology
async def test_a_demoted_primary_is_noticed_by_its_role(own_sentinels: Sentinels) -> None:
    """No sentinel announces anything, no connection breaks, nobody writes: the heartbeat asks ROLE."""
    primary, (replica,) = own_sentinels.primary, own_sentinels.replicas
    async with asyncresult.connect(own_sentinels.url(), heartbeat=0.5) as backend:
        waiting = asyncio.ensure_future(backend.result("x").get())
        await waits_for(backend, 1)
        for sentinel in own_sentinels.sentinels:
            sentinel.pause()
        replica.cli("REPLICAOF", "NO", "ONE")
        primary.cli("REPLICAOF", replica.host, replica.port)
        await until(lambda: not backend.stats().connected)
        for sentinel in own_sentinels.sentinels:
            sentinel.resume()
        assert not waiting.done()
        waiting.cancel()


@pytest.mark.topology
async def test_a_write_that_meets_a_replica_goes_to_the_primary(own_sentinels: Sentinels, backend: Backend) -> None:
    """READONLY: the engine believed in a server that is none; it asks again and stores once more."""
    await backend.mark_as_started("x")
    engine: Any = engine_of(backend)
    topology = engine._topology
    (replica,) = own_sentinels.replicas
    topology._reset("test")
    topology._connected_to = Address(replica.host, replica.port)
    topology._connection = topology._links.connection(topology._connected_to)
    assert await backend.mark_as_done("x", "arrived")
    assert own_sentinels.primary.cli("EXISTS", backend.task_key("x"))


# -- the sentinels ------------------------------------------------------------------------------------------


@pytest.mark.topology
@pytest.mark.parametrize("trouble", ["killed", "frozen"])
async def test_sentinels_that_are_down_are_skipped(own_sentinels: Sentinels, trouble: str) -> None:
    for sentinel in own_sentinels.sentinels[:2]:
        (sentinel.kill if trouble == "killed" else sentinel.pause)()
    loop = asyncio.get_running_loop()
    times: list[float] = []
    while not times or (min(times) >= 0.9 and len(times) < 5):  # a busy machine does not have five bad moments
        async with asyncresult.connect(own_sentinels.url()) as backend:
            start = loop.time()
            await backend.mark_as_done("x", 1)
            assert await backend.result("x") == 1
            times.append(loop.time() - start)
    assert min(times) < 0.9


@pytest.mark.topology
async def test_no_sentinel_at_all_is_an_outage_not_an_error_of_the_wait(own_sentinels: Sentinels) -> None:
    for sentinel in own_sentinels.sentinels:
        sentinel.kill()
    async with asyncresult.connect(own_sentinels.url(), retry=0.2) as backend:
        waiting = asyncio.ensure_future(backend.result("x").get())
        with pytest.raises(BackendUnavailable, match="no sentinel names a primary"):
            await backend.mark_as_started("x")
        own_sentinels.sentinels[0].start()
        stock_store(own_sentinels.data[0], backend, {"x": "back"})
        assert (await gather_within([waiting], ARRIVED))[0] == ["back"]


@pytest.mark.topology
async def test_a_long_way_to_the_sentinels(sentinels: Sentinels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round trip takes longer than a query waits at first, of the three to five that make one."""
    monkeypatch.setattr(_connection, "QUERY_TIMEOUT", 0.1)
    async with FaultProxy(sentinels.sentinels[0]) as proxy:
        proxy.delay(0.08, direction="both")
        url = f"sentinel://{proxy.host}:{proxy.port}/0?service={sentinels.service}"
        async with asyncresult.connect(url, heartbeat=30.0) as backend:
            waiting = asyncio.ensure_future(backend.result("x").get(timeout=20))
            await waits_for(backend, 1)
            await backend.mark_as_done("x", 1)
            assert await waiting == 1


@pytest.mark.topology
async def test_an_unknown_service_says_so(sentinels: Sentinels) -> None:
    async with asyncresult.connect(sentinels.url(service="other")) as backend:
        for waiting in (backend.result("x").state(), backend.result("x").get()):
            with pytest.raises(BackendError, match="does not know the service 'other'"):
                await waiting


@pytest.mark.topology
async def test_the_newest_configuration_wins(sentinels: Sentinels, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentinel that was cut off still names the old primary; its epoch gives it away."""
    primary = sentinels.primary
    new = Address(primary.host, primary.port)
    old = Address("127.0.0.1", 1)
    answers = {0: (3, old), 1: (4, new), 2: (3, old)}
    addresses = [Address(sentinel.host, sentinel.port) for sentinel in sentinels.sentinels]

    async def answer(self: Sentinel, sentinel: Address) -> tuple[int, Address]:
        number = addresses.index(sentinel)
        for _ in range(number):
            await asyncio.sleep(0)
        return answers[number]

    monkeypatch.setattr(Sentinel, "_query_sentinel", answer)
    async with asyncresult.connect(sentinels.url()) as backend:
        engine: Any = engine_of(backend)
        topology = engine._topology
        assert await topology._resolve() == new


@pytest.mark.topology
async def test_a_failover_during_the_question_makes_the_answer_void(
    sentinels: Sentinels, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = Address("old"), Address("new")
    named = old

    async def ask(self: Sentinel) -> Address:
        return named

    async def is_primary(self: Sentinel, address: Address) -> bool:
        nonlocal named
        if address == old:
            named = new
            self.announced(new)  # while the old one was asked, which does not know yet
        return True

    async with asyncresult.connect(sentinels.url()) as backend:
        engine: Any = engine_of(backend)
        topology = engine._topology
        monkeypatch.setattr(Sentinel, "_query_sentinels", ask)
        monkeypatch.setattr(Sentinel, "_is_primary", is_primary)
        assert await topology._resolve() == new


@pytest.mark.topology
@pytest.mark.parametrize("kind", ["sentinels", "cluster"])
async def test_closing_at_any_moment_leaves_no_connection_open(kind: str, request: pytest.FixtureRequest) -> None:
    """In the middle of asking, dialling, hanging up: what is left to the garbage collector fails the test."""
    url = request.getfixturevalue(kind).url()
    for moment in range(80):
        backend = asyncresult.connect(url)
        waiting = asyncio.ensure_future(backend.result("x").get())
        await asyncio.sleep(moment / 4000)
        waiting.cancel()
        await backend.aclose()
    gc.collect()


# -- both layers locked -------------------------------------------------------------------------------------


@pytest.mark.topology
async def test_passwords_and_tls_on_both_layers(certificates: Certificates, request: pytest.FixtureRequest) -> None:
    flavour = request.config.getoption("--flavour")
    with Sentinels(flavour=flavour, tls=certificates, password="pä ss", sentinel_password="s/e") as locked:
        async with asyncresult.connect(locked.url(sentinel_password="s/e")) as backend:
            waiting = asyncio.ensure_future(backend.result("x").get())
            await waits_for(backend, 1)
            new = await asyncio.to_thread(locked.kill_primary)
            stock_store(new, backend, {"x": "safe"})
            assert (await gather_within([waiting], ARRIVED))[0] == ["safe"]
        async with asyncresult.connect(locked.url(sentinel_password="wrong"), retry=0.1) as backend:
            with pytest.raises(BackendPermissionError, match=r"WRONGPASS|invalid"):
                await backend.result("x").get(timeout=20)
            with pytest.raises(BackendPermissionError):
                await backend.mark_as_started("x")
        untrusting = locked.url(sentinel_password="s/e").replace(quote(str(certificates.ca_cert), safe=""), "")
        async with asyncresult.connect(untrusting, retry=0.1) as backend:
            with pytest.raises(BackendUnavailable, match="certificate"):
                await backend.mark_as_started("x")
            with pytest.raises(BackendUnavailable, match="certificate"):
                await backend.result("x").get(timeout=20)


# -- stock Celery -------------------------------------------------------------------------------------------


@pytest.mark.topology
@pytest.mark.celery
async def test_stock_celery_writes_we_read_and_the_other_way_round(sentinels: Sentinels) -> None:
    """With Celery's own URL and transport options, on both sides."""
    from tests.tools.celery_app import close_app, make_app

    hosts = ";".join(f"sentinel://{server.host}:{server.port}/1" for server in sentinels.sentinels)
    transport = {"master_name": sentinels.service}
    app = make_app(broker_url="memory://", result_backend=hosts, result_backend_transport_options=transport)
    async with asyncresult.connect(hosts, **transport) as backend:
        waiting = asyncio.ensure_future(backend.result("theirs").get())
        await waits_for(backend, 1)
        await asyncio.to_thread(app.backend.store_result, "theirs", [1, 2], "SUCCESS")
        assert (await gather_within([waiting], ARRIVED))[0] == [[1, 2]]
        await backend.mark_as_done("ours", {"a": 1})
        assert await asyncio.to_thread(app.AsyncResult("ours").get, timeout=20) == {"a": 1}
    for client in app.backend.client.connection_pool.sentinel_manager.sentinels:
        client.close()
    close_app(app)
