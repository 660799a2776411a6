"""Messages for RabbitMQ as kombu makes them, without a connection of kombu's.

Kombu's channel and py-amqp's methods make everything: properties, headers, frames. Their connection is never opened,
and its frames are collected. Queues and exchanges are collected as calls, to be made on a channel that is open.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from operator import methodcaller
from struct import pack
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from amqp import spec
from amqp.protocol import queue_declare_ok_t
from amqp.serialization import dumps
from celery.utils import uuid
from kombu.transport import pyamqp

from .messages import Fields

if TYPE_CHECKING:
    from .._untyped import Untyped as StockChannel
    from .._untyped import Untyped as StockConnection
    from .._untyped import Untyped as StockMessage
    from .._untyped import Untyped as StockSSLTransport
    from .._untyped import Untyped as StockTransport
else:
    from amqp import Connection as StockConnection
    from amqp import Message as StockMessage
    from kombu.transport.pyamqp import Channel as StockChannel
    from kombu.transport.pyamqp import SSLTransport as StockSSLTransport
    from kombu.transport.pyamqp import Transport as StockTransport

__all__ = ["CHANNEL", "COLLECTING", "Declaration", "FrameForm", "Publication"]

#: The number of the channel on which all messages are published: the first of a connection.
CHANNEL = 1
#: Bytes of a frame that each broker takes (AMQP 0-9-1, 1.4.1, "frame-min-size"): which it is, is not known yet.
FRAME_MAX = 4096

#: Bytes of a mark in the place of a text.
_MARK = len(uuid())

#: Declares something on the channel of kombu's that it is given.
Declaration = Callable[[Any], Any]


class Publication(NamedTuple):
    """A message, ready to be written.

    Attributes:
        frames: What is written.
        exchange: The name of the exchange; empty for the default one.
        returned_as: Its correlation id, if the broker is to return it where no queue takes it (``mandatory``).
    """

    frames: bytes
    exchange: str
    returned_as: str | None = None


class _Content(StockMessage):
    """What py-amqp needs of a message whose properties are serialized already."""

    def __init__(self, properties: bytes, body: bytes) -> None:
        super().__init__(body)
        self._serialized = properties

    def _serialize_properties(self) -> bytes:
        return self._serialized


class _Channel(StockChannel):
    """A channel of kombu's that sends nothing."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._collected: list[Any] = []

    def open(self) -> None: ...

    def exchange_declare(self, *args: Any, **options: Any) -> None:
        self._collected.append(methodcaller("exchange_declare", *args, **options))

    def exchange_bind(self, *args: Any, **options: Any) -> None:
        self._collected.append(methodcaller("exchange_bind", *args, **options))

    def queue_declare(self, queue: str, *args: Any, **options: Any) -> Any:
        self._collected.append(methodcaller("queue_declare", queue, *args, **options))
        return queue_declare_ok_t(queue, 0, 0)

    def queue_bind(self, *args: Any, **options: Any) -> None:
        self._collected.append(methodcaller("queue_bind", *args, **options))

    def basic_publish(
        self,
        message: Any,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool = False,
        immediate: bool = False,
        **_: Any,
    ) -> None:
        arguments = dumps("Bssbb", (0, exchange, routing_key, mandatory, immediate))
        body = message.body
        if isinstance(body, str):
            body = body.encode(message.properties.setdefault("content_encoding", "utf-8"))
        properties = message._serialize_properties()
        returned_as = str(message.properties.get("correlation_id")) if mandatory else None
        self._collected.append(Publication(self.frames(arguments, properties, body), exchange, returned_as))
        self._latest = arguments, message.properties

    def frames(self, arguments: bytes, properties: bytes, body: bytes) -> bytes:
        """What is written for a message, from its serialized parts."""
        frames: bytes = self.connection.written(1, CHANNEL, spec.Basic.Publish, arguments, _Content(properties, body))
        return frames

    def take(self) -> list[Any]:
        """The declarations and messages that were collected since the last call."""
        collected, self._collected = self._collected, []
        return collected

    def form(self, commands: Sequence[Any], task_id: str) -> FrameForm | None:
        """The form of the one message among the commands, the last that was made; None where there are others."""
        return FrameForm.of(self, commands, *self._latest, task_id)


