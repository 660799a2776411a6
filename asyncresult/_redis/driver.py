"""``redis://``, ``rediss://``, ``unix://`` and their ``valkey`` twins: one server.

A driver reads the URL and makes engines. Those of Sentinel and Cluster differ in the URL and in the topology.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from .._log import Log, get_logger
from .._storage.engine import Engine
from .._storage.store import Driver, Store
from .._storage.waiters import Waiters
from .engine import RedisEngine
from .options import Options
from .single import fixed_server
from .topology import Links, Topology
from .urls import parse

__all__ = ["RedisDriver"]

logger: Log = get_logger("asyncresult")


class RedisDriver(Driver):
    """Records in one Redis or Valkey server.

    Its URL is ``redis://[[user]:password@]host[:port][/db][?option=value&…]``, ``rediss://`` for TLS,
    ``unix:///path/to/socket``; ``valkey://`` and ``valkeys://`` mean the same.
    """

    scheme: ClassVar[str] = "redis"

    def __init__(self, options: Options) -> None:
        self.options = options
        self._engines: weakref.WeakSet[RedisEngine] = weakref.WeakSet()
        if options.credential_provider is not None:
            self._follow(options.credential_provider)

    def _follow(self, provider: Any) -> None:
        """Have a provider that renews its credentials by itself say so here."""
        from redis.credentials import StreamingCredentialProvider  # whoever makes a provider has imported it

        if isinstance(provider, StreamingCredentialProvider):
            # It awaits what these return, whatever its annotations say (redis-py: auth/token_manager.py).
            streaming: Any = provider
            streaming.on_next(self._credentials_renewed)
            streaming.on_error(self._credentials_not_renewed)

    @classmethod
    def from_url(cls, url: str, options: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """The driver, and those of the options that are the store's own.

        Args:
            options: Those of :class:`asyncresult.Backend`, and of the connections: ``db``, ``username``,
                ``password``, ``credential_provider`` (redis-py's), ``client_name``, ``protocol`` (2: do not try
                RESP3), ``retry`` (seconds a failed command is tried again, or a redis-py ``Retry``),
                ``socket_timeout``, ``socket_connect_timeout`` (seconds), ``ssl_cert_reqs``, ``ssl_ca_certs``,
                ``ssl_ca_path``, ``ssl_ca_data``, ``ssl_certfile``, ``ssl_keyfile``, ``ssl_password``,
                ``ssl_check_hostname``, ``ssl_ciphers``.

        Raises:
            ValueError: The URL or an option is invalid. The message names the known ones, and no secret.
        """
        common, own = cls._parse(url, options)
        return cls(own), common

    @staticmethod
    def _parse(url: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], Options]:
        return parse(url, options)

    def start_engine(self, store: Store) -> Engine:
        engine = RedisEngine(store, self.options, self._topology)
        self._engines.add(engine)
        return engine

    @staticmethod
    def _topology(links: Links, table: Waiters) -> Topology:
        return fixed_server(links, table)

    async def _credentials_renewed(self, token: Any) -> None:
        """The provider has a new token: every connection of every loop logs in again. Called on any thread."""
        username, password = token.try_get("oid"), token.get_value()
        for engine in list(self._engines):
            if not engine.loop.is_closed():
                engine.loop.call_soon_threadsafe(engine.login_again, username, password)

    async def _credentials_not_renewed(self, error: Exception) -> None:
        about = {"event": "credentials", "backend": str(self)}
        logger.warning("%s: the credential provider failed: %s", self, type(error).__name__, extra=about)

    def __str__(self) -> str:
        scheme = "rediss" if self.options.tls else self.scheme
        address = self.options.addresses[0]
        if address.path is not None:
            return f"unix://{address.path}?db={self.options.db}"
        return f"{scheme}://{address}/{self.options.db}"
