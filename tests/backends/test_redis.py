"""What is particular to Redis: connections, commands, URLs, secrets, refusals."""

from __future__ import annotations

import asyncio
import logging
import math
import multiprocessing
import pickle
import subprocess
import sys
import threading
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

import asyncresult
from asyncresult import (
    AsyncResult,
    BackendPermissionError,
    BackendUnavailable,
    ResultTimeout,
    ResultTooLarge,
    connect,
)
from asyncresult._redis import connection
from asyncresult._storage.store import engine_of
from tests.tools.servers import RedisServer, free_port

from .waiting import until, waits_for

SECRET = "s3cr3t/p@ss"


def connections(server: RedisServer) -> list[dict[str, str]]:
    """The clients of the server but for the test's own eye on it, which comes through the unix socket."""
    return [client for client in server.clients() if client["addr"].startswith("127.0.0.1")]


def cost(server: RedisServer, before: dict[str, int], command: str) -> int:
    return server.commandstats().get(command, 0) - before.get(command, 0)


# -- connections and commands ---------------------------------------------------------------------------------------


async def test_5000_waits_cost_two_connections_and_no_thread(redis_server: RedisServer, redis_url: str) -> None:
    threads = threading.active_count()
    async with connect(redis_url) as backend:
        before = redis_server.commandstats()
        waiting = [asyncio.ensure_future(AsyncResult(f"t{n}").get()) for n in range(5000)]
        await waits_for(backend, 5000)
        assert len(connections(redis_server)) == 2
        assert threading.active_count() == threads
        assert cost(redis_server, before, "subscribe") == 5
        assert cost(redis_server, before, "mget") <= 10
        await asyncio.gather(*(backend.mark_as_done(f"t{n}", n) for n in range(5000)))
        assert await asyncio.gather(*waiting) == list(range(5000))
        assert len(connections(redis_server)) == 2
        await until(lambda: not redis_server.channels())
        assert cost(redis_server, before, "unsubscribe") <= 20
        assert backend.stats().pending == backend.stats().subscribed == 0
        assert not engine_of(backend).waiters._entries
    assert not connections(redis_server)


