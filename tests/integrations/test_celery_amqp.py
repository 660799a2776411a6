"""Sending to RabbitMQ without a thread: each message is what kombu sends; refusals, outages, and the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from operator import methodcaller
from typing import Any
from unittest import mock

import amqp.exceptions
import kombu.exceptions
import kombu.pools
import pytest
from celery import Celery, group
from kombu import Connection, Exchange, Queue

import asyncresult
from asyncresult.integrations.celery import SendUnconfirmed, amqp_connection, messages, send_many
from asyncresult.integrations.celery.publisher import publisher_of
from tests.tools.proxy import FaultProxy
from tests.tools.servers import HOST, free_port

from .rabbitmq import RabbitMQ

pytestmark = [pytest.mark.celery, pytest.mark.rabbitmq]

ETA = datetime(2036, 1, 2, 3, 4, 5, tzinfo=UTC)
TOPIC = Exchange("topics", type="topic")
QUEUES = [
    Queue("celery", Exchange("celery"), routing_key="celery"),
    Queue("mail", TOPIC, routing_key="mail.#"),
    Queue("ranked", Exchange("ranked"), routing_key="ranked", max_priority=9),
    Queue("full", Exchange("full"), routing_key="full", max_length=0, queue_arguments={"x-overflow": "reject-publish"}),
]


def make_app(url: str, **settings: Any) -> Celery:
    app = Celery("amqp", broker=url, task_cls="asyncresult.integrations.celery:Task", set_as_current=False)
    app.conf.update(result_backend="cache+memory://", task_queues=QUEUES, **settings)
    app.task(name="add", shared=False)(add)
    return app


def add(x: int, y: int = 0) -> int:
    return x + y


@asynccontextmanager
async def sending(app: Celery) -> AsyncIterator[Any]:
    """Nothing inside is sent by a thread; nothing is left open."""
    broker: Any = publisher_of(app).broker
    assert broker is not None, publisher_of(app).reason
    try:
        yield app.tasks["add"]
    finally:
        await broker.aclose(timeout=2.0)
        assert publisher_of(app).in_thread == 0


@contextmanager
def by_kombu(app: Celery) -> Iterator[Any]:
    """Sends as Celery does, over a connection of kombu's."""
    with app.connection_for_write() as connection:
        yield lambda *args, **options: app.tasks["add"].apply_async(*args, connection=connection, **options)


def received(url: str, queue: str) -> list[Any]:
    """What a consumer gets from a queue, but for the milliseconds until a message expires."""
    found: list[Any] = []
    with Connection(url) as connection, connection.channel() as channel:
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            properties = dict(message.properties)
            if properties.pop("expiration", None):
                properties["expires"] = True
            where = message.delivery_info["exchange"], message.delivery_info["routing_key"]
            found.append((properties, message.body, where))
    return found


PUBLISH = messages._Producer.publish
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("celery", {}),
    ("celery", {"serializer": "pickle", "compression": "gzip", "delivery_mode": 1}),
    ("celery", {"eta": ETA, "expires": ETA, "headers": {"who": "me", "n": 2**40}, "reply_to": "elsewhere"}),
    ("celery", {"stamped_headers": ["who"], "who": "me", "link": {"task": "x", "args": [], "options": {}}}),
    ("celery", {"time_limit": 5, "ignore_result": True, "shadow": "$ .* %s ö", "message_id": "m", "app_id": "a"}),
    ("mail", {"queue": "mail", "routing_key": "mail.out"}),
    ("mail", {"exchange": "topics", "routing_key": "mail.x"}),  # which is there by now
    ("ranked", {"queue": "ranked", "priority": 7}),
    ("made.up", {"queue": "made.up"}),
]


async def test_a_message_is_what_kombu_sends(rabbitmq_url: str) -> None:
    app = make_app(rabbitmq_url)
    async with sending(app) as add:
        for queue, options in OPTIONS:
            await add.aapply_async(("ö", 2), task_id="one", **options)
            with by_kombu(app) as send:
                send(("ö", 2), task_id="one", **options)
            ours, theirs = received(rabbitmq_url, queue)
            assert ours == theirs


async def test_each_time_a_message_is_what_kombu_sends(rabbitmq_url: str) -> None:
    """From the third on by a template, whatever its arguments and id; a body in several frames."""
    app = make_app(rabbitmq_url)
    arguments = [(1, 2), (1, 2), (1, 2), ("ö" * 3000, None), ([{"a": 1.5}], "'")]
    async with sending(app) as add:
        with mock.patch.object(messages._Producer, "publish", autospec=True, side_effect=PUBLISH) as made:
            for number, args in enumerate(arguments):
                await add.aapply_async(args, task_id="i" * (number + 1))
            await add.aapply_async((1,), task_id="i" * 200)
            assert made.call_count == 3
            handles = await send_many(add.s(i) for i in range(300))
            assert made.call_count == 3
        with by_kombu(app) as send:
            for number, args in enumerate(arguments):
                send(args, task_id="i" * (number + 1))
            send((1,), task_id="i" * 200)
    found = received(rabbitmq_url, "celery")
    assert found[:6] == found[-6:]
    assert [properties["correlation_id"] for properties, *_ in found[6:-6]] == [handle.id for handle in handles]


