"""What ``doctor`` looks at in a store."""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ..backend import Backend
from ..errors import AsyncResultError, BackendPermissionError, ResultDecodeError, ResultTimeout
from ..states import READY_STATES
from .findings import Finding
from .server import Refused, Server, text_of

__all__ = ["examine"]

PINGS = 9
SLOW_SECONDS = 0.05
"""Round trips above this make every wait feel slow."""
LAG_SECONDS = 0.25
SKEW_SECONDS = 2.0
OLDEST_VERSION = (6, 0)
SAMPLE = 200
"""Records, or channels, that are looked at."""
PUBSUB_LIMIT = 8 * 1024 * 1024
"""Below this a burst of results closes the subscription (Redis' own default for 60 seconds)."""


async def examine(backend: Backend, app: Any) -> AsyncIterator[Finding]:
    """All checks that apply to this kind of store."""
    server = Server(backend)
    if await server.try_call("PING") is not None:
        for check in (_version, _latency, _eviction, _limits, _clients, _clock, _topology):
            for finding in await _guarded(check, server):
                yield finding
        for finding in await _guarded(lambda _: _channels(backend, server), server):
            yield finding
    for finding in await _round_trip(backend):
        yield finding
    for finding in await _sampled(backend):
        yield finding
    if app is not None:
        for finding in _settings(app):
            yield finding


async def _guarded(check: Callable[[Server], Awaitable[list[Finding]]], server: Server) -> list[Finding]:
    try:
        return await check(server)
    except Refused as error:
        name = getattr(check, "__name__", "check").strip("_<>")
        return [Finding(name, "note", f"not examined: {error}")]


async def _version(server: Server) -> list[Finding]:
    info = await server.info()
    kind, version = (
        ("Valkey", info["valkey_version"]) if "valkey_version" in info else ("Redis", info.get("redis_version"))
    )
    if not version:
        return [Finding("version", "note", "the server does not tell its version")]
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST_VERSION:
        return [
            Finding(
                "version", "warning", f"{kind} {version}", "asyncresult is tested with Redis 6.2 and newer: upgrade"
            )
        ]
    hello = await server.try_call("HELLO")
    protocol = "RESP3" if hello is not None else "RESP2 only"
    return [Finding("version", "ok", f"{kind} {version}, {protocol}")]


async def _latency(server: Server) -> list[Finding]:
    times: list[float] = []
    for _ in range(PINGS):
        before = time.perf_counter()
        await server.call("PING")
        times.append(time.perf_counter() - before)
    median = statistics.median(times)
    text = f"median of {PINGS} round trips: {1000 * median:.1f} ms"
    if median > SLOW_SECONDS:
        return [Finding("latency", "warning", text, "move the application nearer to the server, or find what slows it")]
    return [Finding("latency", "ok", text)]


async def _eviction(server: Server) -> list[Finding]:
    info = await server.info()
    policy, limit = info.get("maxmemory_policy"), info.get("maxmemory", "0")
    evicted = int(info.get("evicted_keys", "0"))
    if policy is None:
        return [Finding("eviction", "note", "the server does not tell its eviction policy")]
    if evicted:
        return [
            Finding(
                "eviction",
                "error",
                f"{evicted} keys were evicted ({policy}): results may be among them",
                "give the server more memory, or results a shorter expiry (result_expires)",
            )
        ]
    if policy.startswith("allkeys") and limit != "0":
        return [
            Finding(
                "eviction",
                "warning",
                f"maxmemory-policy is {policy}: results that nobody has read yet may be evicted",
                "use a server of its own for results, with maxmemory-policy noeviction",
            )
        ]
    return [Finding("eviction", "ok", f"maxmemory-policy is {policy}, nothing was evicted")]


async def _limits(server: Server) -> list[Finding]:
    text = await server.setting("client-output-buffer-limit")
    if text is None:
        return [Finding("output buffers", "note", "CONFIG GET is not allowed: limits are not known")]
    words = text.split()
    limits = {words[i]: [int(n) for n in words[i + 1 : i + 4]] for i in range(0, len(words) - 3, 4)}
    findings: list[Finding] = []
    hard, soft, _ = limits.get("pubsub", [0, 0, 0])
    smallest = min((limit for limit in (hard, soft) if limit), default=None)
    if smallest is not None and smallest < PUBSUB_LIMIT:
        findings.append(
            Finding(
                "output buffers",
                "warning",
                f"a subscription is closed at {smallest} bytes that wait to be sent",
                "CONFIG SET client-output-buffer-limit 'pubsub 33554432 8388608 60'",
            )
        )
    hard, soft, _ = limits.get("normal", [0, 0, 0])
    if hard or soft:
        findings.append(
            Finding(
                "output buffers",
                "warning",
                f"normal clients are limited to {hard or soft} bytes: larger records cannot be read",
                "CONFIG SET client-output-buffer-limit 'normal 0 0 0', or keep results small",
            )
        )
    return findings or [Finding("output buffers", "ok", "no limit that results reach")]


async def _clients(server: Server) -> list[Finding]:
    info = await server.info()
    connected, most = (
        int(info.get("connected_clients", "0")),
        info.get("maxclients") or await server.setting("maxclients"),
    )
    if not most:
        return [Finding("clients", "note", f"{connected} clients; maxclients is not known")]
    if connected > 0.9 * int(most):
        return [
            Finding("clients", "error", f"{connected} of {most} clients: more are refused soon", "raise maxclients")
        ]
    return [Finding("clients", "ok", f"{connected} of {most} clients")]


