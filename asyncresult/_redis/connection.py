"""redis-py, configured: everything that asks or stores goes through a connection that is made here.

Nothing is left to redis-py's defaults, which differ between 6.4 and 8 (retries, timeouts, protocol).
"""

from __future__ import annotations

import asyncio
from typing import Any

import hiredis
import redis
import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from ..errors import BackendUnavailable
from ..version import __version__
from .options import Options, cert_reqs
from .pump import Command
from .subscriber import Address

__all__ = ["LIBRARY", "Line", "ask", "credentials"]

#: Seconds for a question to a server that may be gone.
ASK_TIMEOUT = 1.0
#: Seconds of getting replies after which the time for silence begins anew.
ENOUGH_TO_GO_ON = 0.5
#: What CLIENT LIST shows of us.
LIBRARY = ("asyncresult", __version__)
_library_for_redis_py: dict[str, Any]
if hasattr(redis, "DriverInfo"):
    _library_for_redis_py = {"driver_info": redis.DriverInfo(*LIBRARY)}
else:  # redis-py before 7.2
    _library_for_redis_py = {"lib_name": LIBRARY[0], "lib_version": LIBRARY[1]}


class Line:
    """One redis-py connection, opened at the first round trip and again after it was lost.

    Without redis-py's client, pool and pipelines: their bookkeeping, and a timeout for each reply, cost more than all
    the rest of a store (benchmarks: store, store-each).

    Args:
        timeout: Seconds of silence after which a round trip has failed, unless the options say otherwise.
    """

    def __init__(self, options: Options, address: Address, *, timeout: float) -> None:
        provider = options.credential_provider
        self._timeout = options.socket_timeout or timeout
        self._retry = None if isinstance(options.retry, (int, float)) else options.retry
        kwargs: dict[str, Any] = {
            "db": options.db,
            "username": options.username,
            "password": options.password,
            "credential_provider": _Credentials(provider) if provider is not None else None,
            "client_name": options.client_name,
            **_library_for_redis_py,
            # Set explicitly: the defaults of redis-py differ between 6.4 and 8.
            "protocol": 2,
            "socket_timeout": None,  # one for the round trip is ours
            "socket_connect_timeout": options.connect_timeout,
            "retry": self._retry or Retry(NoBackoff(), 0),
            "health_check_interval": 0,
        }
        self._connection: Any  # redis-py's annotations stop half-way
        if address.path is not None:
            self._connection = aioredis.UnixDomainSocketConnection(path=address.path, **kwargs)
        elif options.tls:
            kwargs |= {"host": address.host, "port": address.port, **_redis_py_ssl(options)}
            self._connection = aioredis.SSLConnection(**kwargs)
        else:
            self._connection = aioredis.Connection(host=address.host, port=address.port, **kwargs)
        # Before redis-py 8 the question has another name: what it finds may be lost then, and so is the connection.
        self._is_stale = getattr(self._connection, "can_read", self._connection.can_read_destructive)

    async def execute(self, commands: list[Command]) -> list[Any]:
        """One round trip. Replies of single commands may be errors.

        Raises:
            redis.exceptions.RedisError, OSError: The others have no replies.
        """
        if self._retry is None:
            return await self._round_trip(commands)

        async def hang_up(_: Exception) -> None:
            await self.disconnect()

        replies: list[Any] = await self._retry.call_with_retry(lambda: self._round_trip(commands), hang_up)
        return replies

    async def _round_trip(self, commands: list[Command]) -> list[Any]:
        if not commands:
            return []  # asyncio's transports never close after writing nothing (Python 3.12 and later)
        connection = self._connection
        if connection.is_connected and await self._lost_or_out_of_step():
            await connection.disconnect()
        if not connection.is_connected:
            await connection.connect()
        replies: list[Any] = []
        read, clock = connection.read_response, asyncio.get_running_loop().time
        try:
            # Cancelled, at the end of its time as by anybody else, redis-py closes the connection.
            async with asyncio.timeout(self._timeout) as silence:
                # Packed in C: the asyncio connections of redis-py do it in Python (benchmarks: fetch, store).
                await connection.send_packed_command(b"".join(map(hiredis.pack_command, commands)))
                began = clock()
                for _ in commands:
                    try:
                        replies.append(await read())
                    except ResponseError as error:
                        replies.append(error)
                    if clock() - began > ENOUGH_TO_GO_ON:
                        began = clock()
                        silence.reschedule(began + self._timeout)
        except RuntimeError as error:
            if "handler is closed" not in str(error):
                raise
            # uvloop's word for writing to a connection that was lost a moment ago; redis-py does not know it.
            raise ConnectionResetError(str(error)) from error
        return replies

    async def _lost_or_out_of_step(self) -> bool:
        """Whether there is something to read, though nothing was asked."""
        try:
            return bool(await self._is_stale())
        except (RedisError, OSError):
            return True

    async def disconnect(self) -> None:
        """Close the connection, also when the caller is cancelled meanwhile: redis-py would then leave it open."""
        await asyncio.shield(self._connection.disconnect())


async def ask(options: Options, address: Address, *questions: Command) -> list[Any]:
    """Ask one server on a connection of its own, within a short time.

    Raises:
        redis.exceptions.RedisError, OSError: Nobody answers there, or not us.
    """
    line = Line(options, address, timeout=ASK_TIMEOUT)
    try:
        async with asyncio.timeout(ASK_TIMEOUT):
            return await line.execute(list(questions))
    finally:
        await line.disconnect()


async def credentials(provider: CredentialProvider) -> tuple[str | None, str]:
    """User and password from the provider.

    Raises:
        BackendUnavailable: The provider failed. What it said may hold a secret, and is left out.
    """
    try:
        given = await provider.get_credentials_async()
        username, password = given if len(given) == 2 else (None, given[0])
    except Exception as error:
        raise BackendUnavailable(f"the credential provider failed: {type(error).__name__}") from None
    return username or None, password


def _redis_py_ssl(options: Options) -> dict[str, Any]:
    """The TLS options in redis-py's own names and spelling."""
    return {**options.ssl_options, "ssl_cert_reqs": cert_reqs(options.ssl_options.get("ssl_cert_reqs", "required"))}


class _Credentials(CredentialProvider):
    """The user's provider without its stream, which the backend hears: redis-py would take it over."""

    def __init__(self, provider: CredentialProvider) -> None:
        self._provider = provider

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        try:
            username, password = await credentials(self._provider)
        except BackendUnavailable as error:
            raise RedisConnectionError(str(error)) from None  # redis-py hangs up at its own errors only
        return (username, password) if username else (password,)
