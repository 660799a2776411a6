"""Messages for Redis as kombu makes them, without a connection of kombu's.

Only the Redis client at the end of a channel is ours, which collects commands instead of sending them: declarations,
priorities and the binding tables of exchanges are kombu's.

A queue behind a named exchange is found in a table on the server: there kombu would read, and wait. Such a message is
completed, and waits as a :class:`Routed` until somebody has read the table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as _quoted  # what kombu's JSON makes of text
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from celery.utils import uuid
from kombu.transport import redis as transports
from kombu.utils import json as kombu_json
from redis.commands.core import CoreCommands

from .messages import Fields

__all__ = ["COLLECTING", "Routed", "TextForm"]

Command = tuple[Any, ...]

#: What kombu writes messages with.
_json: Any = kombu_json


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

    def take(self) -> list[Any]:
        """The commands that were collected since the last call."""
        client = self._create_client()
        commands, client.commands = client.commands, []
        return commands

    def form(self, commands: Sequence[Any], task_id: str) -> TextForm | None:
        """The form of the one message among the commands; None where there are others."""
        return TextForm.of(self, commands, task_id)


class _Channel(_Collecting, transports.Channel):
    """A channel of kombu's Redis transport that sends nothing."""


class _SentinelChannel(_Collecting, transports.SentinelChannel):
    """The same for Sentinel."""


class _Transport(transports.Transport):
    Channel = _Channel


class _SentinelTransport(transports.SentinelTransport):
    Channel = _SentinelChannel


#: What replaces each transport of kombu's.
COLLECTING: dict[type, type] = {transports.Transport: _Transport, transports.SentinelTransport: _SentinelTransport}


class TextForm(NamedTuple):
    """The text of a message, with places for what is new in each."""

    channel: Any
    key: str
    text: str

    @classmethod
    def of(cls, channel: Any, commands: Sequence[Any], task_id: str) -> Self | None:
        """That of a message; None where it is not as kombu's are, or its queue is declared first."""
        if len(commands) != 1 or commands[0][0] != "LPUSH" or len(commands[0]) != 3:
            return None
        _, key, text = commands[0]
        places = _with_places(text, task_id)
        return None if places is None else cls(channel, key, places)

    def fill(self, fields: Fields, tag: str | None = None) -> Command:
        """The command that sends another message."""
        values = {
            "id": _quoted(fields.id),
            "args": _quoted(fields.args),
            "kwargs": _quoted(fields.kwargs),
            "body": _quoted(self.channel.encode_body(fields.body, self.channel.body_encoding)[0]),
            "tag": _quoted(self.channel._next_delivery_tag() if tag is None else tag),
        }
        return ("LPUSH", self.key, self.text % values)

    def gives(self, commands: Sequence[Any], fields: Fields) -> bool:
        """Whether the form gives a message that Celery and kombu have made."""
        if len(commands) != 1 or len(commands[0]) != 3:
            return False
        tag = _json.loads(commands[0][2])["properties"]["delivery_tag"]
        return bool(self.fill(fields, tag) == commands[0])


def _with_places(text: str, task_id: str) -> str | None:
    """The text of a message with places for what is new in each; None where it is not as kombu's are."""
    message = _json.loads(text)
    if _json.dumps(message) != text:
        return None
    headers, properties, mark = message["headers"], message["properties"], uuid()
    if not {"id", "root_id", "argsrepr", "kwargsrepr"} <= headers.keys():  # protocol 1
        return None
    for fields, name, place in (
        (headers, "id", "id"),
        (headers, "root_id", "id"),
        (properties, "correlation_id", "id"),
        (headers, "argsrepr", "args"),
        (headers, "kwargsrepr", "kwargs"),
        (properties, "delivery_tag", "tag"),
        (message, "body", "body"),
    ):
        if place == "id" and fields.get(name) != task_id:
            return None
        fields[name] = mark + place
    marked = _json.dumps(message).replace("%", "%%")
    return re.sub(f'"{mark}([a-z]+)"', r"%(\1)s", marked)
