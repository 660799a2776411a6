"""Sending without a thread: each message is what the installed kombu would have sent; outages, bad input, fallbacks."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from unittest import mock

import kombu.exceptions
import kombu.pools
import pytest
from celery import Celery, chain, group
from celery.signals import after_task_publish, before_task_publish
from kombu import Exchange, Queue
from redis import Redis

import asyncresult
from asyncresult.integrations.celery import SendUnconfirmed, asend_task, messages, send_many
from asyncresult.integrations.celery import publisher as publisher_module
from asyncresult.integrations.celery.publisher import BATCH, publisher_of
from tests.tools.celery_worker import CeleryWorker
from tests.tools.certificates import Certificates
from tests.tools.proxy import FaultProxy
from tests.tools.servers import RedisServer
from tests.tools.topologies import Sentinels

from .celery_project import client

pytestmark = pytest.mark.celery

ETA = datetime(2036, 1, 2, 3, 4, 5, tzinfo=UTC)
TOPIC = Exchange("topics", type="topic")
QUEUES = [
    Queue("celery", Exchange("celery"), routing_key="celery"),
    Queue("mail", TOPIC, routing_key="mail.#"),
    Queue("all", TOPIC, routing_key="#"),
    Queue("everybody", Exchange("everybody", type="fanout")),
    Queue("brief", Exchange("brief"), routing_key="brief", expires=60),
]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def make_app(url: str, **settings: Any) -> Celery:
    app = Celery(
        "sending", broker=url, backend=url, task_cls="asyncresult.integrations.celery:Task", set_as_current=False
    )
    app.conf.update(broker_connection_retry_on_startup=False, task_queues=QUEUES, **settings)

    app.task(name="add", shared=False)(add)
    return app


def add(x: int, y: int = 0) -> int:
    return x + y


def stored(url: str) -> dict[str, Any]:
    """Everything that sending has left behind, but for what is new for each message."""
    with Redis.from_url(url) as client:
        found: dict[str, Any] = {}
        for key in client.scan_iter():
            kind = client.type(key).decode()
            name = key.decode()
            if kind == "list":
                found[name] = [_comparable(message) for message in client.lrange(key, 0, -1)]
                found[f"{name} expires"] = client.pttl(key) > 0
            elif kind == "set":
                found[name] = sorted(client.smembers(key))
            elif kind == "zset":
                found[name] = client.zrange(key, 0, -1)
        return found


def _comparable(message: bytes) -> Any:
    decoded = json.loads(message)
    assert decoded["properties"].pop("delivery_tag")
    replies = decoded["properties"]["reply_to"]  # a queue named by app and thread
    if decoded["properties"].pop("expiration", None):
        decoded["expires"] = True  # in the milliseconds that are left
    if decoded["content-type"] == "application/json" and "compression" not in decoded["headers"]:
        body = base64.b64decode(decoded["body"]).decode()
        decoded["body"] = json.loads(body.replace(replies, "replies") if replies else body)
    if len(replies) == 36:
        decoded["properties"]["reply_to"] = "replies"
    return decoded


def close(*apps: Celery) -> None:
    for app in apps:
        app.close()
        for backend in vars(app._local).get("backend"), vars(app).get("_asyncresult_sender"):
            if backend is not None:
                backend.client.close()
                backend.result_consumer.stop()
    kombu.pools.reset()


@contextmanager
def no_thread(app: Celery) -> Iterator[None]:
    """Nothing inside is sent by a thread, or by a connection of kombu's."""
    before, threads = publisher_of(app).in_thread, threading.active_count()
    yield
    assert publisher_of(app).in_thread == before, publisher_of(app).reason
    assert threading.active_count() <= threads
    assert not app.pool._dirty


