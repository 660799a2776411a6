"""Messages as kombu makes them, without a connection of kombu's.

Celery and kombu make the whole message: routing, headers, signals, declarations, priorities, the binding tables of
exchanges. Only the Redis client at the end of a channel is ours, which collects commands instead of sending them. So
what is sent is kombu's by construction, whatever its version.

A queue behind a named exchange is found in a table on the server: there kombu would read, and wait. Such a message is
completed, and waits as a :class:`Routed` until somebody has read the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from kombu.transport import redis as transports
from redis.commands.core import CoreCommands

from ..._storage.notes import Note

if TYPE_CHECKING:
    from .._untyped import Untyped as Producer
else:
    from kombu.messaging import Producer

__all__ = ["Composer", "Message", "Routed", "UnsupportedBroker", "composing", "use_composers"]

Command = tuple[Any, ...]

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


class Routed:
    """A message for a named exchange, whose queues are in a table on the server."""

    def __init__(self, channel: Any, message: Any, exchange: str, routing_key: str, options: dict[str, Any]) -> None:
        self._channel = channel
        self._deliver = (message, exchange, routing_key)
        self._options = options
        self.exchange = exchange

    def question(self) -> Command:
        """The command that reads the table."""
        (command,) = self._channel.collected(lambda: self._channel.get_table(self.exchange))
        return tuple(command)

    def commands(self, table: Any) -> list[Command]:
        """The commands that deliver it, by the answer."""

        def deliver() -> None:
            self._channel.typeof(self.exchange).deliver(*self._deliver, **self._options)

        collected: list[Command] = self._channel.collected(deliver, table)
        return collected


if TYPE_CHECKING:
    _Commands: Any = object
else:
    _Commands = CoreCommands


class _Client(_Commands):  # type: ignore[misc]
    """In place of redis-py's client, and of its pipelines: collects the commands."""

    def __init__(self) -> None:
        self.commands: list[Any] = []
        self.table: Any = None

    def execute_command(self, *words: Any, **_: Any) -> Any:
        name = words[0]
        if name == "SMEMBERS" and self.table is not None:
            return self.table
        if name == "EVALSHA":
            words = ("EVAL", *words[1:])
        if name not in ("PING", "LLEN"):  # is anybody there, and how long is a queue that has just been declared
            self.commands.append(words)
        return () if name == "SMEMBERS" else self

    def register_script(self, script: str) -> Any:
        def run(keys: Sequence[Any] = (), args: Sequence[Any] = (), client: Any = None) -> None:
            self.execute_command("EVALSHA", script, len(keys), *keys, *args)

        return run

    def pipeline(self, *_: object, **__: object) -> _Client:
        return self

    def execute(self) -> list[Any]:
        return []

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None: ...


class _PrefixedClient(transports.GlobalKeyPrefixMixin, _Client):  # pyright: ignore[reportIncompatibleMethodOverride]
    """The same with a ``global_keyprefix``, which kombu's own code puts in front."""

    pipeline = _Client.pipeline

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.global_keyprefix = prefix


class _Collecting:
    """In front of a channel class of kombu's."""

    _collector: _Client | None = None

    def _create_client(self, asynchronous: bool = False) -> _Client:
        if self._collector is None:
            channel: Any = self
            _ = channel.pool  # connects nothing, and puts the number of the database into the prefix of fanouts
            prefix = channel.global_keyprefix
            self._collector = _PrefixedClient(prefix) if prefix else _Client()
        return self._collector

    def basic_publish(self, message: Any, exchange: str, routing_key: str, **options: Any) -> Any:
        channel: Any = self
        if not exchange or channel.typeof(exchange).type == "fanout":
            return super().basic_publish(message, exchange, routing_key, **options)  # type: ignore[misc]
        channel._inplace_augment_message(message, exchange, routing_key)
        self._create_client().commands.append(Routed(self, message, exchange, routing_key, options))
        return None

    def collected(self, act: Any, table: Any = None) -> list[Command]:
        """The commands of one act, apart from others."""
        client = self._create_client()
        others, client.commands, client.table = client.commands, [], table
        try:
            act()
            return client.commands
        finally:
            client.commands, client.table = others, None


class _Channel(_Collecting, transports.Channel):
    """A channel of kombu's Redis transport that sends nothing."""


class _SentinelChannel(_Collecting, transports.SentinelChannel):
    """The same for Sentinel."""


class _Transport(transports.Transport):
    Channel = _Channel


class _SentinelTransport(transports.SentinelTransport):
    Channel = _SentinelChannel


_COLLECTING = {transports.Transport: _Transport, transports.SentinelTransport: _SentinelTransport}


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

    Raises:
        UnsupportedBroker: Its broker is not Redis, or a kind of it that is not known.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        connection = app.connection_for_write()
        transport = connection.get_transport_cls()
        if transport not in _COLLECTING:
            raise UnsupportedBroker(f"the broker's transport is {transport.__module__}.{transport.__qualname__}")
        self.is_sentinel: bool = transport is transports.SentinelTransport
        if len(connection.alt) > 1 and not self.is_sentinel:
            raise UnsupportedBroker("there is more than one broker URL")
        connection.transport_cls = _COLLECTING[transport]
        self._connection = connection
        self.producer: _Producer = _Producer(connection)
        self.channel: Any = self.producer.channel

    def take(self) -> tuple[list[Any], list[Message], list[Note]]:
        """The commands, messages and notes about them that were collected since the last call."""
        client = self.channel._create_client()
        commands, client.commands = client.commands, []
        messages, self.producer.messages = self.producer.messages, []
        notes, self.producer.notes = self.producer.notes, []
        return commands, messages, notes


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
