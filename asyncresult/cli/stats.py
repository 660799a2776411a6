"""``stats``: what a store is doing."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping
from typing import Any

from .._redis.cluster import ClusterDriver
from .._redis.driver import RedisDriver
from .._redis.sentinel import SentinelDriver
from ..backend import Backend
from ..errors import BackendError
from .output import escaped, write, write_json
from .server import Server, text_of
from .source import connected, load_app, one_line, run
from .status import CommandError, Status

__all__ = ["stats"]

_FACTS = {
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
}


def stats(arguments: argparse.Namespace) -> int:
    """Print what the server is doing."""
    return run(_stats(arguments))


async def _stats(arguments: argparse.Namespace) -> int:
    async with connected(arguments) as backend:
        facts = {"address": str(backend), **await _facts_of(backend, arguments)}
    if arguments.json:
        write_json(facts)
    else:
        _print(facts)
    return Status.SUCCESS


async def _facts_of(backend: Backend, arguments: argparse.Namespace) -> dict[str, Any]:
    driver = backend.driver
    if isinstance(driver, ClusterDriver):
        return await _of_cluster(backend, driver)
    if isinstance(driver, RedisDriver):
        facts = await _of_server(Server.of(backend), backend)
        if isinstance(driver, SentinelDriver) and driver.options.sentinels is not None:
            return {"sentinels": len(driver.options.sentinels.addresses), **facts}
        return facts
    if arguments.app and not arguments.url and (found := await _of_database(load_app(arguments.app))) is not None:
        return found
    raise CommandError(f"{backend} has no server that says what it is doing")


async def _of_server(server: Server, backend: Backend) -> dict[str, Any]:
    info = await server.info()
    version = "valkey_version" if "valkey_version" in info else "redis_version"
    facts: dict[str, Any] = {
        shown: info[name] for shown, name in {"version": version, **_FACTS}.items() if name in info
    }
    channels = await server.try_call("PUBSUB", "CHANNELS", backend.task_key("*"))
    if isinstance(channels, list):
        facts["subscribed_tasks"] = len(channels)
    return facts


async def _of_cluster(backend: Backend, driver: ClusterDriver) -> dict[str, Any]:
    """Of each primary."""
    from .checks.topology import primaries_of

    server = Server.of(backend)
    state = await server.facts("CLUSTER", "INFO")
    lines = (text_of(await server.try_call("CLUSTER", "NODES")) or "").splitlines()
    nodes: dict[str, Any] = {}
    for address in primaries_of([line.split() for line in lines]):
        try:
            nodes[str(address)] = await _of_server(Server.at(driver.options, address), backend)
        except BackendError as error:
            nodes[str(address)] = {"unreachable": one_line(error)}
    return {"state": state.get("cluster_state"), "slots": state.get("cluster_slots_ok"), "primaries": nodes}


async def _of_database(app: Any) -> dict[str, Any] | None:
    def read() -> dict[str, Any] | None:
        from .checks import database as databases

        database = databases.open_database(app)
        if database is None:
            return None
        try:
            counts = database.rows(f"SELECT status, count(*) FROM {database.table} GROUP BY status ORDER BY status")
        finally:
            database.close()
        return {"kind": database.dialect, "table": database.table, "records": {str(k): int(n) for k, n in counts}}

    return await asyncio.to_thread(read)


def _print(facts: Mapping[str, Any], indent: str = "") -> None:
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        if isinstance(value, Mapping):
            write(f"{indent}{escaped(name)}")
            _print(value, indent + "  ")
        else:
            write(f"{indent}{escaped(name):<{width}}  {escaped(str(value))}")
