"""The servers do what the tests rely on."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import hiredis
import pytest
import redis
from redis.exceptions import NoPermissionError

from .certificates import Certificates
from .processes import ServerMissing, wait_until
from .servers import Flavour, RedisServer, find_server, running_servers
from .topologies import Cluster, Sentinels, slot_of


@pytest.fixture(params=["redis", "valkey"])
def flavour(request: pytest.FixtureRequest) -> Flavour:
    chosen: Flavour = request.param
    find_server(chosen)  # skips
    return chosen


def ping(url: str) -> bool:
    with redis.Redis.from_url(url, socket_timeout=30) as client:
        answer = client.ping()
        client.connection_pool.disconnect()
    return answer is True


def test_start_and_end(flavour: Flavour) -> None:
    with RedisServer(flavour=flavour) as server:
        assert server in running_servers()
        assert ping(server.url())
        assert ping(server.url(unix=True))
        assert server.info()["tcp_port"] == str(server.port)
        directory = server.directory
    assert not server.running
    assert server not in running_servers()
    assert not directory.exists()
    with pytest.raises(ConnectionRefusedError), socket.create_connection((server.host, server.port)):
        pass


def test_starts_quickly() -> None:
    with RedisServer():  # the first one also starts the guardian
        pass
    times: list[float] = []
    while not times or (min(times) > 0.1 and len(times) < 10):  # a busy machine does not have ten bad moments
        start = time.perf_counter()
        with RedisServer(flavour="redis"):
            times.append(time.perf_counter() - start)
    assert min(times) < 0.3


def test_data_survives_a_kill_with_aof_and_is_lost_without() -> None:
    for aof, expected in ((True, b"\xff1"), (False, None)):
        with RedisServer(aof=aof) as server:
            port, pid = server.port, server.pid
            server.cli("SET", "key", b"\xff1")
            server.restart()
            assert server.port == port
            assert server.pid != pid
            assert server.cli("GET", "key") == expected


def test_stop_is_orderly() -> None:
    with RedisServer(options={"save": "3600 1"}) as server:
        server.cli("SET", "key", "value")
        server.restart(kill=False)
        assert server.cli("GET", "key") == b"value"


def test_a_paused_server_answers_nobody_until_it_is_resumed() -> None:
    with RedisServer() as server:
        server.pause()
        assert server not in running_servers()
        with redis.Redis.from_url(server.url(), socket_timeout=0.05, retry=None) as client:
            with pytest.raises(redis.TimeoutError):
                client.ping()
            client.connection_pool.disconnect()
        server.resume()
        assert ping(server.url())
        server.pause()
        server.stop()  # also then
        assert not server.running


def test_password_and_users() -> None:
    users = {"reader": "on >secret ~celery-* resetchannels &celery-* +get"}
    with RedisServer(password="p@ss w/ör:d", users=users) as server:
        assert ping(server.url())
        assert ping(server.url(unix=True))
        with pytest.raises(redis.AuthenticationError):
            ping(server.url(password="wrong"))
        with redis.Redis.from_url(server.url(username="reader", password="secret")) as client:
            assert client.get("celery-key") is None
            with pytest.raises(NoPermissionError):
                client.get("other-key")
            client.connection_pool.disconnect()


def test_looking_into_it() -> None:
    with RedisServer() as server, redis.Redis.from_url(server.url()) as client:
        client.set("key", "value")
        subscriber = client.pubsub()
        subscriber.subscribe("a channel")
        subscriber.get_message(timeout=30)
        assert server.channels() == {"a channel"}
        assert server.commandstats()["set"] == 1
        assert [found["sub"] for found in server.clients()] == ["1"]
        assert server.kill_clients("pubsub") == 1
        wait_until(lambda: not server.clients(), "it is gone")
        subscriber.close()
        server.reset()
        assert "set" not in server.commandstats()
        assert server.cli("DBSIZE") == 0
        with pytest.raises(hiredis.ReplyError, match="unknown command"):
            server.cli("NONSENSE")
        client.connection_pool.disconnect()


def test_a_control_connection_outlasts_maxclients() -> None:
    with RedisServer() as server, server.control() as control:
        control("CONFIG", "SET", "maxclients", 1)
        with pytest.raises(redis.ConnectionError, match="max number of clients"):
            ping(server.url())
        control("CONFIG", "SET", "maxclients", 100)
        assert ping(server.url())


def test_tls(certificates: Certificates) -> None:
    with RedisServer(tls=certificates) as server:
        assert server.url().startswith("rediss://")
        assert ping(server.url())
        with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
            ping(f"rediss://{server.host}:{server.port}")


def test_mutual_tls(certificates: Certificates) -> None:
    with RedisServer(tls=certificates, mutual_tls=True) as server:
        assert ping(server.url())
        url = f"rediss://{server.host}:{server.port}?ssl_ca_certs={certificates.ca_cert}"
        with pytest.raises((redis.ConnectionError, ssl.SSLError)):
            ping(url)


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(RuntimeError, match="no-such-option"):
        RedisServer(options={"no-such-option": "1"}).start()


def test_what_a_machine_has_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ServerMissing, match="no redis-server on this machine"):
        RedisServer(flavour="redis")


def test_tls_that_was_not_built_in_is_named(certificates: Certificates) -> None:
    """The wheel's server has none."""
    find_server("valkey")  # skips
    with pytest.raises(ServerMissing, match="without TLS"):
        RedisServer(flavour="valkey", tls=certificates).start()