async def test_what_the_broker_refuses_is_the_error_of_who_sends_it(rabbitmq_url: str) -> None:
    app = make_app(rabbitmq_url)
    with Connection(rabbitmq_url) as connection, connection.channel() as channel:
        channel.queue_declare("celery.other", durable=True, auto_delete=False, arguments={"x-max-length": 5})
        channel.exchange_declare("topics", "topic", durable=True, auto_delete=False)
    async with sending(app) as add:
        await add.adelay(1)
        with by_kombu(app) as send, pytest.raises(amqp.exceptions.PreconditionFailed):
            send((1,), queue="celery.other")
        refused = await asyncio.gather(
            add.aapply_async((1,), queue="celery.other"),
            add.adelay(2),
            add.aapply_async((1,), exchange="nowhere", routing_key="x"),
            add.aapply_async((2,), exchange="nowhere", routing_key="x"),
            add.aapply_async((1,), exchange="topics", routing_key="mine", mandatory=True),
            add.aapply_async((1,), exchange="topics", routing_key="nobodys"),
            add.aapply_async((1,), queue="full"),
            add.adelay(3),
            return_exceptions=True,
        )
    assert [type(each) for each in refused if isinstance(each, BaseException)] == [
        *(amqp.exceptions.PreconditionFailed, amqp.exceptions.NotFound, amqp.exceptions.NotFound),
        *(amqp.exceptions.ChannelError, kombu.exceptions.OperationalError),
    ]
    assert "NO_ROUTE" in str(refused[4])
    assert len(received(rabbitmq_url, "celery")) == 3


async def test_no_message_overtakes_the_declaration_of_its_queue(rabbitmq_url: str) -> None:
    """Only the first declares it; the broker drops in silence what comes before."""
    app = make_app(rabbitmq_url)
    async with sending(app) as add:
        await asyncio.gather(*[add.aapply_async((number,), queue="overtaken") for number in range(20)])
    assert len(received(rabbitmq_url, "overtaken")) == 20


async def test_a_declaration_that_is_cancelled_leaves_the_next_alone(rabbitmq_url: str) -> None:
    app = make_app(rabbitmq_url)
    async with sending(app):
        broker: Any = publisher_of(app).broker
        connection = await broker._connecting().connection(0.0)
        cancelled = asyncio.ensure_future(connection.declare([methodcaller("queue_declare", "full", durable=False)]))
        await asyncio.sleep(0)
        cancelled.cancel()
        await connection.declare([methodcaller("queue_declare", "next")])
    assert cancelled.cancelled()


async def test_a_message_that_closes_the_channel_leaves_it_usable(rabbitmq_url: str) -> None:
    app = make_app(rabbitmq_url)
    async with sending(app) as add:
        await add.aapply_async((1,), queue="mail")
        with Connection(rabbitmq_url) as connection:
            connection.channel().exchange_delete("topics")
        with pytest.raises(amqp.exceptions.NotFound):
            await add.aapply_async((1,), queue="mail")
        await add.adelay(2)
        await add.aapply_async((1,), queue="mail")  # declared again
    assert len(received(rabbitmq_url, "celery")) == 1


async def test_bad_input_raises_what_celery_raises_and_sends_nothing(rabbitmq_url: str) -> None:
    app = make_app(rabbitmq_url)
    async with sending(app) as add:
        with pytest.raises(kombu.exceptions.EncodeError):
            await add.adelay(object())
        with pytest.raises(kombu.exceptions.EncodeError):
            await group([add.s(1), add.s(object())], app=app).aapply_async()
        with pytest.raises(TypeError):
            await add.adelay(1, 2, 3)
        await add.adelay(1)
    assert len(received(rabbitmq_url, "celery")) == 1


@pytest.mark.parametrize("user", ["guest", "nobody"])
async def test_a_broker_that_cannot_be_reached_is_the_error_that_celery_raises(rabbitmq_url: str, user: str) -> None:
    url = rabbitmq_url.replace("guest:", "nobody:") if user == "nobody" else f"amqp://{HOST}:{free_port()}//"
    app = make_app(url, task_publish_retry_policy={"max_retries": 1, "interval_start": 0.1})
    async with sending(app) as add:
        with by_kombu(app) as send, pytest.raises(Exception) as theirs:  # noqa: PT011 - that is the question
            send((1,))
        with pytest.raises(type(theirs.value)) as ours:
            async with asyncio.timeout(20):
                await add.adelay(1)
        assert type(ours.value) is type(theirs.value)
        assert not isinstance(ours.value, SendUnconfirmed)


async def test_a_url_that_does_not_answer_gives_way_to_the_next(rabbitmq_url: str) -> None:
    app = make_app(f"amqp://{HOST}:{free_port()}//;{rabbitmq_url}")
    async with sending(app) as add:
        await add.adelay(1)
    assert len(received(rabbitmq_url, "celery")) == 1


