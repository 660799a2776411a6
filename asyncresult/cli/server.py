"""Facts about a Redis or Valkey server, by commands of its own; other stores have none."""

from __future__ import annotations

from typing import Any

from ..backend import Backend
from ..errors import BackendError

__all__ = ["Refused", "Server", "server_facts"]


class Refused(Exception):
    """The server knows no such command, or does not allow it. Its text names no secret."""


class Server:
    """Commands to the server of a backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def call(self, *words: str | bytes | int) -> Any:
        """The reply to one command.

        Raises:
            Refused: The server answered with an error, or there is none that takes commands.
            BackendUnavailable: It did not answer.
        """
        try:
            return await self._backend.command(*words)
        except BackendError as error:
            if isinstance(error, ConnectionError):
                raise
            raise Refused(str(error)) from error

    async def try_call(self, *words: str | bytes | int) -> Any:
        """The reply, or None where the server refuses."""
        try:
            return await self.call(*words)
        except Refused:
            return None

    async def info(self) -> dict[str, str]:
        """INFO, as a mapping."""
        text = text_of(await self.try_call("INFO", "everything")) or ""
        pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
        return {name: value for name, _, value in pairs}

    async def setting(self, name: str) -> str | None:
        """One setting by CONFIG GET; None where that is not allowed, as with most hosted servers."""
        reply = await self.try_call("CONFIG", "GET", name)
        values = [text_of(value) for value in reply] if isinstance(reply, list) else []
        return dict(zip(values[::2], values[1::2], strict=False)).get(name)


def text_of(value: Any) -> str | None:
    """A reply as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value if isinstance(value, str) else None


async def server_facts(backend: Backend) -> dict[str, Any]:
    """What ``asyncresult stats`` prints."""
    server = Server(backend)
    info = await server.info()
    channels = await server.try_call("PUBSUB", "CHANNELS", backend.task_key("*"))
    facts: dict[str, Any] = {"address": str(backend)}
    for shown, name in {
        "version": "valkey_version" if "valkey_version" in info else "redis_version",
        "mode": "redis_mode",
        "role": "role",
        "uptime_seconds": "uptime_in_seconds",
        "clients": "connected_clients",
        "pubsub_clients": "pubsub_clients",
        "memory": "used_memory_human",
        "memory_limit": "maxmemory_human",
        "evicted_keys": "evicted_keys",
        "expired_keys": "expired_keys",
        "commands_per_second": "instantaneous_ops_per_sec",
    }.items():
        if name in info:
            facts[shown] = info[name]
    if isinstance(channels, list):
        facts["subscribed_tasks"] = len(channels)
    return facts
