"""doctor on Sentinel and Cluster, and the commands there."""

from __future__ import annotations

import json

import hiredis
import pytest

from tests.tools.command_line import in_process
from tests.tools.processes import wait_until
from tests.tools.servers import RedisServer
from tests.tools.topologies import Cluster, Sentinels, slot_of

from .test_doctor import findings

pytestmark = pytest.mark.topology

RECORD = json.dumps({"status": "SUCCESS", "result": 5, "traceback": None, "children": []})


def check_commands(url: str, ids: list[str]) -> None:
    """Each command over records that are there."""
    for id in ids:
        assert in_process("get", id, "--url", url) == (0, "5\n", "")
        assert in_process("tree", id, "--url", url).out == f"{id} SUCCESS\n"
    assert sorted(in_process("wait", *ids, "--url", url).out.split("\n")[:-1]) == [f"{id} SUCCESS" for id in ids]
    assert in_process("watch", ids[0], "--url", url).out == f"{ids[0]} SUCCESS 5\n"
    assert json.loads(in_process("info", ids[0], "--json", "--url", url).out)["ttl"] > 3000
    assert sorted(in_process("ls", "--url", url).out.split("\n")[:-1]) == [f"{id} SUCCESS" for id in ids]
    assert in_process("revoke", ids[0], "--url", url).status == 5  # nobody runs tasks here
    assert in_process("forget", *ids, "--yes", "--url", url).err == f"asyncresult: {len(ids)} of {len(ids)} deleted\n"
    assert in_process("get", ids[0], "--no-wait", "--url", url).status == 4


def test_sentinel() -> None:
    with Sentinels() as sentinels:
        url = sentinels.url()
        for number in range(3):
            sentinels.primary.cli("SETEX", f"celery-task-meta-s{number}", 3600, RECORD)
        check_commands(url, ["s0", "s1", "s2"])
        facts = json.loads(in_process("stats", "--json", "--url", url).out)
        assert (facts["sentinels"], facts["role"]) == (3, "master")
        found = findings("--url", url)
        assert {found[name][0] for name in ("sentinel", "role", "notifications", "records")} == {"ok"}
        severity, message, _ = findings(
            "--url", f"sentinel://127.0.0.1:{sentinels.sentinels[0].port}/0?service=mymaster"
        )["sentinel"]
        assert (severity, message) == (
            "warning",
            "the URL names one sentinel: without it nobody says who the primary is",
        )
        unknown = in_process("doctor", "--url", url.replace("mymaster", "nobody"), "--connect-timeout", "1")
        assert unknown.status == 5
        assert "does not report 'nobody'" in unknown.out

        replica, *_ = sentinels.replicas
        replica.kill()
        last = sentinels.sentinels[-1]
        wait_until(lambda: b"s_down" in b" ".join(last.cli("SENTINEL", "REPLICAS", "mymaster")[0]), "it is known")
        assert findings("--url", url)["replicas"][0] == "error"
        for sentinel in sentinels.sentinels[:-1]:
            sentinel.kill()
        wait_until(lambda: _has_no_quorum(last), "the last one has noticed")
        found = findings("--url", url)
        assert found["quorum"][0] == "error"
        assert found["sentinel"][0] == "warning"
        assert "does not answer" in found["sentinel"][1]


def _has_no_quorum(sentinel: RedisServer) -> bool:
    try:
        sentinel.cli("SENTINEL", "CKQUORUM", "mymaster")
    except hiredis.ReplyError as error:
        return "NOQUORUM" in str(error)
    return False


def test_cluster() -> None:
    with Cluster() as cluster:
        url = cluster.url()
        ids = ["a", "b", "c", "d"]  # of several nodes
        assert len({cluster.owner(slot_of(f"celery-task-meta-{id}")) for id in ids}) > 1
        for id in ids:
            cluster.owner(slot_of(f"celery-task-meta-{id}")).cli("SETEX", f"celery-task-meta-{id}", 3600, RECORD)
        check_commands(url, ids)
        facts = json.loads(in_process("stats", "--json", "--url", url).out)
        assert (facts["state"], len(facts["primaries"])) == ("ok", 3)
        assert "  127.0.0.1:" in in_process("stats", "--url", url).out
        found = findings("--url", url)
        assert {found[name][0] for name in ("slots", "rights", "notifications", "records")} == {"ok"}
        assert "every announcement goes to all nodes (3 primaries)" in found["announcing"][1]
        assert "found by the sweep only" in findings("--url", cluster.url(sharded="true"))["announcing"][1]

        for number in range(3):  # of which at least one is on another node than the first
            key = f"app_celery-task-meta-p{number}"
            cluster.owner(slot_of(key)).cli("SETEX", key, 600, RECORD)
            assert "the key prefix 'app_'" in findings(f"p{number}", "--url", url)["reason"][2]
        first, second, *_ = cluster.masters
        second.cli("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")
        severity, message, _ = findings("--url", url)["eviction"]
        assert (severity, message.partition(": ")[0]) == ("warning", f"{second.host}:{second.port}")
        (replica,) = cluster.replicas_of(first)
        replica.kill()
        others = [master for master in cluster.masters if master is not replica]
        wait_until(lambda: all(_knows_down(other, replica) for other in others), "all know that it is down")
        found = findings("--url", url)
        assert found["nodes"][0] == found["replicas"][0] == "warning"
        assert f":{first.port}" in found["replicas"][1]
        first.kill()
        wait_until(lambda: all(_has_failed(node) for node in cluster.living), "the cluster is down")
        outcome = in_process("doctor", "--url", url, "--connect-timeout", "1")
        assert outcome.status == 5
        assert "error    slots: " in outcome.out
        assert "cluster_state is fail" in outcome.out


def _knows_down(teller: RedisServer, node: RedisServer) -> bool:
    lines: list[bytes] = teller.cli("CLUSTER", "NODES").splitlines()
    flags = next(line.split()[2] for line in lines if f":{node.port}@".encode() in line)
    return b"fail" in flags.split(b",")  # "fail?" is a suspicion


def _has_failed(node: RedisServer) -> bool:
    return b"cluster_state:fail" in node.cli("CLUSTER", "INFO")
