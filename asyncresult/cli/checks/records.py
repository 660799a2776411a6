"""What is stored, and what happens to a record on its way: announced, read, kept."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from typing import Any

from ..._redis.driver import RedisDriver
from ..._redis.options import Options
from ...backend import Backend
from ...errors import (
    AsyncResultError,
    BackendError,
    BackendPermissionError,
    ResultDecodeError,
    ResultTimeout,
    ResultTooLarge,
)
from ...states import READY_STATES
from ..output import shortened
from ..server import Refused, Server
from .findings import Finding
from .rights import missing_rule, user_name
from .topology import servers_of

__all__ = ["elsewhere", "round_trip", "samples", "subscriptions"]

LAG_SECONDS = 0.25
SAMPLE = 200
"""Records, or channels, that are looked at."""
SCANNED_KEYS, SCAN_STEP = 200_000, 4000
SHORT_SECONDS = 60.0
"""A record that is kept for less may be gone before it is read."""
_PARTS = "celery-task-meta-"


async def subscriptions(backend: Backend, server: Server) -> list[Finding]:
    """Stock Celery keeps a subscription for each delay() that nobody waits for."""
    channels = await server.call("PUBSUB", "CHANNELS", backend.task_key("*"))
    total, sample = len(channels), channels[:SAMPLE]
    prefix = len(backend.task_key("x")) - 1
    over = 0
    for channel in sample:
        try:
            over += (await backend.get_meta(channel[prefix:].decode(errors="replace"))).status in READY_STATES
        except (AsyncResultError, ValueError):
            continue
    if over > 10 and over > len(sample) / 2:
        return [
            Finding(
                "subscriptions",
                "warning",
                f"{total} channels are subscribed, and of {len(sample)} looked at {over} belong to tasks that have"
                " ended: some client leaks subscriptions",
                "stock Celery does so for each delay() whose result is not fetched: use"
                " result_backend='asyncresult+redis://…' or ignore_result",
            )
        ]
    return [Finding("subscriptions", "ok", f"{total} tasks are waited for")]


async def round_trip(backend: Backend, id: str, *, slow: float = LAG_SECONDS) -> list[Finding]:
    """Subscribe, store, be notified: the way of every result, with the rights of this login.

    Args:
        id: Of a task that does not exist.
        slow: Seconds from which on the notification comes late.
    """
    try:
        lag = await _lag(backend, id)
    except BackendPermissionError as error:
        rule = missing_rule(backend, str(error), "subscribe")
        if not rule.startswith(("&", "+subscribe", "+ssubscribe", "+mget")):
            return [Finding("notifications", "note", "not examined: this user stores nothing")]
        fix = f"ACL SETUSER {await user_name(Server.of(backend))} {rule}"
        return [Finding("rights", "error", f"this user cannot be notified of results: {error}", fix)]
    except ResultTimeout:
        return [
            Finding(
                "notifications",
                "error",
                "a record was stored, and no notification of it came within 10 s",
                "look for a proxy that does not pass PUBLISH on, or a cluster whose bus is cut",
            )
        ]
    except AsyncResultError as error:
        return [Finding("notifications", "warning", f"a record could not be stored and read: {error}")]
    finally:
        await _forget(backend, id)
    text = f"stored to notified: {1000 * lag:.1f} ms"
    if lag > slow:
        return [Finding("notifications", "warning", text, "find what slows the server, or the network")]
    return [Finding("notifications", "ok", text)]


async def _lag(backend: Backend, id: str) -> float:
    """Seconds from storing a record until it is announced. Raises what waiting and storing raise."""
    announced = asyncio.create_task(backend.result(id).until("SUCCESS", timeout=10), name="asyncresult doctor")
    try:
        # The subscription comes first: a refusal of it must not be taken for one of storing.
        while not (announced.done() or backend.stats().subscribed):  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0.005)
        before = time.perf_counter()
        if not announced.done():
            await backend.store_result(id, "doctor", "SUCCESS", expires=60 if has_lifetimes(backend) else None)
        await announced
        return time.perf_counter() - before
    finally:
        announced.cancel()
        announced.add_done_callback(lambda task: task.cancelled() or task.exception())  # storing has said why


async def _forget(backend: Backend, id: str) -> None:
    try:
        await backend.forget(id)
    except AsyncResultError:
        pass  # it expires soon


async def samples(backend: Backend) -> list[Finding]:
    """Some stored records: can they be read, and how long are they kept?"""
    try:
        ids = [id async for id in backend.task_ids(limit=SAMPLE)]
        lifetimes = [await backend.get_lifetime(id) for id in ids]
    except AsyncResultError as error:
        return [Finding("records", "note", f"not examined: {error}")]
    unreadable: dict[str, str] = {}
    for id in ids:
        try:
            await backend.get_meta(id)
        except ResultTooLarge as error:
            unreadable[id] = str(error)
        except ResultDecodeError as error:
            unreadable[id] = f"{error}{_kind_of(await backend.get_raw(id))}"
        except (AsyncResultError, ValueError) as error:
            unreadable[id] = str(error)
    findings: list[Finding] = []
    if unreadable:
        id, why = next(iter(unreadable.items()))
        findings.append(
            Finding(
                "records",
                "error",
                f"{len(unreadable)} of {len(ids)} records looked at cannot be read, e.g. {shortened(id)}: {why}",
                "let workers and readers agree: result_serializer json (or accept=[…] for msgpack, yaml);"
                " pickle is never read",
            )
        )
    if has_lifetimes(backend):
        findings += _kept(lifetimes)
    return findings or [Finding("records", "ok", f"{len(ids)} looked at: all can be read")]


def has_lifetimes(backend: Backend) -> bool:
    """Whether each record of the store has its own end; in a database something else removes them."""
    return isinstance(backend.driver, RedisDriver)


def _kept(lifetimes: list[float | None]) -> list[Finding]:
    findings: list[Finding] = []
    if for_ever := lifetimes.count(None):
        findings.append(
            Finding(
                "expiry",
                "warning",
                f"{for_ever} of {len(lifetimes)} records looked at are kept forever",
                "set result_expires (Celery) or expires=",
            )
        )
    short = [kept for kept in lifetimes if kept is not None and kept < SHORT_SECONDS]
    if len(short) > len(lifetimes) / 2:
        findings.append(
            Finding(
                "expiry",
                "warning",
                f"{len(short)} of {len(lifetimes)} records looked at are gone in less than {SHORT_SECONDS:.0f} s",
                "a reader that comes later finds nothing: raise result_expires",
            )
        )
    return findings


def _kind_of(raw: bytes | None) -> str:
    """What the bytes of an unreadable record look like."""
    if raw is None:
        return ""
    if raw[:1] == b"\x80" and raw[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return " (it looks like pickle)"
    if raw[:2] == b"\x1f\x8b":
        return " (it looks like gzip)"
    if 0x80 <= (raw[:1] or b" ")[0] <= 0x8F or raw[:1] in (b"\xde", b"\xdf"):
        return " (it looks like msgpack)"
    return " (it looks like yaml)" if raw[:7] == b"status:" or b"\nstatus:" in raw[:4000] else ""


# -- other places of the same server ------------------------------------------------------------------------


async def elsewhere(backend: Backend, server: Server, id: str | None = None) -> Finding | None:
    """Results, or that of one task, under another prefix or in another database than the backend reads.

    Args:
        id: None finds any, where the backend itself has none.
    """
    if id is None:
        async for _ in backend.task_ids(limit=1):
            return None
    pattern = f"*{_PARTS}{_escaped(id) if id is not None else '*'}"
    own = backend.task_key("")
    for one in await servers_of(backend):
        found = await _scan(one, pattern, own)
        if found is None:
            continue
        prefix = found.partition(_PARTS)[0]
        return Finding(
            "place",
            "error",
            f"results are stored under another key prefix, e.g. {found}; we read those with {own.decode()!r} in front",
            f"the writer has the key prefix {prefix!r}: set key_prefix (Celery: global_keyprefix) the same",
        )
    driver = backend.driver
    assert isinstance(driver, RedisDriver)
    for number in await _other_databases(server, driver.options):
        options = dataclasses.replace(driver.options, db=number)
        there = Server.at(options, driver.options.addresses[0])
        found = await _scan(there, pattern, None)
        if found is not None:
            return Finding(
                "place",
                "error",
                f"results are stored in database {number}, e.g. {found}; we read database {driver.options.db}",
                f"give the worker's URL, which ends with /{number}, or set its result_backend to /{driver.options.db}",
            )
    return None


async def _other_databases(server: Server, options: Options) -> list[int]:
    """Those with keys in them. A cluster has one database; sentinels are not queried for theirs."""
    if options.sentinels is not None or len(options.addresses) != 1:
        return []
    info = await server.info()
    numbers = [int(name[2:]) for name in info if name[:2] == "db" and name[2:].isdigit() and "keys=" in info[name]]
    return [number for number in numbers if number != options.db]


async def _scan(server: Server, pattern: str, own: bytes | None) -> str | None:
    """A key that matches and does not begin with ``own``."""
    cursor: Any = 0
    for _ in range(SCANNED_KEYS // SCAN_STEP):
        try:
            cursor, keys = await server.call("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_STEP)
        except (Refused, BackendError):
            return None
        for key in keys:
            if own is None or not key.startswith(own):
                return str(key.decode(errors="backslashreplace"))
        if int(cursor) == 0:
            return None
    return None


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in "*?[]\\^" else c for c in text)


async def history(backend: Backend, id: str) -> AsyncIterator[str]:
    """The kept states of a task; none where it has no history, or that cannot be read."""
    try:
        async with asyncio.timeout(5):
            async for meta in backend.result(id).updates(since="0", timeout=0):
                yield meta.status
    except (AsyncResultError, TimeoutError):
        return