async def _clock(server: Server) -> list[Finding]:
    before = time.time()
    seconds, micros = await server.call("TIME")
    skew = (int(seconds) + int(micros) / 1e6) - (before + time.time()) / 2
    if abs(skew) > SKEW_SECONDS:
        return [
            Finding(
                "clock",
                "warning",
                f"this machine and the server differ by {skew:+.1f} s: times and heartbeats mislead",
                "synchronise the clocks (NTP)",
            )
        ]
    return [Finding("clock", "ok", f"differs by {1000 * abs(skew):.0f} ms")]


async def _topology(server: Server) -> list[Finding]:
    info = await server.info()
    if info.get("redis_mode") == "cluster" or info.get("server_mode") == "cluster":
        text = text_of(await server.call("CLUSTER", "INFO")) or ""
        state = dict(line.split(":", 1) for line in text.split() if ":" in line)
        if state.get("cluster_state") != "ok":
            return [
                Finding(
                    "cluster", "error", f"cluster_state is {state.get('cluster_state')}", "redis-cli --cluster check"
                )
            ]
        return [
            Finding(
                "cluster", "ok", f"{state.get('cluster_known_nodes')} nodes, {state.get('cluster_slots_ok')} slots ok"
            )
        ]
    role = info.get("role")
    if role == "slave":
        link = info.get("master_link_status")
        return [
            Finding(
                "role",
                "error",
                f"this is a replica (link {link}): it stores nothing",
                "connect to the primary, or by sentinel://",
            )
        ]
    return [Finding("role", "ok", f"{role}, {info.get('connected_slaves', '0')} replicas")] if role else []


async def _channels(backend: Backend, server: Server) -> list[Finding]:
    """Stock Celery keeps a subscription for each delay() that nobody waits for."""
    channels = await server.call("PUBSUB", "CHANNELS", backend.task_key("*"))
    total = len(channels)
    sample = channels[:SAMPLE]
    prefix = len(backend.task_key("x")) - 1
    ids = [channel[prefix:].decode(errors="replace") for channel in sample]
    over = 0
    for id in ids:
        try:
            over += (await backend.get_meta(id)).status in READY_STATES
        except AsyncResultError:
            continue
    if over > len(sample) / 2 and over > 10:
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


async def _round_trip(backend: Backend) -> list[Finding]:
    """Subscribe, store, be notified: the way of every result, with the rights of this login."""
    id = f"asyncresult-doctor-{uuid.uuid4()}"
    try:
        handle = backend.result(id)
        async with handle.updates(timeout=10) as updates:
            await anext(updates)  # subscribed from here on
            await asyncio.sleep(0.05)
            before = time.perf_counter()
            await backend.store_result(id, "doctor", "SUCCESS", expires=60)
            async for _ in updates:
                pass
            lag = time.perf_counter() - before
        await backend.forget(id)
    except BackendPermissionError as error:
        return [Finding("rights", "error", str(error), "see docs/reference/acl.md for the rules that are needed")]
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
        return [Finding("notifications", "note", f"not examined: {error}")]
    text = f"stored to notified: {1000 * lag:.1f} ms"
    if lag > LAG_SECONDS:
        return [Finding("notifications", "warning", text, "find what slows the server, or the network")]
    return [Finding("notifications", "ok", text)]


async def _sampled(backend: Backend) -> list[Finding]:
    """Some stored records: can they be read, and how long are they kept?"""
    try:
        ids = [id async for id in backend.task_ids(limit=SAMPLE)]
        for_ever = sum([await backend.get_lifetime(id) is None for id in ids])
    except AsyncResultError as error:
        return [Finding("records", "note", f"not examined: {error}")]
    unreadable: dict[str, str] = {}
    for id in ids:
        try:
            await backend.get_meta(id)
        except ResultDecodeError as error:
            unreadable[id] = str(error)
    findings: list[Finding] = []
    if unreadable:
        id, why = next(iter(unreadable.items()))
        findings.append(
            Finding(
                "records",
                "error",
                f"{len(unreadable)} of {len(ids)} records looked at cannot be read, e.g. {id}: {why}",
                "let workers and readers agree: result_serializer json (or accept=[…] for msgpack, yaml);"
                " pickle is never read",
            )
        )
    if for_ever:
        findings.append(
            Finding(
                "expiry",
                "warning",
                f"{for_ever} of {len(ids)} records looked at are kept for ever",
                "set result_expires (Celery) or expires=",
            )
        )
    return findings or [Finding("records", "ok", f"{len(ids)} looked at: all can be read, all expire")]


def _settings(app: Any) -> list[Finding]:
    conf = app.conf
    findings: list[Finding] = []
    if conf.task_ignore_result:
        findings.append(
            Finding(
                "settings",
                "error",
                "task_ignore_result is set: workers store no results",
                "unset it, or set it for single tasks",
            )
        )
    if not conf.task_track_started:
        findings.append(
            Finding(
                "settings",
                "note",
                "task_track_started is off: a task that runs looks like one that waits",
                "set it to see STARTED",
            )
        )
    if conf.result_serializer == "pickle":
        findings.append(
            Finding(
                "settings",
                "error",
                "result_serializer is pickle, which asyncresult never reads",
                "set result_serializer to json",
            )
        )
    return findings or [Finding("settings", "ok", f"of {app.main or 'the app'}: nothing that loses results")]
