"""One Redis or Valkey server: what it is, how it is set, and whether its memory suffices."""

from __future__ import annotations

import statistics
import time

from ..server import Server
from .findings import Check, Finding

__all__ = ["CHECKS", "NODE_CHECKS", "clock_finding"]

PINGS = 9
SLOW_SECONDS = 0.05
"""Round trips above this make every wait feel slow."""
SKEW_SECONDS = 2.0
OLDEST_VERSION = (6, 0)
FULL = 0.9
"""Of the clients that a server takes: above this some are refused soon."""
PUBSUB_LIMIT = 8 * 1024 * 1024
"""Below this a burst of results closes the subscription (Redis' own default for 60 seconds)."""


async def version(server: Server) -> list[Finding]:
    info = await server.info()
    kind, number = (
        ("Valkey", info["valkey_version"]) if "valkey_version" in info else ("Redis", info.get("redis_version"))
    )
    if not number:
        return [Finding("version", "note", "the server does not report its version", "let the user call INFO: +info")]
    numbers = tuple(int(part) for part in number.split(".")[:2] if part.isdigit())
    if numbers < OLDEST_VERSION:
        return [
            Finding("version", "warning", f"{kind} {number}", "asyncresult is tested with Redis 6.2 and newer: upgrade")
        ]
    if await server.try_call("HELLO") is None:
        return [
            Finding(
                "version",
                "note",
                f"{kind} {number}, RESP2 only: HELLO is refused",
                "nothing has to be done; +hello in the user's rules gives RESP3",
            )
        ]
    return [Finding("version", "ok", f"{kind} {number}, RESP3")]


async def latency(server: Server) -> list[Finding]:
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


async def eviction(server: Server) -> list[Finding]:
    info = await server.info()
    policy, limit = info.get("maxmemory_policy"), info.get("maxmemory", "0")
    evicted = int(info.get("evicted_keys", "0"))
    if policy is None:
        return [Finding("eviction", "note", "the server does not report its eviction policy")]
    if evicted:
        return [
            Finding(
                "eviction",
                "error",
                f"{evicted} keys were evicted ({policy}): results may be among them",
                "give the server more memory, or results a shorter expiry (result_expires)",
            )
        ]
    if limit != "0" and policy != "noeviction":
        # Results have an expiry, so the volatile policies take them, too.
        return [
            Finding(
                "eviction",
                "warning",
                f"maxmemory-policy is {policy}: results that nobody has read yet may be evicted",
                "use a server of its own for results, with CONFIG SET maxmemory-policy noeviction",
            )
        ]
    return [Finding("eviction", "ok", f"maxmemory-policy is {policy}, nothing was evicted")]


async def output_buffers(server: Server) -> list[Finding]:
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


async def clients(server: Server) -> list[Finding]:
    info = await server.info()
    connected = int(info.get("connected_clients", "0"))
    most = info.get("maxclients") or await server.setting("maxclients")
    if not most:
        return [Finding("clients", "note", f"{connected} clients; maxclients is not known")]
    if connected > FULL * int(most):
        return [
            Finding(
                "clients",
                "error",
                f"{connected} of {most} clients: more are refused soon",
                f"CONFIG SET maxclients {2 * int(most)}, and see who they are: CLIENT LIST",
            )
        ]
    return [Finding("clients", "ok", f"{connected} of {most} clients")]


async def clock(server: Server) -> list[Finding]:
    before = time.time()
    seconds, micros = await server.call("TIME")
    return [clock_finding(int(seconds) + int(micros) / 1e6 - (before + time.time()) / 2)]


def clock_finding(skew: float) -> Finding:
    """Args: skew: Seconds that the server's clock is ahead."""
    if abs(skew) > SKEW_SECONDS:
        return Finding(
            "clock",
            "warning",
            f"the server's clock differs by {skew:+.1f} s from this machine's: times and heartbeats mislead",
            "synchronise the clocks (NTP)",
        )
    return Finding("clock", "ok", f"differs by {1000 * abs(skew):.0f} ms")


async def role(server: Server) -> list[Finding]:
    info = await server.info()
    if info.get("role") == "slave":
        return [
            Finding(
                "role",
                "error",
                f"this is a replica (link to its primary: {info.get('master_link_status')}): it stores nothing",
                f"connect to the primary, {info.get('master_host')}:{info.get('master_port')}, or by sentinel://",
            )
        ]
    if info.get("role") is None:
        return []
    return [Finding("role", "ok", f"primary, {info.get('connected_slaves', '0')} replicas")]


NODE_CHECKS: dict[str, Check] = {
    "version": version,
    "eviction": eviction,
    "output buffers": output_buffers,
    "clients": clients,
}
"""Of each server, where there are several."""
CHECKS: dict[str, Check] = {**NODE_CHECKS, "latency": latency, "clock": clock, "role": role}
