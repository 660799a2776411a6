"""Sentinel and Cluster: whether those that are to take over can, and every key has an owner."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ..._redis.address import Address
from ..._redis.cluster import ClusterDriver
from ..._redis.options import Options
from ..._storage.keys import SLOTS
from ...backend import Backend
from ...errors import BackendError
from ..server import Refused, Server, fields_of_reply, text_of
from .findings import Finding, run_checks
from .redis import NODE_CHECKS

__all__ = ["cluster_findings", "primaries_of", "sentinel_findings", "servers_of"]

SHARDED_SINCE = 7


# -- Sentinel -----------------------------------------------------------------------------------------------


async def sentinel_findings(options: Options) -> list[Finding]:
    """Query every sentinel of the URL."""
    assert options.sentinels is not None
    addresses = options.sentinels.addresses
    views = await asyncio.gather(*(_ask_sentinel(options, address) for address in addresses))
    findings = [finding for found, _ in views for finding in found]
    primaries = {primary for _, primary in views if primary}
    if len(primaries) > 1:
        findings.append(
            Finding(
                "sentinel",
                "error",
                f"the sentinels name different primaries: {', '.join(sorted(primaries))}",
                "a failover is going on, or a network is cut: run this again; SENTINEL RESET where it stays so",
            )
        )
    if len(addresses) == 1:
        findings.append(
            Finding(
                "sentinel",
                "warning",
                "the URL names one sentinel: without it nobody says who the primary is",
                "name all of them: sentinel://a:26379;b:26379;c:26379?service=…",
            )
        )
    if not findings and primaries:
        findings.append(
            Finding("sentinel", "ok", f"{len(addresses)} sentinels name {primaries.pop()}, can agree on another one")
        )
    return findings


async def _ask_sentinel(options: Options, address: Address) -> tuple[list[Finding], str | None]:
    """What is wrong by the word of one sentinel, and the primary that it names."""
    assert options.sentinels is not None
    server, service = Server.at(options.sentinels, address), options.service
    try:
        primary = await server.fields("SENTINEL", "MASTER", service)
        replicas = [fields_of_reply(reply) for reply in await server.call("SENTINEL", "REPLICAS", service)]
    except Refused as error:
        fix = "name one that it knows (SENTINEL MASTERS): ?service=…"
        if "NOPERM" in str(error):
            fix = "ACL SETUSER … +sentinel|master +sentinel|replicas, at the sentinels"
        return [Finding("sentinel", "error", f"{address} does not report {service!r}: {error}", fix)], None
    except BackendError as error:
        return [
            Finding("sentinel", "warning", f"a sentinel does not answer: {error}", "start it, or leave it out")
        ], None
    findings: list[Finding] = []
    if "down" in primary.get("flags", ""):
        findings.append(
            Finding(
                "sentinel", "error", f"{address} finds the primary down ({primary['flags']})", "wait for the failover"
            )
        )
    living = [replica for replica in replicas if "down" not in replica.get("flags", "")]
    if not living:
        findings.append(
            Finding(
                "replicas",
                "error" if replicas else "warning",
                f"{address} knows {len(replicas)} replicas, none of which is up: nothing can take over",
                "start a replica of the primary (REPLICAOF)",
            )
        )
    try:
        await server.call("SENTINEL", "CKQUORUM", service)
    except Refused as error:
        if "NOQUORUM" in str(error):
            findings.append(
                Finding(
                    "quorum",
                    "error",
                    f"{address} knows {primary.get('num-other-sentinels')} other sentinels, and too few are up to agree"
                    f" on a failover (quorum {primary.get('quorum')})",
                    "start the others, at least three in all",
                )
            )
    return findings, f"{primary.get('ip')}:{primary.get('port')}"


# -- Cluster ------------------------------------------------------------------------------------------------


async def cluster_findings(options: Options) -> list[Finding]:
    """The slots and nodes by the word of one node, and the checks of a server at each primary."""
    entry = await _living_node(options)
    if entry is None:
        return []  # the first contact says so, with the reason
    findings = _slots(await entry.facts("CLUSTER", "INFO"))
    nodes = [line.split() for line in (text_of(await entry.call("CLUSTER", "NODES")) or "").splitlines()]
    findings += _nodes(nodes)
    primaries = primaries_of(nodes)
    for address in primaries:
        server = Server.at(options, address)
        try:
            found = await run_checks(server, NODE_CHECKS)
        except BackendError as error:
            findings.append(Finding("nodes", "error", f"a primary cannot be reached from here: {error}", _ANNOUNCE))
            continue
        findings += [_of_node(finding, address) for finding in found if finding.severity != "ok"]
    findings += _announcing(options, await entry.info(), len(primaries))
    return findings


async def _living_node(options: Options) -> Server | None:
    for address in options.addresses:
        server = Server.at(options, address)
        try:
            await server.try_call("PING")
        except BackendError:
            continue
        return server
    return None


_ANNOUNCE = "let every client reach every node: firewall; cluster-announce-ip of a node behind NAT"


def _slots(state: dict[str, str]) -> list[Finding]:
    served = int(state.get("cluster_slots_ok", "0"))
    if state.get("cluster_state") == "ok" and served == SLOTS:
        return [Finding("slots", "ok", f"all {SLOTS} slots are served, {state.get('cluster_known_nodes')} nodes")]
    return [
        Finding(
            "slots",
            "error",
            f"{served} of {SLOTS} slots are served, cluster_state is {state.get('cluster_state')}: results of some"
            " tasks can be neither stored nor read",
            "start the nodes that are down; redis-cli --cluster check HOST:PORT, then --cluster fix",
        )
    ]


def _nodes(nodes: Sequence[list[str]]) -> list[Finding]:
    """The lines of CLUSTER NODES: id, address, flags, id of the primary, …, slots."""
    findings: list[Finding] = []
    failed = [node[1].partition("@")[0] for node in nodes if "fail" in node[2].split(",")]
    if failed:
        findings.append(
            Finding("nodes", "warning", f"{len(failed)} nodes are down: {', '.join(failed[:3])}", "start them")
        )
    guarded = {node[3] for node in nodes if "slave" in node[2] and "fail" not in node[2].split(",")}
    bare = [
        node[1].partition("@")[0] for node in nodes if "master" in node[2] and len(node) > 8 and node[0] not in guarded
    ]
    if bare:
        findings.append(
            Finding(
                "replicas",
                "warning",
                f"{len(bare)} primaries have no replica: {', '.join(bare[:3])}; what they hold is lost with them",
                "redis-cli --cluster add-node … --cluster-slave",
            )
        )
    return findings


def _announcing(options: Options, info: dict[str, str], primaries: int) -> list[Finding]:
    """How notifications travel."""
    number = info.get("redis_version", "")
    can_shard = number.partition(".")[0].isdigit() and int(number.partition(".")[0]) >= SHARDED_SINCE
    if options.sharded:
        if not can_shard:
            return [
                Finding(
                    "announcing", "error", f"sharded pub/sub needs Redis 7, this is {number}", "leave out sharded=true"
                )
            ]
        return [
            Finding(
                "announcing",
                "note",
                "shard channels: results that stock Celery stores are announced on others, and found by the sweep only",
                "where Celery's workers store, leave out sharded=true",
            )
        ]
    return [
        Finding(
            "announcing",
            "note",
            f"classic channels: every announcement goes to all nodes ({primaries} primaries)"
            + (
                "; shard channels are there, for writers that are all asyncresult's (sharded=true)" if can_shard else ""
            ),
        )
    ]


async def servers_of(backend: Backend) -> list[Server]:
    """Every server that holds keys: in a cluster each primary, else the one."""
    server = Server.of(backend)
    driver = backend.driver
    if not isinstance(driver, ClusterDriver):
        return [server]
    lines = (text_of(await server.try_call("CLUSTER", "NODES")) or "").splitlines()
    found = [Server.at(driver.options, address) for address in primaries_of([line.split() for line in lines])]
    return found or [server]


def primaries_of(nodes: Sequence[list[str]]) -> list[Address]:
    """Those that serve slots, of the lines of CLUSTER NODES."""
    return [_address(node) for node in nodes if "master" in node[2] and "fail" not in node[2] and len(node) > 8]


def _address(node: list[str]) -> Address:
    host, _, port = node[1].partition("@")[0].rpartition(":")
    return Address(host or "127.0.0.1", int(port))


def _of_node(finding: Finding, address: Any) -> Finding:
    return Finding(finding.check, finding.severity, f"{address}: {finding.message}", finding.fix)