async def test_an_id_awaited_by_1000_handles_is_subscribed_and_decoded_once(
    redis_server: RedisServer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connect(redis_url) as backend:
        decoded: list[str] = []
        table = engine_of(backend).waiters
        decode = table._decode
        monkeypatch.setattr(table, "_decode", lambda id, *payload: decoded.append(id) or decode(id, *payload))
        waiting = [asyncio.ensure_future(AsyncResult("one").get()) for _ in range(1000)]
        await waits_for(backend, 1)
        assert redis_server.channels() == {"celery-task-meta-one"}
        await backend.mark_as_done("one", 1)
        assert set(await asyncio.gather(*waiting)) == {1}
        assert decoded == ["one"]


@pytest.mark.parametrize("when", ["stored", "arriving"])
async def test_a_join_of_10000_costs_a_few_commands(redis_server: RedisServer, redis_url: str, when: str) -> None:
    ids = [f"t{n}" for n in range(10_000)]
    async with connect(redis_url) as backend:

        async def store() -> None:
            await asyncio.gather(*(backend.mark_as_done(id, n) for n, id in enumerate(ids)))

        if when == "stored":
            await store()
        before = redis_server.commandstats()
        joining = asyncio.ensure_future(backend.results(ids).get())
        if when == "arriving":
            await waits_for(backend, 10_000)
            await store()
        assert await joining == list(range(10_000))
        assert cost(redis_server, before, "mget") <= 10 + 5
        assert cost(redis_server, before, "subscribe") <= 10
        before = redis_server.commandstats()
        assert await backend.results(ids).successful()
        assert cost(redis_server, before, "mget") <= 10 + 1  # the join's last read may have been under way


async def test_reads_of_one_tick_travel_together(redis_server: RedisServer, redis_url: str) -> None:
    async with connect(redis_url):
        before = redis_server.commandstats()
        states = await asyncio.gather(*(AsyncResult(f"t{n % 50}").state() for n in range(100)))
        assert states == ["PENDING"] * 100
        assert cost(redis_server, before, "mget") == 1


async def test_a_store_is_one_round_trip_and_publishes_what_it_stores(
    redis_server: RedisServer, redis_url: str
) -> None:
    async with connect(redis_url, expires=100) as backend:
        await backend.mark_as_done("warm", 1)
        before = redis_server.commandstats()
        await backend.mark_as_done("x", {"a": 1})
        assert cost(redis_server, before, "evalsha") == 1 and cost(redis_server, before, "eval") == 0
        assert cost(redis_server, before, "set") == cost(redis_server, before, "publish") == 1
        assert 98 <= int(redis_server.cli("TTL", "celery-task-meta-x")) <= 100


async def test_the_script_is_sent_again_when_the_server_forgot_it(redis_server: RedisServer, redis_url: str) -> None:
    async with connect(redis_url) as backend:
        await backend.mark_as_done("a", 1)
        redis_server.cli("SCRIPT", "FLUSH")
        assert await asyncio.gather(*(backend.mark_as_done(f"b{n}", n) for n in range(20))) == [True] * 20


@pytest.mark.parametrize("compression", [None, "gzip"])
async def test_precedence_holds_over_records_of_other_writers(
    redis_server: RedisServer, redis_url: str, compression: str | None
) -> None:
    """Also where the script cannot read the old record, and where its fields stand in another order."""
    async with connect(redis_url, compression=compression) as backend:
        await backend.mark_as_done("done", "first")
        assert await backend.mark_as_done("done", "second") is False
        await backend.mark_as_failure("failed", ValueError())
        assert await backend.mark_as_started("failed") is False
        assert await backend.mark_as_done("failed", 1) is True
        redis_server.cli("SET", "celery-task-meta-odd", '{"task_id": "odd", "result": 1, "status": "SUCC\\u0045SS"}')
        assert await backend.mark_as_started("odd") is False
        redis_server.cli("SET", "celery-task-meta-bad", "garbage")
        assert await backend.mark_as_done("bad", 1) is True
        assert await AsyncResult("done") == "first"


async def test_a_record_that_is_too_large_is_not_taken_in(
    redis_server: RedisServer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SIFTED_FROM", 1_000_000)
    size, most = 3_000_000, 1_200_000
    async with connect(redis_url, max_result_bytes=most) as backend:
        for key in ("big", "replaced"):
            redis_server.cli("SET", f"celery-task-meta-{key}", b'{"status": "SUCCESS", "result": "' + b"x" * size)
        length = size + len('{"status": "SUCCESS", "result": "')
        refused = rf"celery-task-meta-big has {length} bytes, more than max_result_bytes={most}"
        waits = [asyncio.ensure_future(AsyncResult(id).get()) for id in ("new", "big")]
        await until(lambda: backend.stats().pending == 1)
        with pytest.raises(ResultTooLarge, match=refused):
            await waits[1]
        for read in (backend.get_raw("big"), backend.get_many(["other", "big"]), AsyncResult("big").state()):
            with pytest.raises(ResultTooLarge, match=refused):
                await read
        assert await backend.mark_as_done("replaced", 1) is True  # such a record protects nothing
        assert await AsyncResult("replaced") == 1
        await backend.mark_as_done("new", 2)
        assert await waits[0] == 2
        redis_server.cli("XADD", backend.key_beside("new", "history"), "*", "record", "x" * size)
        assert [meta.result async for meta in AsyncResult("new").updates(since="0")] == [2]
        assert backend.stats().reconnects == 0
        assert backend.stats().decode_errors == 1


async def test_a_message_that_is_too_large_is_not_taken_in(redis_server: RedisServer, redis_url: str) -> None:
    async with connect(redis_url, max_result_bytes=1_200_000) as backend:
        waiting = asyncio.ensure_future(AsyncResult("big").get())
        await until(lambda: backend.stats().subscribed == 1)
        redis_server.cli("PUBLISH", "celery-task-meta-big", "x" * 3_000_000)
        await until(lambda: backend.stats().reconnects == 1)
        await backend.mark_as_done("big", 1)
        assert await waiting == 1


async def test_a_writer_that_only_sets_is_found_by_the_sweep(redis_server: RedisServer, redis_url: str) -> None:
    """Which searches, and reads where it finds something."""
    async with connect(redis_url, safety_interval=0.1) as backend:
        waiting = asyncio.ensure_future(AsyncResult("quiet").get())
        await until(lambda: backend.stats().sweeps >= 1)
        await until(lambda: "exists" in redis_server.commandstats())
        redis_server.cli("SET", "celery-task-meta-quiet", '{"status": "SUCCESS", "result": 1, "task_id": "quiet"}')
        assert await waiting == 1


async def test_verify_key_believes_the_key_only(redis_server: RedisServer, redis_url: str) -> None:
    async with connect(redis_url, verify_key=True) as backend:
        waiting = asyncio.ensure_future(AsyncResult("x").get())
        await waits_for(backend, 1)
        redis_server.cli("PUBLISH", "celery-task-meta-x", '{"status": "SUCCESS", "result": "lie", "task_id": "x"}')
        await backend.mark_as_done("x", "truth")
        assert await waiting == "truth"


# -- processes ------------------------------------------------------------------------------------------------------


def _child(backend: Any, handle: AsyncResult[Any], out: Any) -> None:
    out.send(asyncio.run(handle.get(timeout=10)))
    out.close()


async def test_a_record_of_another_database_ends_no_wait(redis_server: RedisServer) -> None:
    """Channels know no databases."""
    ours, theirs = redis_server.url(1), redis_server.url(2)
    async with connect(ours) as backend, connect(theirs) as other, connect(ours) as writer:
        waiting = asyncio.ensure_future(backend.result("x").get(timeout=20))
        await waits_for(backend, 1)
        redis_server.cli("CONFIG", "RESETSTAT")
        await other.mark_as_done("x", "theirs")
        await until(lambda: redis_server.commandstats().get("mget"))
        assert await backend.result("x").state() == "PENDING"
        assert not waiting.done()
        await writer.mark_as_done("x", "ours")
        assert await waiting == "ours"


def test_a_forked_child_gets_an_engine_of_its_own(redis_url: str) -> None:
    backend = connect(redis_url)
    handle: AsyncResult[Any] = backend.result("x")

    async def main() -> tuple[Any, Any]:
        waiting = asyncio.ensure_future(handle.get(timeout=10))
        await waits_for(backend, 1)
        receiver, sender = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(target=_child, args=(backend, backend.result("x"), sender))
        child.start()
        await backend.mark_as_done("x", "for both")
        mine = await waiting
        theirs = await asyncio.to_thread(receiver.recv)
        await asyncio.to_thread(child.join)
        await backend.mark_as_done("y", "still alive")
        assert await backend.result("y").get(timeout=10) == "still alive"
        await backend.aclose()
        return mine, theirs

    assert asyncio.run(main()) == ("for both", "for both")


async def test_a_pickled_handle_holds_no_secret(redis_server: RedisServer) -> None:
    backend = connect(f"redis://user:{SECRET.replace('/', '%2F').replace('@', '%40')}@127.0.0.1:1/0")
    data = pickle.dumps(backend.result("x"))
    assert b"redis" not in data and b"s3cr3t" not in data


# -- who does not answer, who refuses -------------------------------------------------------------------------------


async def test_nobody_there(caplog: pytest.LogCaptureFixture) -> None:
    url = f"redis://:{SECRET.replace('/', '%2F').replace('@', '%40')}@127.0.0.1:{free_port()}/0"
    async with connect(url, retry=0.2) as backend:
        for call in (AsyncResult("x").state(), AsyncResult("x").exists(), backend.mark_as_done("x", 1)):
            with pytest.raises(BackendUnavailable, match=r"127\.0\.0\.1") as caught:
                await call
            assert isinstance(caught.value, ConnectionError) and "s3cr3t" not in str(caught.value)
        with pytest.raises(ResultTimeout, match="not reachable"):
            await AsyncResult("x").get(timeout=2)
    assert any("reconnecting" in record.getMessage() for record in caplog.records)
    assert "s3cr3t" not in caplog.text


async def test_a_wait_begun_without_a_server_ends_with_one(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer() as server:
        server.kill()
        async with connect(server.url()) as backend:
            waiting = asyncio.ensure_future(AsyncResult("x").get(timeout=20))
            await until(lambda: backend.stats().last_error is not None)
            server.start()
            await backend.mark_as_done("x", 1)
            assert await waiting == 1


@pytest.mark.parametrize("protocol", [2, 3])
async def test_wrong_password(protocol: int) -> None:
    with RedisServer(password="right") as server:
        url = urlsplit(server.url())
        wrong = f"redis://:wrong-s3cr3t@{url.hostname}:{url.port}/0"
        async with connect(wrong, protocol=protocol) as backend:
            for call in (AsyncResult("x").get(timeout=10), AsyncResult("x").state(), backend.mark_as_done("x", 1)):
                with pytest.raises(BackendPermissionError, match="password") as caught:
                    await call
                assert isinstance(caught.value, PermissionError) and "s3cr3t" not in str(caught.value)
        async with connect(server.url(), protocol=protocol) as backend:
            await backend.mark_as_done("x", 1)
            assert await AsyncResult("x") == 1


@pytest.mark.parametrize(
    ("rules", "advice"),
    [
        ("~* +@all", "&celery-task-meta-"),
        ("&* +@all ~other", "~celery-task-meta-"),
        ("~* &* +@all -subscribe", r"\+subscribe"),
        ("~* &* +@all -mget", r"\+mget"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_missing_acl_rule_is_named(redis_server: RedisServer, rules: str, advice: str) -> None:
    redis_server.cli("ACL", "SETUSER", "limited", "reset", "on", ">pw", "resetchannels", *rules.split())
    try:
        url = urlsplit(redis_server.url())
        async with connect(f"redis://limited:pw@{url.hostname}:{url.port}/0") as backend:
            with pytest.raises(BackendPermissionError, match=advice):
                await AsyncResult("x").get(timeout=10)
            await until(lambda: backend.stats().pending == 0)
    finally:
        redis_server.cli("ACL", "DELUSER", "limited")


# -- URLs and options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://", "redis://localhost:6379/0"),
        ("redis://host:6380/3", "redis://host:6380/3"),
        ("redis://host//3", "redis://host:6379/3"),
        ("redis://host/3?db=5", "redis://host:6379/5"),
        ("valkey://[::1]:7/2", "redis://::1:7/2"),
        ("rediss://host/1", "rediss://host:6379/1"),
        ("valkeys://host/1?ssl_cert_reqs=none", "rediss://host:6379/1"),
        ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2"),
        ("redis+socket:///run/redis.sock?virtual_host=2", "unix:///run/redis.sock?db=2"),
        ("redis://user:p%40ss@host/0", "redis://host:6379/0"),
    ],
)
def test_urls(url: str, shown: str) -> None:
    backend = connect(url)
    assert str(backend) == shown and shown in repr(backend)


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("http://host", {}, "redis://.*memory://"),
        ("localhost", {}, "has no scheme"),
        ("redis://host/notanumber", {}, "number of a database"),
        ("redis://host:notaport/0", {}, "(?i)port"),
        ("redis://host/0?sockettimeout=3", {}, "unknown backend option 'sockettimeout'.*socket_timeout"),
        ("redis://host/0?db=x", {}, "db='x'"),
        ("redis://host/0?verify_key=perhaps", {}, "true or false"),
        ("redis://host/0", {"frobnicate": 1}, "unknown backend option 'frobnicate'"),
        ("redis://host/0?ssl_cert_reqs=none", {}, "rediss://"),
        ("rediss://host/0?ssl_cert_reqs=maybe", {}, "none, optional, required"),
        ("rediss://host/0?ssl_ca_certs=/does/not/exist", {}, "/does/not/exist"),
        ("redis://host/0?protocol=4", {}, "2 or 3"),
        *(
            (url, {name: value}, f"{name} must be")
            for url in ("redis://host/0", "memory://", "redis+cluster://host")
            for name, values in cast(
                dict[str, list[Any]],
                {
                    "heartbeat": [0, -1, math.nan, math.inf, 10**400, "5", None],
                    "safety_interval": [0, math.nan, math.inf],
                    "expires": [-1, 0.5, math.nan, math.inf, 10**400],
                    "failure_expires": [-1, 0.5, math.nan, math.inf],
                    "max_result_bytes": [0, -1, math.nan],
                },
            ).items()
            for value in values
        ),
        *(
            ("redis://host/0", {name: value}, f"{name} must be")
            for name, values in {
                "retry": [-1, math.nan, math.inf],
                "socket_timeout": [0, -1, math.nan, math.inf],
                "socket_connect_timeout": [0, -1, math.nan, math.inf],
                "db": [-1, 1.5, True],
            }.items()
            for value in values
        ),
        ("redis://host/0?expires=0.5", {}, "at least 1"),
        ("redis://host/0?heartbeat=nan", {}, "heartbeat must be"),
        ("rediss://host/0?ssl_min_version=SSLv2", {}, "TLSv1.2 or TLSv1.3"),
        ("redis://host/0#fragment", {}, "percent-encode"),
        ("redis://host:65536/0", {}, "port"),
        ("redis://u:p@host/0", {"credential_provider": object()}, "not both"),
        ("unix://host/redis.sock", {}, "three slashes"),
        ("memory://?db=3", {}, "no option|no connection"),
    ],
)
def test_mistakes_in_urls_and_options(url: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){says}"):
        connect(url, **options)


def test_connect_to_something_else() -> None:
    with pytest.raises(TypeError, match="URL"):
        connect(42)


def test_no_secret_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    backend = connect("redis://user:s3cr3t@host/0?password=s3cr3t2")
    texts = [repr(backend), str(backend), repr(backend.options), repr(backend.result("x")), caplog.text]
    for url in ("redis://user:s3cr3t@host:x/0", "redis://user:s3cr3t@host/x", "redis://h/0?password=s3cr3t&db=x"):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it says is the point below
            connect(url)
        texts.append(str(caught.value))
    assert not any("s3cr3t" in text for text in texts)


def test_the_default_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncresult.backend as backends

    monkeypatch.setattr(backends, "_default", None)
    monkeypatch.delenv("ASYNCRESULT_URL", raising=False)
    with pytest.raises(RuntimeError, match="no backend"):
        asyncresult.current_backend()
    assert str(connect()) == "memory://"
    monkeypatch.setenv("ASYNCRESULT_URL", "redis://elsewhere/7")
    assert str(connect()) == str(asyncresult.current_backend()) == "redis://elsewhere:6379/7"
    assert AsyncResult("x").backend is asyncresult.current_backend()


async def test_blocks_nest() -> None:
    async with connect("memory://") as outer:
        assert asyncresult.current_backend() is outer
        async with connect("memory://") as inner:
            assert asyncresult.current_backend() is inner

            async def elsewhere() -> Any:
                return asyncresult.current_backend()

            assert await asyncio.create_task(elsewhere()) is inner
            assert await asyncio.to_thread(asyncresult.current_backend) is inner
        assert asyncresult.current_backend() is outer
    with pytest.raises(RuntimeError):
        asyncresult.current_backend()


def test_importing_asyncresult_imports_no_client() -> None:
    code = "import asyncresult, sys; assert not {'redis', 'anyio', 'celery'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_a_log_filter_that_raises_ends_no_connection(
    redis_server: RedisServer, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(record: logging.LogRecord) -> bool:
        raise ValueError(record.getMessage())

    log = logging.getLogger("asyncresult")
    log.addFilter(fail)
    try:
        async with connect(redis_url, safety_interval=300.0) as backend:
            waiting = asyncio.ensure_future(AsyncResult("t").get())
            await until(lambda: backend.stats().subscribed == 1)
            redis_server.cli("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: backend.stats().reconnects == 1 and backend.stats().subscribed == 1)
            redis_server.cli("PUBLISH", "celery-task-meta-t", '{"status": "SUCCESS", "result": 1, "task_id": "t"}')
            assert await asyncio.wait_for(waiting, 20) == 1
    finally:
        log.removeFilter(fail)
    assert "is back after" in capsys.readouterr().err
