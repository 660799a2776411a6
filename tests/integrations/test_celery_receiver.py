"""The thread that receives replies, step by step: what it acknowledges, and when it ends."""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from amqp.exceptions import AccessRefused, PreconditionFailed

from asyncresult.errors import BackendError, BackendPermissionError
from asyncresult.integrations.celery import receiver as module
from asyncresult.integrations.celery.receiver import Receiver, _Stop


class Message:
    def __init__(self) -> None:
        self.acks: list[bool] = []

    def ack(self, *, multiple: bool = False) -> None:
        self.acks.append(multiple)


def receiver(take: Any = lambda message: None, app: Any = None) -> Receiver:
    return Receiver(app, queue="replies", expires=60, heartbeat=10, take=take, refused=lambda error: None)


def test_a_reply_that_cannot_be_taken_is_logged_and_acknowledged(caplog: pytest.LogCaptureFixture) -> None:
    def broken(message: Any) -> None:
        raise ZeroDivisionError

    made, message = receiver(broken), Message()
    made._on_message(message)
    assert message.acks == [False]
    (record,) = caplog.records
    assert (record.levelno, record.__dict__["event"]) == (logging.ERROR, "reply refused")


def test_amqp_is_sent_one_acknowledgement_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ACK_BATCH", 3)
    made, messages = receiver(), [Message() for _ in range(4)]
    made._acks_many = True
    for message in messages:
        made._on_message(message)
    assert [message.acks for message in messages] == [[], [], [True], []]
    made._acknowledge()
    made._acknowledge()
    assert messages[3].acks == [True]


def test_a_timeout_of_the_operating_system_is_a_lost_connection() -> None:
    def drain_events(timeout: float) -> None:
        raise TimeoutError(110, "Connection timed out")

    with pytest.raises(TimeoutError):
        receiver()._drain(SimpleNamespace(supports_heartbeats=False, drain_events=drain_events))


def test_a_queue_that_celery_named_is_received_from_too() -> None:
    consumed: list[str] = []
    made = receiver()

    def drain_events(timeout: float) -> None:
        made._others.append("celerys")
        made._stopping.set()

    made._consumer = SimpleNamespace(
        consuming_from=lambda name: False,
        add_queue=lambda queue: consumed.append(queue.name),
        consume=lambda: consumed.append("begun"),
    )
    made._drain(SimpleNamespace(supports_heartbeats=False, drain_events=drain_events))
    assert consumed == ["celerys", "begun"]


def test_it_ends_while_it_tries_to_connect() -> None:
    began = threading.Event()

    def ensure_connection(*, errback: Any, callback: Any, **_: Any) -> None:
        began.set()
        while True:
            callback()

    connection = SimpleNamespace(transport_cls="pyamqp", ensure_connection=ensure_connection, collect=lambda: None)
    made = receiver(app=SimpleNamespace(connection_for_write=lambda heartbeat: connection))
    made.start()
    made.start()  # harmless
    assert began.wait(20)
    made.stop(timeout=20)
    assert not made.running
    with pytest.raises(_Stop):
        made._not_connected(BackendError("away"), 0.1)


def test_what_ends_a_connection_is_logged_at_each_doubling_and_a_refusal_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "REFUSED_DELAY", 0)
    monkeypatch.setattr(module, "RETRY_START", 0)
    endings = [AccessRefused("who"), PreconditionFailed("other arguments"), OSError("away"), _Stop()]
    reported: list[BackendError] = []

    def receive(connection: Any) -> None:
        made.declared = True
        raise endings.pop(0)

    connection = SimpleNamespace(collect=lambda: None)
    app = SimpleNamespace(connection_for_write=lambda heartbeat: connection)
    made = Receiver(app, queue="replies", expires=60, heartbeat=10, take=print, refused=reported.append)
    monkeypatch.setattr(made, "_receive", receive)
    made._run()
    assert [type(error) for error in reported] == [BackendPermissionError, BackendError]
    assert all("refuses the reply queue 'replies'" in str(error) for error in reported)
    assert made.last_error == "OSError: away"
    assert not made.declared
    assert [record.args[0] for record in caplog.records if isinstance(record.args, tuple)] == [1, 2]
    made._not_connected(OSError("still away"), 0.1)
    assert made.last_error == "OSError: still away"