@asynccontextmanager
async def behind_a_proxy(node: RabbitMQ) -> AsyncIterator[tuple[FaultProxy, str, str]]:
    vhost = node.new_vhost()
    async with FaultProxy((HOST, node.port), parse=False) as proxy:
        yield proxy, node.url(vhost=vhost, port=proxy.port), node.url(vhost=vhost)


async def test_a_lost_answer_is_said_and_the_next_send_connects_anew(rabbitmq_node: RabbitMQ) -> None:
    async with behind_a_proxy(rabbitmq_node) as (proxy, url, direct):
        async with sending(make_app(url)) as add:
            await add.adelay(1)
            with proxy.black_hole(only=lambda link: True):
                sent = [asyncio.ensure_future(add.adelay(number)) for number in range(3)]
                await asyncio.sleep(0.05)
                proxy.cut()
                errors = await asyncio.gather(*sent, return_exceptions=True)
            assert [type(error) for error in errors] == [SendUnconfirmed] * 3
            await add.adelay(2)
        assert len(received(direct, "celery")) in range(2, 6)


async def test_closing_waits_for_confirms_within_its_bound(rabbitmq_node: RabbitMQ) -> None:
    async with behind_a_proxy(rabbitmq_node) as (proxy, url, _):
        app = make_app(url)
        broker: Any = publisher_of(app).broker
        async with sending(app) as add:
            await add.adelay(1)
            sent = asyncio.ensure_future(add.adelay(2))
            await asyncio.sleep(0)
            await broker.aclose(timeout=20)
            assert (await sent).id
            await add.adelay(3)
            with proxy.black_hole(only=lambda link: True):
                sent = asyncio.ensure_future(add.adelay(4))
                await asyncio.sleep(0)
                async with asyncio.timeout(20):
                    await broker.aclose(timeout=0.1)
                with pytest.raises(SendUnconfirmed):
                    await sent


async def test_a_broker_that_confirms_nothing_is_given_up(
    rabbitmq_node: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amqp_connection, "CHECK_INTERVAL", 0.05)
    async with behind_a_proxy(rabbitmq_node) as (proxy, url, _), sending(make_app(url)) as add:
        await add.adelay(1)
        with proxy.black_hole(only=lambda link: True):
            monkeypatch.setattr(amqp_connection, "CONFIRM_TIMEOUT", 0.1)
            with pytest.raises(SendUnconfirmed, match="confirmed nothing"):
                await add.adelay(2)


async def test_a_broker_that_answers_no_declaration_is_given_up(
    rabbitmq_node: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it hold up those who need no declaration, and would wait for the one under way."""
    async with behind_a_proxy(rabbitmq_node) as (proxy, url, _), sending(make_app(url)) as add:
        await add.adelay(1)
        with proxy.black_hole(only=lambda link: True):
            monkeypatch.setattr(amqp_connection, "CONFIRM_TIMEOUT", 0.2)
            sends = [add.aapply_async((2,), queue="mail"), add.adelay(3)]
            async with asyncio.timeout(20):
                declaring, other = await asyncio.gather(*sends, return_exceptions=True)
            assert isinstance(declaring, kombu.exceptions.OperationalError)
            assert "answered no declaration" in str(declaring)
            assert isinstance(other, kombu.exceptions.OperationalError)
        monkeypatch.undo()
        await add.adelay(4)


async def test_a_connection_that_falls_silent_while_it_is_opened(
    rabbitmq_node: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amqp_connection, "CONFIRM_TIMEOUT", 0.2)
    ensure, loop = Connection.ensure_connection, asyncio.get_running_loop()
    async with behind_a_proxy(rabbitmq_node) as (proxy, url, _), sending(make_app(url)) as add:

        async def fall_silent() -> None:
            proxy.black_hole(only=lambda link: True)

        def ensure_connection(self: Any, *args: Any, **options: Any) -> Any:
            connection = ensure(self, *args, **options)
            asyncio.run_coroutine_threadsafe(fall_silent(), loop).result(20)
            return connection

        monkeypatch.setattr(Connection, "ensure_connection", ensure_connection)
        with pytest.raises(kombu.exceptions.OperationalError, match="timed out"):
            async with asyncio.timeout(20):
                await add.aapply_async((1,), retry=False)


async def test_each_loop_has_a_connection(rabbitmq_url: str) -> None:
    app = make_app(rabbitmq_url)
    broker: Any = publisher_of(app).broker

    async def send() -> None:
        await app.tasks["add"].adelay(1)

    def elsewhere() -> None:
        asyncio.run(send())  # and leaves it open

    async with sending(app) as add:
        await asyncio.to_thread(elsewhere)
        async with asyncresult.connect(app):
            await add.adelay(1)
            (connecting,) = broker._by_loop.values()
            assert connecting._connection.connected
        assert not broker._by_loop  # closed with the backend
    assert len(received(rabbitmq_url, "celery")) == 2
