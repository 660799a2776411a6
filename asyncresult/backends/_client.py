"""redis-py, configured: everything that asks or stores goes through a client that is made here.

Nothing is left to redis-py's defaults, which differ between 6.4 and 8 (retries, timeouts, protocol).
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import redis
import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as RedisConnectionError

from .._connection import Address
from ..errors import BackendUnavailable
from ..version import __version__
from ._commands import Command
from ._options import Options, cert_reqs

__all__ = ["LIBRARY", "ask", "credentials", "disconnect", "make_client", "pipelined"]

#: Seconds for a question to a server that may be gone.
ASK_TIMEOUT = 1.0
#: What CLIENT LIST shows of us.
LIBRARY = ("asyncresult", __version__)
_library_for_redis_py: dict[str, Any]
if hasattr(redis, "DriverInfo"):
    _library_for_redis_py = {"driver_info": redis.DriverInfo(*LIBRARY)}
else:  # redis-py before 7.2
    _library_for_redis_py = {"lib_name": LIBRARY[0], "lib_version": LIBRARY[1]}


def make_client(options: Options, address: Address, *, timeout: float) -> aioredis.Redis:
    """A redis-py client for one server; nothing is connected yet.

    Args:
        timeout: Seconds for one round trip, unless the options say otherwise.
    """
    provider = options.credential_provider
    common: dict[str, Any] = {
        "db": options.db,
        "username": options.username,
        "password": options.password,
        "credential_provider": _Credentials(provider) if provider is not None else None,
        "client_name": options.client_name,
        **_library_for_redis_py,
        # Set explicitly: the defaults of redis-py differ between 6.4 and 8.
        "protocol": 2,
        "socket_timeout": options.socket_timeout or timeout,
        "socket_connect_timeout": options.connect_timeout,
        "retry": Retry(NoBackoff(), 0) if isinstance(options.retry, (int, float)) else options.retry,
        "health_check_interval": 0,
    }
    if address.path is not None:
        pool = aioredis.ConnectionPool(connection_class=_UnixConnection, path=address.path, **common)
    elif options.tls:
        pool = aioredis.ConnectionPool(
            connection_class=_TlsConnection,
            host=address.host,
            port=address.port,
            **common,
            **_redis_py_ssl(options),
        )
    else:
        pool = aioredis.ConnectionPool(connection_class=_TcpConnection, host=address.host, port=address.port, **common)
    return aioredis.Redis(connection_pool=pool)


async def pipelined(client: aioredis.Redis, commands: list[Command]) -> list[Any]:
    """One round trip. Replies of single commands may be errors."""
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    try:
        return await pipeline.execute(raise_on_error=False)
    except RuntimeError as error:
        if "handler is closed" not in str(error):
            raise
        # uvloop's word for writing to a connection that was lost a moment ago; redis-py does not know it.
        raise ConnectionResetError(str(error)) from error


async def disconnect(client: aioredis.Redis) -> None:
    """Close its connections, also when the caller is cancelled meanwhile: redis-py would then leave them open."""
    await asyncio.shield(client.connection_pool.disconnect())


async def ask(options: Options, address: Address, *questions: Command) -> list[Any]:
    """Ask one server on a connection of its own, within a short time.

    Raises:
        redis.exceptions.RedisError, OSError: Nobody answers there, or not us.
    """
    client = make_client(options, address, timeout=ASK_TIMEOUT)
    try:
        async with asyncio.timeout(ASK_TIMEOUT):
            return await pipelined(client, list(questions))
    finally:
        await disconnect(client)


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


Connection = TypeVar("Connection", bound=aioredis.Connection | aioredis.UnixDomainSocketConnection)


def _packing(kind: type[Connection]) -> type[Connection]:
    """Packs commands in C. The asyncio connections of redis-py do it in Python (benchmarks: fetch, store)."""
    packing: type[Connection] = type(kind.__name__, (kind,), {"pack_command": staticmethod(_pack)})
    return packing


_pack = HiredisRespSerializer().pack
_TcpConnection = _packing(aioredis.Connection)
_UnixConnection = _packing(aioredis.UnixDomainSocketConnection)
_TlsConnection = _packing(aioredis.SSLConnection)
