"""Redis and Valkey servers, by commands of their own: that of a backend, or any node by its address."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from .._redis.address import Address
from .._redis.connection import Patience, query
from .._redis.errors import reply_error, typed_error
from .._redis.exceptions import RedisError
from .._redis.options import Options
from ..backend import Backend
from ..errors import BackendError

__all__ = ["Refused", "Server", "Word", "fields_of_reply", "text_of"]

Word = str | bytes | int


class Refused(Exception):
    """The server knows no such command, or does not allow it. Its text names no secret."""


class Server:
    """Commands to a server.

    Args:
        send: Sends one, and gives the reply.
        name: The server's address.
    """

    def __init__(self, send: Callable[..., Awaitable[Any]], name: str) -> None:
        self._send = send
        self.name = name
        self._facts: dict[str, str] | None = None

    @classmethod
    def of(cls, backend: Backend) -> Server:
        """The server of a backend; in a cluster, one of its nodes."""
        return cls(backend.command, str(backend))

    @classmethod
    def at(cls, options: Options, address: Address) -> Server:
        """The server at an address, on a connection of its own for each command."""
        patience = Patience(options.connect_timeout)

        async def send(*words: Word) -> Any:
            try:
                (reply,) = await query(options, address, options.ssl_context(), words, patience=patience)
            except (RedisError, OSError) as error:
                raise typed_error(error, str(address)) from error
            if (refusal := reply_error(reply, address)) is not None:
                raise refusal
            return reply

        return cls(send, str(address))

    async def call(self, *words: Word) -> Any:
        """The reply to one command.

        Raises:
            Refused: The server answered with an error, or there is none that takes commands.
            BackendUnavailable: It did not answer.
        """
        try:
            return await self._send(*words)
        except BackendError as error:
            if isinstance(error, ConnectionError):
                raise
            raise Refused(str(error)) from error

    async def try_call(self, *words: Word) -> Any:
        """The reply, or None where the server refuses."""
        try:
            return await self.call(*words)
        except Refused:
            return None

    async def facts(self, *words: Word) -> dict[str, str]:
        """A reply of lines ``name:value``, as INFO gives it; empty where the server refuses."""
        text = text_of(await self.try_call(*words)) or ""
        pairs = (line.strip().partition(":") for line in text.splitlines() if ":" in line)
        return {name: value for name, _, value in pairs}

    async def info(self) -> dict[str, str]:
        """INFO, read once."""
        if self._facts is None:
            self._facts = await self.facts("INFO", "everything")
        return self._facts

    async def fields(self, *words: Word) -> dict[str, str]:
        """A reply of names and values in turn, as CONFIG GET and SENTINEL MASTER give it. Raises as :meth:`call`."""
        return fields_of_reply(await self.call(*words))

    async def setting(self, name: str) -> str | None:
        """One setting by CONFIG GET; None where that is not allowed, as with most hosted servers."""
        try:
            return (await self.fields("CONFIG", "GET", name)).get(name)
        except Refused:
            return None


def fields_of_reply(reply: Any) -> dict[str, str]:
    """Names and values in turn, as a mapping."""
    values = [text_of(value) or "" for value in reply] if isinstance(reply, list) else []
    return dict(zip(values[::2], values[1::2], strict=False))


def text_of(value: Any) -> str | None:
    """A reply as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value if isinstance(value, str) else None
