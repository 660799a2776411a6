"""All checks of ``doctor`` that apply to a store."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from ..._redis.cluster import ClusterDriver
from ..._redis.driver import RedisDriver
from ..._redis.sentinel import SentinelDriver
from ..._storage.polled import PolledDriver
from ...backend import Backend
from ...errors import BackendError
from ..server import Refused, Server
from ..source import one_line
from ..status import CommandError, Status
from . import records, rights, topology
from . import redis as servers
from .findings import Check, Finding, run_checks

__all__ = ["examine_app", "examine_store", "examine_topology"]


async def examine_topology(backend: Backend) -> AsyncIterator[Finding]:
    """Sentinels and nodes, each on a connection of its own: also where the store as a whole does not answer."""
    driver = backend.driver
    found: list[Finding] = []
    try:
        if isinstance(driver, SentinelDriver):
            found = await topology.sentinel_findings(driver.options)
        elif isinstance(driver, ClusterDriver):
            found = await topology.cluster_findings(driver.options)
    except Refused as error:
        found = [Finding("topology", "note", f"not examined: {error}")]
    for finding in found:
        yield finding


async def examine_store(backend: Backend) -> AsyncIterator[Finding]:
    """What can be seen in a store that answers."""
    id = f"asyncresult-doctor-{uuid.uuid4()}"
    driver = backend.driver
    slow = records.LAG_SECONDS
    if isinstance(driver, RedisDriver):
        async for finding in _examine_server(backend, id):
            yield finding
            if finding.check == "role" and finding.severity == "error":
                return  # a replica stores nothing, so all that follows would fail for that reason
    elif isinstance(driver, PolledDriver):
        yield Finding(
            "polling",
            "note",
            f"nothing is announced here: a record is read again after {driver.min_interval:g} to"
            f" {driver.max_interval:g} s, less often the longer nothing has happened",
        )
        slow += driver.max_interval
    for finding in await records.round_trip(backend, id, slow=slow):
        yield finding
    for finding in await records.samples(backend):
        yield finding


async def _examine_server(backend: Backend, id: str) -> AsyncIterator[Finding]:
    server = Server.of(backend)
    checks: Mapping[str, Check] = servers.CHECKS
    if isinstance(backend.driver, ClusterDriver):  # whose nodes have been looked at
        checks = {"latency": servers.latency, "clock": servers.clock}
    found = await run_checks(server, checks)
    for finding in found:
        yield finding
    if any(finding.check == "role" and finding.severity == "error" for finding in found):
        return
    if (place := await _place(backend, server)) is not None:
        yield place
    found = await rights.rights(backend, server, id)
    found += await run_checks(server, {"subscriptions": lambda _: records.subscriptions(backend, server)})
    for finding in found:
        yield finding


async def _place(backend: Backend, server: Server) -> Finding | None:
    try:
        return await records.elsewhere(backend, server)
    except BackendError:
        return None


# -- of an app ----------------------------------------------------------------------------------------------


async def examine_app(app: Any, *, url: str | None, timeout: float) -> AsyncIterator[Finding]:
    """The settings of a Celery app, its broker and workers, and the database where its results are, if that is one.

    Args:
        url: Where results are read, if that is not for the app to say.
        timeout: Seconds to connect.

    Raises:
        CommandError: That database does not answer.
    """
    from . import settings

    for finding in settings.app_findings(app, url):
        yield finding
    for finding in await asyncio.to_thread(_examine_broker, app, timeout):
        yield finding
    if url is None:
        for finding in await asyncio.to_thread(_examine_database, app):
            yield finding


def _examine_broker(app: Any, timeout: float) -> list[Finding]:
    from ...integrations.celery.rpc import is_rpc
    from . import broker, settings

    checks: list[Callable[[Any], list[Finding]]] = [
        broker.broker_findings,
        lambda connection: broker.queue_findings(app, connection),
        lambda connection: settings.worker_findings(app, connection),
    ]
    if is_rpc(app):
        checks.insert(1, lambda connection: broker.reply_findings(app, connection))
    findings: list[Finding] = []
    try:
        with broker.open_broker(app, timeout) as connection:
            if connection.transport.driver_type == "memory":
                return [Finding("broker", "note", "memory:// is the memory of each process: no worker can be queried")]
            for check in checks:
                findings += check(connection)
    except Exception as error:  # whatever the transport raises
        findings.append(broker.unreachable(app, error))
    return findings


def _examine_database(app: Any) -> list[Finding]:
    from . import database as databases

    try:
        database = databases.open_database(app)
    except databases.Unreachable as error:
        raise CommandError(f"the database of results cannot be reached: {error}", Status.UNREACHABLE) from error
    except Exception as error:  # Celery's, or the driver's: a package is missing, a setting is wrong
        raise CommandError(
            f"the database of results cannot be opened: {one_line(error)}", Status.UNREACHABLE
        ) from error
    if database is None:
        return []
    try:
        return databases.database_findings(app, database)
    except Exception as error:  # whatever the driver raises
        fix = f"GRANT SELECT ON {database.table} to the role of the URL, where that is the reason"
        return [Finding("database", "error", f"it cannot be looked into: {one_line(error)}", fix)]
    finally:
        database.close()
