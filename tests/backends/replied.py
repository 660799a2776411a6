"""``rpc://`` for the contract of the handles: what a test stores is sent, as a reply, by the broker of the app.

A worker is who replies, and :class:`RpcBackend` refuses to. Here it is made to, so that every record of a test goes
the way that those of workers go: a message, the queue, the receiver's thread, the records.
"""

from __future__ import annotations

import asyncio
from typing import Any

from celery import Celery
from kombu import Connection, Producer

from asyncresult import Backend
from asyncresult._storage.engine import Engine
from asyncresult._storage.keys import HISTORY
from asyncresult._storage.store import Store
from asyncresult.integrations.celery.replies import Replies
from asyncresult.integrations.celery.rpc import RpcBackend, RpcDriver, RpcEngine, replies_of
from tests.tools.celery_app import close_app

__all__ = ["ReplyingApp", "ReplyingBackend"]

#: Kombu's transport in memory looks for messages so often, in seconds.
POLLING_INTERVAL = 0.002


class ReplyingApp(Celery):  # type: ignore[misc]
    """An app whose broker is in this process."""

    def __init__(self) -> None:
        super().__init__("replies", broker="memory://", backend="rpc://", set_as_current=False)
        self.conf.broker_transport_options = {"polling_interval": POLLING_INTERVAL}

    def end(self) -> None:
        replies = getattr(self, "_asyncresult_replies", None)
        if replies is not None:
            replies.close()
        close_app(self)


class ReplyingBackend(RpcBackend):
    """One that replies to itself."""

    def __init__(self, app: Celery, **options: Any) -> None:
        super().__init__(replies_of(app, lambda app: ReplyingBackend(app)), **options)
        self.driver = _Driver(self.replies)
        if options:
            self.replies.rules = self  # as connect(app) has it

    _store = Store._store  # type: ignore[assignment]
    track = Backend.track  # type: ignore[assignment]


class _Driver(RpcDriver):
    def start_engine(self, store: Store) -> Engine:
        return _Engine(store, self.replies)


class _Engine(RpcEngine):
    def __init__(self, backend: Store, replies: Replies) -> None:
        super().__init__(backend, replies)
        self._connection = Connection("memory://")
        self._producer = Producer(self._connection.channel())

    def store(self, key: bytes, payload: bytes, status: str, expires: float | None, **_: Any) -> asyncio.Future[bool]:
        """Send it; whether it was kept is known once it was received."""
        return asyncio.ensure_future(self._reply(key, payload))

    async def _reply(self, key: bytes, payload: bytes) -> bool:
        receiver: Any = self.replies.receiver
        receiver.sent = number = getattr(receiver, "sent", receiver.received) + 1
        id = self._task_of(key)
        receiver.declare(self._producer.channel)  # as whoever sends a task does
        self._producer.publish(
            payload,
            routing_key=self.replies.queue,
            correlation_id=id,
            content_type="application/json",
            content_encoding="utf-8",
        )
        while receiver.received < number:
            await asyncio.sleep(POLLING_INTERVAL)
        kept = self.replies.records.history(self._backend.key_beside(id, HISTORY), "0")
        return any(payload == state for _, state in kept)

    async def aclose(self, timeout: float) -> None:
        await super().aclose(timeout)
        self._connection.close()
