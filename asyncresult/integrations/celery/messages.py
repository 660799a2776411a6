"""Messages as kombu makes them, without a connection of kombu's.

Celery and kombu make the whole message: routing, headers, signals, declarations, priorities. Only what a channel of
kombu's writes with is ours, and collects instead of sending (:mod:`.redis_messages`, :mod:`.amqp_messages`). So what is
sent is kombu's by construction, whatever its version.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from ..._storage.notes import Note

if TYPE_CHECKING:
    from .._untyped import Untyped as Producer
else:
    from kombu.messaging import Producer

__all__ = ["Composer", "Fields", "Message", "UnsupportedBroker", "composing", "use_composers"]

#: The composer that collects what is published in this context, if any.
composing: ContextVar[Composer | None] = ContextVar("asyncresult_celery_composing", default=None)


class UnsupportedBroker(Exception):
    """The app's broker is none that messages can be sent to without kombu's own connection; the text says why."""


class Message(NamedTuple):
    """What Celery gave kombu's producer of a message.

    Attributes:
        patience: For how many seconds to try; None is forever.
        body: What is serialized.
        serializer: The name of what does it.
        compression: That of what compresses it; None or empty where nothing does.
    """

    patience: float | None
    body: Any
    serializer: str
    compression: str | None


class Fields(NamedTuple):
    """What differs between messages of the same task and options.

    Attributes:
        id: The task's id.
        args: How its arguments are shown.
        kwargs: How those by name are shown.
        body: The serialized body.
    """

    id: str
    args: str
    kwargs: str
    body: Any


class _Producer(Producer):
    """A producer of kombu's that retries nothing, as it sends nothing, and keeps what its caller knows."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self.messages: list[Message] = []
        self.notes: list[Note] = []

    def publish(self, body: Any, *args: Any, retry: bool = False, retry_policy: Any = None, **options: Any) -> Any:
        result = super().publish(body, *args, **options)  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
        patience = _patience(retry_policy or {}) if retry else 0.0
        serializer, compression = options.get("serializer") or self.serializer, options.get("compression")
        self.messages.append(Message(patience, body, serializer, compression or self.compression))
        return result


class Composer:
    """Collects what an app publishes, in one thread at a time.

    Args:
        app: The Celery app.
        transport: A transport class of kombu's, whose channels collect: they have ``take`` and ``form``.
    """

    def __init__(self, app: Any, transport: type) -> None:
        self.app = app
        connection = app.connection_for_write()
        connection.transport_cls = transport
        self._connection = connection
        self.producer: _Producer = _Producer(connection)
        self.channel: Any = self.producer.channel

    def take(self) -> tuple[list[Any], list[Message], list[Note]]:
        """The commands, messages and notes about them that were collected since the last call."""
        messages, self.producer.messages = self.producer.messages, []
        notes, self.producer.notes = self.producer.notes, []
        return self.channel.take(), messages, notes


def use_composers(app: Any) -> None:
    """Have Celery publish through the composer of the context, wherever it would take a producer of the app's pool."""
    if "producer_or_acquire" in vars(app):
        return
    acquire = app.producer_or_acquire

    def producer_or_acquire(producer: Any = None) -> Any:
        composer = composing.get()
        if producer is None and composer is not None and composer.app is app:
            return nullcontext(composer.producer)
        return acquire(producer)

    app.producer_or_acquire = producer_or_acquire


def _patience(policy: Mapping[str, Any]) -> float | None:
    """Seconds over which kombu would try again.

    Source: kombu/utils/functional.py (5.5 to 5.7), retry_over_time; kombu/connection.py, Connection.ensure.
    """
    retries = policy.get("max_retries")
    if retries is None:
        return None
    start, step, most = (policy.get(f"interval_{name}", 1) for name in ("start", "step", "max"))
    total, pause = 0.0, start
    for _ in range(min(int(retries), 1000)):
        total += min(pause, most)
        pause += step
    return float(total)
