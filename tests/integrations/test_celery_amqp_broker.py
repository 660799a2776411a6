"""RabbitMQ as the broker, where there is none: what is refused, and a connection that is opened for nobody."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from typing import Any

import pytest
from amqp.exceptions import PreconditionFailed
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


async def test_what_is_not_declared_again_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A queue that was made with other settings meanwhile stops nothing; who declares it next gets the reason."""
    caplog.set_level(logging.DEBUG, "asyncresult")

    class Refusing:
        async def declare(self, declarations: list[Any]) -> None:
            if declarations == ["mine"]:
                raise PreconditionFailed("inequivalent arg 'durable'")

    broker = broker_of("amqp://one")
    broker._declared = {"mine": "mine", "other": "other"}  # type: ignore[dict-item]  # pyright: ignore[reportAttributeAccessIssue]
    await broker._declare_again(Refusing())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert [(record.levelname, record.__dict__["event"]) for record in caplog.records] == [("DEBUG", "not declared")]
