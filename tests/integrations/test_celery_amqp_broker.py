"""RabbitMQ as the broker, where there is none: what is refused, and a connection that is opened for nobody."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from typing import Any
from unittest import mock

import pytest
from amqp.exceptions import ConnectionForced, PreconditionFailed
from celery import Celery

from asyncresult.integrations.celery import amqp_broker
from asyncresult.integrations.celery.amqp_broker import AmqpBroker
from asyncresult.integrations.celery.messages import UnsupportedBroker

pytestmark = pytest.mark.celery


def broker_of(*urls: str) -> AmqpBroker:
    app = Celery("amqp", broker=list(urls), set_as_current=False)
    return AmqpBroker(app, app.connection_for_write())


def test_urls_of_several_kinds() -> None:
    with pytest.raises(UnsupportedBroker, match="several kinds"):
        broker_of("amqp://one", "redis://two")


def test_a_system_whose_loops_take_over_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UnsupportedBroker, match="on Windows"):
        broker_of("amqp://one")


async def test_what_a_thread_opens_for_a_broker_that_is_closed_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    opening, go, collected = threading.Event(), threading.Event(), threading.Event()

    class Opened:
        def collect(self) -> None:
            collected.set()

    def open_slowly(app: Any) -> Opened:
        opening.set()
        go.wait(20)
        return Opened()

    monkeypatch.setattr(amqp_broker, "open_connection", open_slowly)
    connecting = broker_of("amqp://one")._connecting()
    waiting = asyncio.ensure_future(connecting.connection(None))
    while not opening.is_set():
        await asyncio.sleep(0.001)
    await connecting.aclose(1.0)
    with pytest.raises(ConnectionAbortedError, match="was closed"):
        await waiting
    go.set()
    while not collected.is_set():
        await asyncio.sleep(0.001)


async def test_closing_ends_a_send_that_tries_to_connect_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amqp_broker, "open_connection", mock.Mock(side_effect=ConnectionRefusedError))
    monkeypatch.setattr(amqp_broker, "RETRY_DELAY", 0.01)
    connecting = broker_of("amqp://one")._connecting()
    waiting = asyncio.ensure_future(connecting.connection(None))
    while connecting._attempt is None:
        await asyncio.sleep(0)
    while connecting._attempt is not None:
        await asyncio.sleep(0.001)
    await connecting.aclose(1.0)
    done, _ = await asyncio.wait([waiting], timeout=20)
    assert done and isinstance(waiting.exception(), ConnectionAbortedError)


async def test_loops_that_begin_and_end_in_other_threads_meanwhile() -> None:
    broker = broker_of("amqp://one")

    class Ended:
        def is_closed(self) -> bool:
            broker._by_loop.pop(self, None)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
            return True

    broker._by_loop = {Ended(): None, Ended(): None}  # type: ignore[dict-item]  # pyright: ignore[reportAttributeAccessIssue]
    assert broker._connecting() is broker._connecting()
    assert list(broker._by_loop) == [asyncio.get_running_loop()]


class FakeConnection:
    """Takes declarations, but for that of "mine"; at "stop" it is lost."""

    def __init__(self) -> None:
        self.preparing, self.declared, self.prepared = asyncio.Lock(), set[str](), 0
        self.asked: list[Any] = []

    async def declare(self, declarations: list[Any]) -> None:
        await asyncio.sleep(0)
        self.asked += declarations
        if "mine" in declarations:
            raise PreconditionFailed("inequivalent arg 'durable'")
        if "stop" in declarations:
            raise ConnectionForced("the broker is shut down")


async def test_what_others_declare_is_declared_once_and_what_is_refused_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A queue that was made with other settings meanwhile stops nothing; who declares it next gets the reason."""
    caplog.set_level(logging.DEBUG, "asyncresult")
    broker, connection = broker_of("amqp://one"), FakeConnection()
    prepare: Any = broker._prepare
    broker.composed(["mine", "other"])
    await asyncio.gather(*[prepare(connection, []) for _ in range(5)])
    assert connection.asked == ["mine", "other"]
    assert [(record.levelname, record.__dict__["event"]) for record in caplog.records] == [("DEBUG", "not declared")]
    with pytest.raises(PreconditionFailed):
        await prepare(connection, ["mine"])


async def test_what_a_lost_connection_did_not_declare_is_declared_on_the_next() -> None:
    broker = broker_of("amqp://one")
    prepare: Any = broker._prepare
    broker.composed(["stop"])
    for declarations in ["stop"], []:
        connection = FakeConnection()
        with pytest.raises(ConnectionForced):
            await prepare(connection, declarations)
        assert connection.asked == ["stop"]
