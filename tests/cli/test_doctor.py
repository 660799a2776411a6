"""doctor on one server: what is found where it is set so, and that the fix is one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import socket
import time
from collections.abc import Callable
from unittest import mock

import pytest
import redis

import asyncresult.cli.checks.database
import asyncresult.cli.checks.records
import asyncresult.cli.checks.redis
from tests.tools.command_line import in_process
from tests.tools.proxy import FaultProxy
from tests.tools.servers import RedisServer

from .conftest import Store

checks = asyncresult.cli.checks
Found = dict[str, tuple[str, str, str]]


def findings(*words: str, busy_machine: bool = True) -> Found:
    """Severity, message and fix of each check; the worst where there are several.

    Args:
        busy_machine: Nothing is slow, however long it takes.
    """
    with contextlib.ExitStack() as stack:
        if busy_machine:
            for module in (checks.redis, checks.database):
                stack.enter_context(mock.patch.object(module, "SLOW_SECONDS", 5.0))
            stack.enter_context(mock.patch.object(checks.records, "LAG_SECONDS", 5.0))
        outcome = in_process("doctor", *words, "--json")
    assert outcome.err == ""
    order = ["ok", "note", "warning", "error"]
    found: Found = {}
    for one in json.loads(outcome.out)["findings"]:
        finding = (one["severity"], one["message"], one["fix"])
        if one["check"] not in found or order.index(finding[0]) > order.index(found[one["check"]][0]):
            found[one["check"]] = finding
    assert outcome.status == (1 if any(severity == "error" for severity, _, _ in found.values()) else 0)
    return found


def test_a_server_with_nothing_to_find(url: str, redis_server: RedisServer) -> None:
    redis_server.cli("DEL", "celery-task-meta-junk")
    found = findings("--url", url)
    assert {name: severity for name, (severity, _, _) in found.items()} == dict.fromkeys(
        [
            *("version", "eviction", "output buffers", "clients", "latency", "clock", "role", "rights"),
            *("subscriptions", "notifications", "records"),
        ],
        "ok",
    )
    assert in_process("doctor", "--url", url).out.endswith("no problems found\n")
    assert redis_server.cli("KEYS", "*doctor*") == []


def test_settings_that_lose_results(redis_server: RedisServer, url: str) -> None:
    redis_server.cli("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "volatile-lru")
    redis_server.cli("CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 1mb 60 normal 1mb 0 0")
    redis_server.cli("SET", "celery-task-meta-for-ever", '{"status": "SUCCESS", "result": 1}')
    found = findings("--url", url)
    for name in ("eviction", "output buffers", "expiry"):
        assert found[name][0] == "warning"
    redis_server.cli(*shlex.split(found["output buffers"][2]))
    redis_server.cli("CONFIG", "SET", "maxmemory-policy", "noeviction")
    redis_server.cli("CONFIG", "SET", "client-output-buffer-limit", "normal 0 0 0")
    found = findings("--url", url)
    assert found["eviction"][0] == found["output buffers"][0] == "ok"


def test_evicted_keys(redis_server: RedisServer) -> None:
    used = int(redis_server.info()["used_memory"])
    redis_server.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-random", "maxmemory", used + 500_000)
    with redis_server.control() as control:
        for number in range(40):
            control("SET", f"key-{number}", "x" * 50_000)
    severity, message, _ = findings("--url", redis_server.url())["eviction"]
    assert severity == "error"
    assert "keys were evicted" in message


def test_too_many_clients(redis_server: RedisServer) -> None:
    redis_server.cli("CONFIG", "SET", "maxclients", 40)
    idle = [
        socket.create_connection((redis_server.host, redis_server.port)) for _ in range(37)
    ]  # one more is that of the check for leaks
    try:
        severity, _, fix = findings("--url", redis_server.url())["clients"]
    finally:
        for connection in idle:
            connection.close()
    assert severity == "error"
    assert fix.startswith("CONFIG SET maxclients 80")


def _shifted(seconds: float) -> Callable[[], float]:
    now = time.time
    return lambda: now() + seconds


def test_a_clock_that_differs(url: str) -> None:
    with mock.patch("time.time", _shifted(-60)):
        severity, message, _ = findings("--url", url)["clock"]
    assert severity == "warning"
    assert "+60.0 s" in message


async def test_a_slow_network(proxy: FaultProxy) -> None:
    with proxy.delay(0.3):
        found = await asyncio.to_thread(findings, "--url", proxy.url(), busy_machine=False)
    assert found["latency"][0] == "warning"
    assert found["notifications"][0] == "warning"


_READER = (
    "~celery-task-meta-* ~{celery-task-meta-* resetchannels &celery-task-meta-* -@all +hello +ping +mget +strlen +del"
)
_WRITER = (
    f"{_READER} +subscribe +unsubscribe +get +set +publish +eval +evalsha +exists +xadd +xrange +expire +acl|whoami"
)


@pytest.mark.parametrize(
    ("taken", "severity", "fix"),
    [
        ("-subscribe", "error", "ACL SETUSER doctor +subscribe"),
        ("-strlen", "error", "ACL SETUSER doctor +strlen"),
        ("-mget", "error", "ACL SETUSER doctor +mget"),
        ("resetkeys", "error", "ACL SETUSER doctor ~celery-task-meta-* ~{celery-task-meta-*"),
        ("resetchannels", "error", "ACL SETUSER doctor &celery-task-meta-*"),
        ("-evalsha", "note", "if it is to: ACL SETUSER doctor +evalsha"),
        ("-get -set", "note", "if it is to: ACL SETUSER doctor +get +set"),
    ],
)
def test_a_missing_right_is_named_and_the_line_gives_it(
    taken: str, severity: str, fix: str, redis_server: RedisServer
) -> None:
    redis_server.cli("ACL", "SETUSER", "doctor", "on", ">secret", *_WRITER.split(), *taken.split())
    try:
        url = redis_server.url(username="doctor", password="secret")
        found = findings("--url", url)["rights"]
        assert (found[0], found[2]) == (severity, fix)
        redis_server.cli(*fix.removeprefix("if it is to: ").split())
        assert findings("--url", url)["rights"][0] == "ok"
    finally:
        redis_server.cli("ACL", "DELUSER", "doctor")


def test_what_a_user_may_not_see_is_a_note(redis_server: RedisServer) -> None:
    redis_server.cli("ACL", "SETUSER", "doctor", "on", ">secret", *_WRITER.split())
    try:
        found = findings("--url", redis_server.url(username="doctor", password="secret"))
    finally:
        redis_server.cli("ACL", "DELUSER", "doctor")
    assert found["output buffers"][:2] == ("note", "CONFIG GET is not allowed: limits are not known")
    assert {found[name][0] for name in ("version", "clock", "subscriptions", "records")} == {"note"}


def test_a_server_without_hello() -> None:
    with RedisServer(options={"rename-command": 'HELLO ""'}) as server:
        severity, message, _ = findings("--url", server.url())["version"]
    assert severity == "note"
    assert "RESP2 only" in message


def test_a_replica(redis_server: RedisServer, url: str) -> None:
    with RedisServer() as replica:
        replica.cli("REPLICAOF", redis_server.host, redis_server.port)
        severity, message, fix = findings("--url", replica.url())["role"]
    assert severity == "error"
    assert "it stores nothing" in message
    assert f"{redis_server.host}:{redis_server.port}" in fix


def test_subscriptions_that_nobody_ends(redis_server: RedisServer, store: Store) -> None:
    ids = [f"over-{number}" for number in range(20)]
    for id in ids:
        store(id)
    client = redis.Redis(host=redis_server.host, port=redis_server.port)
    leak = client.pubsub()
    try:
        leak.subscribe(*(f"celery-task-meta-{id}" for id in ids))
        leak.get_message(timeout=5)
        severity, message, _ = findings("--url", redis_server.url())["subscriptions"]
    finally:
        leak.close()
        client.close()
    assert severity == "warning"
    assert "of 20 looked at 20 belong to tasks that have ended" in message


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (b"\x80\x04\x95nonsense", "it looks like pickle"),
        (b"\x82\xa6status\xa7SUCCESS\xa6result\x01", "it looks like msgpack"),
        (b"status: SUCCESS\nresult: 1\n", "it looks like yaml"),
    ],
)
def test_records_of_another_serializer(record: bytes, says: str, redis_server: RedisServer) -> None:
    redis_server.cli("SETEX", "celery-task-meta-other", 3600, record)
    severity, message, fix = findings("--url", redis_server.url())["records"]
    assert severity == "error"
    assert "e.g. other" in message
    assert says in message
    assert "result_serializer json" in fix
    assert findings("other", "--url", redis_server.url())["reason"][0] == "error"


def test_records_that_are_gone_at_once(redis_server: RedisServer) -> None:
    redis_server.cli("SETEX", "celery-task-meta-brief", 20, '{"status": "SUCCESS", "result": 1}')
    severity, message, _ = findings("--url", redis_server.url())["expiry"]
    assert severity == "warning"
    assert "gone in less than 60 s" in message


@pytest.mark.parametrize("words", [[], ["lost"]])
def test_a_result_under_another_prefix(words: list[str], redis_server: RedisServer) -> None:
    redis_server.cli("SET", "myapp_celery-task-meta-lost", "{}")
    severity, message, fix = findings(*words, "--url", redis_server.url())["reason" if words else "place"]
    assert severity == "error"
    assert "myapp_celery-task-meta-lost" in message
    assert "'myapp_': set key_prefix" in fix


@pytest.mark.parametrize("words", [[], ["lost"]])
def test_a_result_in_another_database(words: list[str], redis_server: RedisServer) -> None:
    redis_server.cli("SET", "celery-task-meta-lost", "{}")
    redis_server.cli("MOVE", "celery-task-meta-lost", 5)
    severity, message, fix = findings(*words, "--url", redis_server.url(2))["reason" if words else "place"]
    assert severity == "error"
    assert "in database 5, e.g. celery-task-meta-lost; we read database 2" in message
    assert "ends with /5" in fix


def test_reasons_for_one_task(url: str, redis_server: RedisServer) -> None:
    assert findings("ok", "--url", url)["reason"][0] == "ok"
    assert findings("busy", "--url", url)["reason"][:2] == ("note", "the task has not ended yet: it is PROGRESS")
    assert findings("nowhere", "--url", url)["reason"][0] == "warning"
    redis_server.cli("LPUSH", "celery-task-meta-list", "x")
    severity, message, _ = findings("list", "--url", url)["reason"]
    assert (severity, message) == ("error", "the key holds a list, which is no record")
    redis_server.cli("SETEX", "celery-task-meta-large", 600, "x" * 3_000_000)
    few = f"{url}?max_result_bytes=1200000"
    assert "has 3000000 bytes, more than max_result_bytes" in findings("large", "--url", few)["reason"][1]
    assert findings("--url", few)["records"][1].startswith("2 of ")


def test_a_worker_that_has_died_and_the_states_before(redis_server: RedisServer) -> None:
    async def run() -> None:
        async with asyncresult.connect(redis_server.url()) as backend:
            async with backend.track("dies", heartbeat=0.05, history=10) as task:
                await task.progress(1, 2)
                await task.progress(2, 2)
                record = await backend.get_raw("dies")
            assert record is not None
            redis_server.cli("SETEX", "celery-task-meta-dies", 600, record)  # as it was when the process died

    asyncio.run(run())
    with mock.patch("time.time", _shifted(60)):
        found = findings("dies", "--url", redis_server.url())
    assert found["reason"][0] == "error"
    assert "sends no heartbeat" in found["reason"][1]
    assert found["states"][1].startswith("STARTED > PROGRESS")
    assert found["subscribers"][1] == "0 connections listen for it"
    assert "bytes, kept for 5" in found["record"][1] or "bytes, kept for 600" in found["record"][1]