class _Connection(StockConnection):
    """A connection of py-amqp's that is never opened."""

    Channel = _Channel

    def __init__(self) -> None:
        super().__init__(frame_max=FRAME_MAX)
        self._frames = bytearray()
        self._write = self.frame_writer_cls(self, self)

    def write(self, data: Any) -> None:
        """Take what would be sent."""
        self._frames += data

    def written(self, *method: Any) -> bytes:
        """What is written for a method."""
        self._write(*method)
        frames, self._frames = bytes(self._frames), bytearray()
        return frames


class _Collecting:
    def establish_connection(self) -> _Connection:
        connection = _Connection()
        transport: Any = self
        connection.client = transport.client
        return connection

    def verify_connection(self, connection: Any) -> bool:
        return True


class _Transport(_Collecting, StockTransport): ...


class _SSLTransport(_Collecting, StockSSLTransport): ...


#: What replaces each transport of kombu's.
COLLECTING: dict[type, type] = {pyamqp.Transport: _Transport, pyamqp.SSLTransport: _SSLTransport}


class FrameForm(NamedTuple):
    """The bytes of a message, with places for what is new in each.

    Attributes:
        channel: The channel of kombu's that has declared its queue.
        exchange: As in :class:`Publication`.
        arguments: Those of the method that publishes.
        before: The serialized properties in front of the headers.
        encoding: That of a body that is text.
        headers: Pieces of the headers, and between them the names of fields of :class:`.messages.Fields`.
        after: Pieces of the properties behind the headers, between which the id is.
    """

    channel: Any
    exchange: str
    arguments: bytes
    encoding: str
    before: bytes
    headers: tuple[Any, ...]
    after: tuple[bytes, bytes]

    @classmethod
    def of(
        cls, channel: Any, commands: Sequence[Any], arguments: bytes, properties: dict[str, Any], task_id: str
    ) -> Self | None:
        """That of a message; None where it is not as Celery's are, or its queue is declared first."""
        headers = properties.get("application_headers") or {}
        if len(commands) != 1 or commands[0].returned_as is not None:
            return None
        if not {"id", "root_id", "argsrepr", "kwargsrepr"} <= headers.keys():  # protocol 1
            return None
        if any(value != task_id for value in (headers["id"], headers["root_id"], properties.get("correlation_id"))):
            return None
        marks = {name: uuid() for name in ("id", "args", "kwargs")}
        marked = headers | {
            "id": marks["id"],
            "root_id": marks["id"],
            "argsrepr": marks["args"],
            "kwargsrepr": marks["kwargs"],
        }
        table = dumps("F", (marked,))
        message: Any = StockMessage(**properties | {"application_headers": marked, "correlation_id": marks["id"]})
        before, _, after = message._serialize_properties().partition(table)
        names = {mark.encode(): name for name, mark in marks.items()}
        pieces = re.split(b"S" + re.escape(pack(">I", _MARK)) + b"(" + b"|".join(names) + b")", table[4:])
        first, second = after.split(bytes((_MARK,)) + marks["id"].encode())
        parts = tuple(names.get(piece, piece) for piece in pieces)
        encoding = properties.get("content_encoding") or "utf-8"
        return cls(channel, commands[0].exchange, arguments, encoding, before, parts, (first, second))

    def fill(self, fields: Fields) -> Publication | None:
        """Another message; None where its id is too long for one."""
        task_id = fields.id.encode("utf-8", "surrogatepass")
        if len(task_id) > 255:
            return None
        headers = b"".join(_long(getattr(fields, part)) if type(part) is str else part for part in self.headers)
        first, second = self.after
        properties = b"".join(
            (self.before, pack(">I", len(headers)), headers, first, bytes((len(task_id),)), task_id, second)
        )
        body = fields.body.encode(self.encoding) if isinstance(fields.body, str) else fields.body
        return Publication(self.channel.frames(self.arguments, properties, body), self.exchange)

    def gives(self, commands: Sequence[Any], fields: Fields) -> bool:
        """Whether the form gives a message that Celery and kombu have made."""
        return [self.fill(fields)] == commands


def _long(text: str) -> bytes:
    """A text as a value in a table. Source: amqp/serialization.py (5.2 to 5.4), _write_item."""
    value = text.encode("utf-8", "surrogatepass")
    return pack(">cI", b"S", len(value)) + value