def test_nothing_survives_a_killed_test_process() -> None:
    code = """if True:
        import os, signal
        from tests.tools.servers import RedisServer
        server = RedisServer().start()
        print(server.pid, server.directory, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    pid, directory = done.stdout.split()

    def gone() -> bool:
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        # In a container without an init nobody buries it.
        state = Path(f"/proc/{pid}/stat")
        return state.exists() and ") Z " in state.read_text()

    wait_until(gone, "the server is gone")
    wait_until(lambda: not Path(directory).exists(), "its directory is gone")


@pytest.mark.topology
def test_sentinels() -> None:
    with Sentinels(password="secret") as sentinels:
        first = sentinels.primary
        assert len(sentinels.replicas) == 1
        assert first.cli("ROLE")[0] == b"master"
        second = sentinels.failover()
        assert second is not first
        assert second is sentinels.primary
        sentinels.wait_settled()
        assert sentinels.replicas == [first]
        second.pause()  # a primary may also just fall silent
        assert sentinels.wait_promoted(second) is first
        second.kill()
        first.cli("SET", "key", "value")
        second.start()
        sentinels.wait_settled()
        assert second.cli("GET", "key") == b"value"
        assert sentinels.kill_primary() is second
        assert not first.running
        assert sentinels.url(1).endswith(f":{sentinels.sentinels[2].port}/1?service=mymaster")


@pytest.mark.topology
def test_cluster() -> None:
    with Cluster() as cluster:
        assert len(cluster.masters) == 3
        slot = slot_of("key")
        first = cluster.owner(slot)
        first.cli("SET", "key", "value")
        second = next(master for master in cluster.masters if master is not first)
        with pytest.raises(hiredis.ReplyError, match="MOVED"):
            second.cli("GET", "key")
        with cluster.migrating(slot, second) as source:
            assert source is first
            with pytest.raises(hiredis.ReplyError, match="ASK"):
                first.cli("GET", "key")
        assert cluster.owner(slot) is second
        assert second.cli("GET", "key") == b"value"
        third = cluster.kill_node(second)
        assert cluster.owner(slot) is third
        assert third.cli("GET", "key") == b"value"
        second.start()
        cluster.wait_settled()
        assert cluster.replicas_of(third) == [second]
        (replica,) = cluster.replicas_of(first)
        assert cluster.failover(first) is replica
        cluster.migrate_slot(slot, replica)
        assert cluster.owner(slot) is replica


@pytest.mark.topology
def test_topologies_with_tls(certificates: Certificates) -> None:
    with Sentinels(tls=certificates, password="secret", sentinel_password="another") as sentinels:
        assert ping(sentinels.primary.url())
        assert ping(sentinels.sentinels[0].url())
    with Cluster(tls=certificates, password="secret", replicas=0) as cluster:
        cluster.servers[0].cli("SET", "{06S}", "value")  # in slot 0
        cluster.migrate_slot(0, cluster.servers[1])
        assert cluster.owner(0) is cluster.servers[1]
        assert ping(cluster.servers[2].url())


def test_slots() -> None:
    """The examples of the cluster specification."""
    assert slot_of("123456789") == 0x31C3
    assert slot_of("{user1000}.following") == slot_of("{user1000}.followers") == slot_of("user1000")
    assert slot_of("foo{}{bar}") != slot_of("bar")
    assert slot_of("foo{{bar}}zap") == slot_of("{bar")