async def both(
    server: RedisServer, settings: dict[str, Any], send: Callable[[Celery], Any], asend: Callable[[Celery], Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What Celery leaves in one database, and what we leave in another."""
    server.reset()
    kombu.pools.reset()  # they are kept by URL, with what they have declared
    stock, ours = make_app(server.url(0), **settings), make_app(server.url(1), **settings)
    await asyncio.to_thread(send, stock)
    async with asyncresult.connect(ours):
        with no_thread(ours):
            await asend(ours)
    close(stock, ours)
    return stored(server.url(0)), stored(server.url(1))


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, {}),
        ({}, {"priority": 7, "serializer": "pickle", "compression": "gzip"}),
        ({"task_compression": "zlib", "task_default_priority": 3}, {"countdown": 0, "eta": ETA, "expires": ETA}),
        ({"task_protocol": 1}, {"eta": ETA}),
        ({"task_routes": {"add": {"queue": "mail", "routing_key": "mail.in"}}}, {}),
        ({}, {"exchange": "topics", "routing_key": "mail.x", "exchange_type": "topic"}),
        ({}, {"queue": "mail", "routing_key": "mail.out"}),
        ({}, {"queue": "brief"}),
        ({}, {"queue": "made.up"}),
        (
            {"broker_transport_options": {"global_keyprefix": "mine:", "sep": "/", "priority_steps": [0, 5]}},
            {"priority": 6},
        ),
        ({"broker_transport_options": {"global_keyprefix": "mine:"}}, {"queue": "mail", "routing_key": "mail.x"}),
        ({}, {"headers": {"traceparent": "00-1"}, "stamped_headers": ["who"], "who": "me", "shadow": "other"}),
        (
            {},
            {"ignore_result": True, "time_limit": 5, "soft_time_limit": 3, "argsrepr": "<it>", "delivery_mode": 1},
        ),
        ({"task_publish_retry": False}, {"retries": 2, "reply_to": "elsewhere", "link": {"task": "x", "args": []}}),
    ],
)
async def test_a_message_is_what_kombu_sends(
    server: RedisServer, settings: dict[str, Any], options: dict[str, Any]
) -> None:
    options = {"task_id": "one", "root_id": "root", **options}
    theirs, ours = await both(
        server,
        settings,
        lambda app: app.tasks["add"].apply_async((2,), {"y": 3}, **options),
        lambda app: app.tasks["add"].aapply_async((2,), {"y": 3}, **options),
    )
    assert ours
    assert not differences(ours, theirs)


async def test_a_fanout_is_published_where_kombu_publishes_it(server: RedisServer) -> None:
    app = make_app(server.url(2))
    with Redis.from_url(server.url(2)) as client, client.pubsub() as heard:
        heard.psubscribe("*everybody*")
        assert heard.get_message(timeout=5)
        await asyncio.to_thread(app.tasks["add"].apply_async, (1,), task_id="one", queue="everybody")
        theirs = heard.get_message(timeout=5)
        async with asyncresult.connect(app):
            await app.tasks["add"].aapply_async((1,), task_id="one", queue="everybody")
            ours = heard.get_message(timeout=5)
    assert theirs["channel"] == ours["channel"]
    theirs, ours = _comparable(theirs["data"]), _comparable(ours["data"])
    assert theirs["properties"].pop("reply_to") and ours["properties"].pop("reply_to")
    assert theirs == ours
    close(app)


@pytest.mark.parametrize("name", ["send_task", "chain", "group"])
async def test_canvases_and_names_are_sent_as_kombu_sends_them(server: RedisServer, name: str) -> None:
    def signature(app: Celery) -> Any:
        add = app.tasks["add"]
        if name == "chain":
            return chain(add.s(1, 2).set(task_id="a"), add.s(3).set(task_id="b"))
        return group([add.s(i).set(task_id=str(i)) for i in range(5)], app=app)

    options = {"root_id": "root", "task_id": "one"}
    if name == "send_task":
        theirs, ours = await both(
            server,
            {"task_send_sent_event": True},
            lambda app: app.send_task("elsewhere", (1,), **options),
            lambda app: asend_task(app, "elsewhere", (1,), **options),
        )
    else:
        theirs, ours = await both(
            server,
            {},
            lambda app: signature(app).apply_async(**options),
            lambda app: signature(app).aapply_async(**options),
        )
    assert ours["celery"]
    assert not differences(ours, theirs)


async def test_signals_are_sent(server: RedisServer) -> None:
    app = make_app(server.url(3))
    seen: list[str] = []

    def before(sender: Any = None, headers: Any = None, **_: object) -> None:
        headers["added"] = 1
        seen.append("before")

    def after(**_: object) -> None:
        seen.append("after")

    before_task_publish.connect(before)
    after_task_publish.connect(after)
    try:
        async with asyncresult.connect(app):
            await app.tasks["add"].adelay(1)
    finally:
        before_task_publish.disconnect(before)
        after_task_publish.disconnect(after)
    assert seen == ["before", "after"]
    (message,) = stored(server.url(3))["celery"]
    assert message["headers"]["added"] == 1


async def test_many_at_once_share_pipelines_and_leave_the_loop_its_turns(server: RedisServer) -> None:
    server.reset()
    app = make_app(server.url(0))
    add = app.tasks["add"]
    async with asyncresult.connect(app):
        await add.adelay(0)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.create_task(count())
        with no_thread(app):
            handles = await asyncio.gather(*[add.adelay(i) for i in range(300)])
        counting.cancel()
    assert turns > 10
    ids = [message["headers"]["id"] for message in stored(server.url(0))["celery"]]
    assert ids[-2::-1] == [handle.id for handle in handles]  # in the order in which they were asked for


@pytest.mark.parametrize(
    "bad", [{"args": (object(),)}, {"args": (1, 2, 3)}, {"args": 7}, {"args": (1,), "serializer": "no"}]
)
async def test_bad_input_raises_what_celery_raises_and_sends_nothing(server: RedisServer, bad: dict[str, Any]) -> None:
    server.reset()
    app = make_app(server.url(0))
    with pytest.raises(Exception) as theirs:  # noqa: PT011 - that is the question
        await asyncio.to_thread(lambda: app.tasks["add"].apply_async(**bad))
    async with asyncresult.connect(app):
        with pytest.raises(type(theirs.value)) as ours:
            await app.tasks["add"].aapply_async(**bad)
        assert type(ours.value) is type(theirs.value)
        with pytest.raises(type(theirs.value)):
            await group([app.tasks["add"].s(1), app.tasks["add"].signature(**bad)], app=app).aapply_async()
        assert "celery" not in stored(server.url(0))
        await app.tasks["add"].adelay(1)  # and what comes next declares its queue
    assert "_kombu.binding.celery" in stored(server.url(0))
    close(app)


async def test_a_broker_that_is_down_is_celerys_error_within_the_retry_policy() -> None:
    with RedisServer() as server:
        url = server.url(0)
    app = make_app(url)
    async with asyncresult.connect(app):
        with pytest.raises(kombu.exceptions.OperationalError) as caught:
            async with asyncio.timeout(10):
                await app.tasks["add"].adelay(1)
    assert not isinstance(caught.value, SendUnconfirmed)


async def test_a_lost_answer_is_said_and_the_task_is_not_sent_again(server: RedisServer) -> None:
    server.reset()
    async with FaultProxy(server) as proxy:
        app = make_app(proxy.url(0))
        add = app.tasks["add"]
        async with asyncresult.connect(app):
            await add.adelay(0)

            async def cut(request: Any) -> None:
                request.link.cut("rst")

            with proxy.before("LPUSH", cut):
                with pytest.raises(SendUnconfirmed, match="may have been sent"):
                    await add.adelay(1)
            await add.adelay(2)  # on a new connection
    messages = stored(server.url(0))["celery"]
    assert len(messages) in (2, 3)
    assert len({message["headers"]["id"] for message in messages}) == len(messages)


async def test_what_cannot_be_sent_so_goes_by_a_thread_and_is_counted(server: RedisServer) -> None:
    app = make_app("memory://", result_backend=server.url(0))
    async with asyncresult.connect(app) as backend:
        await app.tasks["add"].adelay(1)
        stats = backend.stats()
        assert (stats.sent, stats.sent_by_threads) == (0, 1)
        assert "memory" in (stats.thread_reason or "")
    app = make_app(server.url(0))
    async with asyncresult.connect(app) as backend:
        await app.tasks["add"].adelay(1)
        assert (backend.stats().sent, backend.stats().sent_by_threads) == (1, 0)


async def test_thousands_in_one_call(server: RedisServer) -> None:
    server.reset()
    app = make_app(server.url(0))
    add = app.tasks["add"]
    count = 2 * BATCH + 10
    async with asyncresult.connect(app) as backend:
        with no_thread(app):
            handles = await send_many(add.s(i) for i in range(count))
        assert backend.stats().sent == count
        (result,) = await send_many([group([add.s(1), add.s(2)], app=app)])
        assert len(result) == 2
        assert await send_many([]) == []
    ids = [message["headers"]["id"] for message in stored(server.url(0))["celery"]]
    assert ids[:1:-1] == [handle.id for handle in handles]


async def test_of_many_none_is_sent_where_one_cannot_be_made(server: RedisServer) -> None:
    server.reset()
    app = make_app(server.url(0))
    add = app.tasks["add"]
    async with asyncresult.connect(app):
        with pytest.raises(kombu.exceptions.EncodeError):
            await send_many([add.s(1), add.s(object()), add.s(2)])
        assert stored(server.url(0)) == {}
        await send_many([add.s(1)])  # and what comes next declares its queue
    assert "_kombu.binding.celery" in stored(server.url(0))


async def test_many_of_which_an_answer_is_lost(server: RedisServer) -> None:
    server.reset()
    async with FaultProxy(server) as proxy:
        app = make_app(proxy.url(0))
        add = app.tasks["add"]
        async with asyncresult.connect(app):
            await add.adelay(0)
            batches = 0

            async def cut(request: Any) -> None:
                nonlocal batches
                batches += 1
                if batches == BATCH + 1:  # LPUSH, that is: the first of the second pipeline
                    request.link.cut("rst")

            with proxy.before("LPUSH", cut), pytest.raises(SendUnconfirmed) as caught:
                await send_many([add.s(i) for i in range(3 * BATCH)])
    assert f"{BATCH} of {3 * BATCH} tasks were sent, the next {BATCH} may have been sent, the rest" in str(caught.value)


async def test_many_by_a_thread(server: RedisServer) -> None:
    app = make_app("memory://", result_backend=server.url(0))
    add = app.tasks["add"]
    async with asyncresult.connect(app) as backend:
        handles = await send_many([add.s(i) for i in range(3)])
        assert (len(handles), backend.stats().sent_by_threads) == (3, 3)
        with pytest.raises(kombu.exceptions.EncodeError) as caught:
            await send_many([add.s(1), add.s(object())])
    assert caught.value.__notes__ == ["1 of 2 tasks were sent before this one."]


async def test_cancelled_before_its_turn_is_not_sent(server: RedisServer) -> None:
    server.reset()
    app = make_app(server.url(0))
    add = app.tasks["add"]
    async with asyncresult.connect(app):
        tasks = [asyncio.create_task(add.adelay(i)) for i in range(500)]
        await asyncio.sleep(0)
        tasks[-1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert len(stored(server.url(0))["celery"]) == 499


async def test_what_a_cancelled_thread_declared_is_declared_again(server: RedisServer) -> None:
    server.reset()
    app = make_app(server.url(0))
    publisher, add = publisher_of(app), app.tasks["add"]
    made, given_up = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def send() -> Any:
        handle = add.delay(1)
        loop.call_soon_threadsafe(made.set)
        assert given_up.wait(20)
        return handle

    async with asyncresult.connect(app):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:  # one that can be waited for
            with mock.patch.object(publisher_module, "in_thread", lambda call: loop.run_in_executor(pool, call)):
                sending = asyncio.create_task(publisher.send(send, blocks=True))
                await made.wait()
                sending.cancel()
                given_up.set()
                with pytest.raises(asyncio.CancelledError):
                    await sending
        assert stored(server.url(0)) == {}
        await add.adelay(2)
    assert "_kombu.binding.celery" in stored(server.url(0))


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Where two structures differ, in a form that can be read."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = sorted({*ours, *theirs})
        return [line for key in keys for line in differences(ours.get(key), theirs.get(key), f"{path}/{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{path}/{i}")]
    return [] if ours == theirs else [f"{path}: {ours!r:.80} is not {theirs!r:.80}"]


async def test_over_tls_with_a_password(certificates: Certificates) -> None:
    with RedisServer(password="s3cret", tls=certificates) as server:
        app = make_app(
            server.url(4).partition("?")[0],
            broker_use_ssl={"ssl_ca_certs": str(certificates.ca_cert), "ssl_cert_reqs": ssl.CERT_REQUIRED},
            redis_backend_use_ssl={"ssl_ca_certs": str(certificates.ca_cert), "ssl_cert_reqs": ssl.CERT_REQUIRED},
        )
        async with asyncresult.connect(app) as backend:
            with no_thread(app):
                await app.tasks["add"].adelay(1)
            broker: Any = publisher_of(app).broker
            assert broker.store is backend  # one connection for both
        with server.control() as control:
            control("SELECT", 4)
            assert control("LLEN", "celery") == 1


@pytest.mark.topology
@pytest.mark.allow_leaks("sockets")  # kombu leaves its connections to the sentinels open
async def test_to_the_primary_that_sentinels_name() -> None:
    with Sentinels() as sentinels:
        hosts = ";".join(f"sentinel://127.0.0.1:{sentinel.port}/3" for sentinel in sentinels.sentinels)
        options = {"master_name": sentinels.service}
        app = make_app(hosts, broker_transport_options=options, result_backend_transport_options=options)
        async with asyncresult.connect(app):
            with no_thread(app):
                await app.tasks["add"].adelay(1)
        await asyncio.to_thread(app.tasks["add"].apply_async, (1,))
        close(app)
        with sentinels.primary.control() as control:
            control("SELECT", 3)
            assert control("LLEN", "celery") == 2


@pytest.mark.parametrize(
    "fixture", ["stock_worker", pytest.param("rabbitmq_worker", marks=[pytest.mark.rabbitmq, pytest.mark.slow])]
)
async def test_a_stock_worker_runs_what_templates_give(request: pytest.FixtureRequest, fixture: str) -> None:
    """One signature, sent again and again: as it is, with other arguments, and between messages with other options."""
    worker: CeleryWorker = request.getfixturevalue(fixture)
    with client(**worker.config) as project:
        add = project.tasks["project.add"]
        stamped = add.s(5, 1)
        stamped.stamp(who="me")
        async with asyncresult.connect(project) as backend:
            publish = messages._Producer.publish
            with mock.patch.object(messages._Producer, "publish", autospec=True, side_effect=publish) as made:
                handles = [await add.adelay(number, 1) for number in range(5)]
                handles += await send_many(add.s(number, y=2) for number in range(5))
                assert made.call_count <= 3  # one declares the queue, the next is the template, one is compared with it
            varied: list[dict[str, Any]] = [
                {"priority": 3},
                {"headers": {"a": 1}},
                {"expires": 60},
                {"priority": 3},
                {"countdown": 0},
            ]
            handles += [await add.aapply_async((number,), {"y": 3}, **options) for number, options in enumerate(varied)]
            handles += [await stamped.adelay(), await add.adelay("a", "b")]
            values = await asyncresult.gather(*handles, timeout=30)
            assert backend.stats().sent_by_threads == 0
    assert values == (*range(1, 6), *range(2, 7), *range(3, 8), 6, "ab")
