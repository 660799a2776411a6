"""Servers that belong together: a primary with its replicas and sentinels, and a cluster.

As :mod:`servers`: each is private, and starting waits until all of them agree.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Self
from urllib.parse import quote, urlencode

import hiredis

from .certificates import Certificates
from .processes import wait_until
from .servers import ADMIN, ADMIN_PASSWORD, Control, Flavour, Option, RedisServer, quoted


class _SentinelServer(RedisServer):
    def __init__(
        self, *, flavour: Flavour | None, password: str | None, tls: Certificates | None, options: Mapping[str, Option]
    ) -> None:
        super().__init__(flavour=flavour, password=password, tls=tls, options=options)
        self._arguments = ["--sentinel"]
        for option in ("save", "appendonly", "appendfsync", "repl-diskless-sync-delay"):
            del self._options[option]

    def channels(self) -> set[str]:
        """A sentinel cannot tell who listens to its own channels."""
        return set()

    shard_channels = channels

    def subscribed(self, control: Control) -> set[str]:
        return set()


class _Group:
    """Several servers that start and end together."""

    def __init__(self) -> None:
        self.servers: list[RedisServer] = []
        """All of them, also the dead."""

    def start(self) -> Self:
        raise NotImplementedError

    def close(self) -> None:
        for server in self.servers:
            server.close()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _wait(self, ask: Callable[[], bool], what: str, *, timeout: float = 30.0) -> None:
        def answered() -> bool:
            try:
                return ask()
            except (OSError, hiredis.ReplyError):  # who changes sides closes its connections, and may be loading
                return False

        wait_until(answered, what, timeout=timeout, interval=0.02)

    @property
    def living(self) -> list[RedisServer]:
        """Those that run and are not paused."""
        return [server for server in self.servers if server.running and not server.paused]

    def at(self, port: int | bytes) -> RedisServer:
        return next(server for server in self.servers if server.port == int(port))


class Sentinels(_Group):
    """A primary with replicas, watched by sentinels: ``with Sentinels() as sentinels: …``.

    Args:
        service: The name under which the sentinels know the primary.
        replicas: How many.
        sentinels: How many; a majority of them decides.
        down_after: Seconds without an answer after which a sentinel believes that a server is down; more than 0.5.
        password: Of the data servers.
        sentinel_password: Of the sentinels.
        tls: For all of them.
        options: For the data servers.
    """

    def __init__(
        self,
        *,
        flavour: Flavour | None = None,
        service: str = "mymaster",
        replicas: int = 1,
        sentinels: int = 3,
        down_after: float = 1.0,
        password: str | None = None,
        sentinel_password: str | None = None,
        tls: Certificates | None = None,
        options: Mapping[str, Option] | None = None,
    ) -> None:
        super().__init__()
        self.service = service
        self.password = password
        self.sentinel_password = sentinel_password
        self.tls = tls
        encrypted = {"tls-replication": "yes"} if tls else {}
        settings: dict[str, Option] = {
            **({"masterauth": quoted(password)} if password else {}),
            **encrypted,
            **(options or {}),
        }
        first = RedisServer(flavour=flavour, password=password, tls=tls, options=settings)
        settings["replicaof"] = f"{first.host} {first.port}"
        self.data = [
            first,
            *(RedisServer(flavour=flavour, password=password, tls=tls, options=settings) for _ in range(replicas)),
        ]
        monitor = [
            f"monitor {service} {first.host} {first.port} {sentinels // 2 + 1}",
            f"down-after-milliseconds {service} {int(down_after * 1000)}",
            f"failover-timeout {service} 3000",
            *([f"auth-pass {service} {quoted(password)}"] if password else []),
            *([f"sentinel-pass {quoted(sentinel_password)}"] if sentinel_password else []),
        ]
        watching: dict[str, Option] = {"sentinel": monitor, **encrypted}
        self.sentinels: list[RedisServer] = [
            _SentinelServer(flavour=flavour, password=sentinel_password, tls=tls, options=watching)
            for _ in range(sentinels)
        ]
        self.servers = [*self.data, *self.sentinels]

    def start(self) -> Self:
        """Start all, and wait until the replicas follow and the sentinels know each other and them."""
        for server in self.servers:
            server.start(wait=False)
        for server in self.servers:
            server.wait_ready()
        self.wait_settled()
        return self

    def wait_settled(self) -> None:
        """Wait until every living data server but one is a replica in sync, and every living sentinel knows that."""
        living = [server for server in self.data if server in self.living]
        watching = [server for server in self.sentinels if server in self.living]

        def settled() -> bool:
            roles = [server.cli("ROLE") for server in living]
            if sorted(role[0] for role in roles) != [b"master"] + [b"slave"] * (len(living) - 1):
                return False
            if any(role[0] == b"slave" and role[3] != b"connected" for role in roles):
                return False
            if len({self._address(sentinel) for sentinel in watching}) != 1:
                return False
            for sentinel in watching:
                (master,) = self._facts(sentinel, "MASTERS")
                if master["flags"] != "master" or int(master["num-other-sentinels"]) != len(self.sentinels) - 1:
                    return False
                good = [
                    replica
                    for replica in self._facts(sentinel, "REPLICAS", self.service)
                    if replica["flags"] == "slave" and replica["master-link-status"] == "ok"
                ]
                if len(good) != len(living) - 1:
                    return False
            return True

        # By default they look around every 10 s (INFO), 2 s (hello) and 1 s (PING), and every test would wait for that.
        # Between two pings there must be clearly less than down_after, or each new primary is thought dead at first;
        # and more than 0.2 s, because a replica of which there is no news (INFO, then every second) for five such
        # periods is not promoted.
        self._debug("INFO-PERIOD", 200, "PUBLISH-PERIOD", 100, "PING-PERIOD", 300)
        self._wait(settled, "the sentinels agree")
        # A sentinel gives the leader of a failover 4 such periods before it undoes the promotion.
        self._debug("PUBLISH-PERIOD", 2000)

    @property
    def primary(self) -> RedisServer:
        """The one that the sentinels name."""
        return self.at(self._address(next(server for server in self.sentinels if server in self.living)))

    @property
    def replicas(self) -> list[RedisServer]:
        primary = self.primary
        return [server for server in self.data if server is not primary and server in self.living]

    def url(self, db: int = 0, **query: str) -> str:
        """``sentinel://[:password@]host:port;host:port/db?service=…``; ``sentinels`` and the authority with TLS."""
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        hosts = ";".join(f"{server.host}:{server.port}" for server in self.sentinels)
        query = {"service": self.service, **(self.tls.query() if self.tls else {}), **query}
        return f"{'sentinels' if self.tls else 'sentinel'}://{login}{hosts}/{db}?{urlencode(query)}"

    def failover(self) -> RedisServer:
        """Have a replica promoted while the primary lives; returns the new primary once all sentinels name it."""
        old = self.primary

        def accepted() -> bool:
            try:
                return bool(self.sentinels[0].cli("SENTINEL", "FAILOVER", self.service))
            except hiredis.ReplyError as error:
                if "NOGOODSLAVE" not in str(error):  # its news of the replica are too old for it, for a moment
                    raise
                return False

        wait_until(accepted, "the sentinel finds a replica to promote")
        return self.wait_promoted(old)

    def kill_primary(self) -> RedisServer:
        """SIGKILL the primary; returns the new one once all living sentinels name it."""
        old = self.primary
        old.kill()
        return self.wait_promoted(old)

    def wait_promoted(self, old: RedisServer, *, timeout: float = 30.0) -> RedisServer:
        """Wait until another server than ``old`` is the primary, by its own word and the sentinels'."""

        def promoted() -> bool:
            ports = {self._address(sentinel) for sentinel in self.sentinels if sentinel in self.living}
            return len(ports) == 1 and ports != {old.port} and self.primary.cli("ROLE")[0] == b"master"

        self._wait(promoted, "a replica is promoted", timeout=timeout)
        return self.primary

    def _debug(self, *periods: str | int) -> None:
        for sentinel in self.sentinels:
            try:
                sentinel.cli("SENTINEL", "DEBUG", *periods)
            except hiredis.ReplyError:  # before Redis 7: slow, but right
                pass

    def _address(self, sentinel: RedisServer) -> int:
        return int(sentinel.cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)[1])

    def _facts(self, sentinel: RedisServer, *what: str) -> list[dict[str, str]]:
        rows = [[field.decode() for field in row] for row in sentinel.cli("SENTINEL", *what)]
        return [dict(zip(row[::2], row[1::2], strict=True)) for row in rows]


def slot_of(key: str | bytes) -> int:
    """The cluster slot of a key, its ``{hash tag}`` observed."""
    name = key.encode() if isinstance(key, str) else key
    start = name.find(b"{")
    end = name.find(b"}", start + 1)
    if start >= 0 and end > start + 1:
        name = name[start + 1 : end]
    return binascii.crc_hqx(name, 0) % 16384


class Cluster(_Group):
    """A cluster of masters, each with replicas: ``with Cluster() as cluster: …``.

    Args:
        masters: How many.
        replicas: For each master.
        node_timeout: Seconds without an answer after which a node is thought dead.
        password: Of every node.
        tls: For every node.
        options: For every node.
    """

    def __init__(
        self,
        *,
        flavour: Flavour | None = None,
        masters: int = 3,
        replicas: int = 1,
        node_timeout: float = 1.0,
        password: str | None = None,
        tls: Certificates | None = None,
        options: Mapping[str, Option] | None = None,
    ) -> None:
        super().__init__()
        self.password = password
        self.tls = tls
        settings: dict[str, Option] = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": int(node_timeout * 1000),
            # A replica's data may be old after a pause; the tests want a promotion all the same.
            "cluster-replica-validity-factor": 0,
            **({"tls-cluster": "yes", "tls-replication": "yes"} if tls else {}),
            **({"masterauth": quoted(password)} if password else {}),
            **(options or {}),
        }
        self._masters = masters
        self.servers = [
            RedisServer(flavour=flavour, password=password, tls=tls, options=settings)
            for _ in range(masters * (1 + replicas))
        ]
        self.ids: dict[RedisServer, str] = {}
        """The node id of each server."""

    def start(self) -> Self:
        """Start the nodes, join them, and wait until all of them agree that the cluster is complete."""
        for server in self.servers:
            server.start(wait=False)
        for epoch, server in enumerate(self.servers, start=1):
            server.wait_ready()
            self.ids[server] = server.cli("CLUSTER", "MYID").decode()
            server.cli("CLUSTER", "SET-CONFIG-EPOCH", epoch)  # else they may claim the same, and vote on it for seconds
        masters = self.servers[: self._masters]
        bounds = [round(number * 16384 / self._masters) for number in range(self._masters + 1)]
        for server, start, end in zip(masters, bounds, bounds[1:], strict=False):
            server.cli("CLUSTER", "ADDSLOTS", *range(start, end))
        for one in self.servers:  # each to each: gossip would take its time
            for other in self.servers:
                if one is not other:
                    one.cli("CLUSTER", "MEET", other.host, other.port)
        self._wait_each(lambda server: len(self._nodes(server)) == len(self.servers), "the nodes know each other")
        for number, server in enumerate(self.servers[self._masters :]):
            # Refused as long as it has not heard that this is a master.
            follow = partial(server.cli, "CLUSTER", "REPLICATE", self.ids[masters[number % self._masters]])
            self._wait(follow, "a replica is accepted")
        self.wait_settled()
        return self

    def wait_settled(self) -> None:
        """Wait until every living node finds the cluster complete and every replica is in sync."""

        def settled(server: RedisServer) -> bool:
            if b"cluster_state:ok" not in server.cli("CLUSTER", "INFO"):
                return False
            role = server.info("replication")
            return role["role"] == "master" or role.get("master_link_status") == "up"

        self._wait_each(settled, "the cluster is complete")
        self._wait_agreed()

    @property
    def masters(self) -> list[RedisServer]:
        """The living nodes that are masters by their own word."""
        return [server for server in self.living if server.cli("ROLE")[0] == b"master"]

    def replicas_of(self, master: RedisServer) -> list[RedisServer]:
        return [
            server
            for server in self.living
            if (role := server.cli("ROLE"))[0] == b"slave" and int(role[2]) == master.port
        ]

    def owner(self, slot: int) -> RedisServer:
        """The master that serves a slot (see :func:`slot_of`)."""
        for start, end, port in self._slots(self.living[0]):
            if start <= slot <= end:
                return self.at(port)
        raise LookupError(f"nobody serves slot {slot}")

    def url(self, db: int = 0, **query: str) -> str:
        """``redis+cluster://[:password@]host:port,host:port/db``; ``rediss`` and the authority with TLS."""
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        hosts = ",".join(f"{server.host}:{server.port}" for server in self.servers)
        query = {**(self.tls.query() if self.tls else {}), **query}
        end = f"?{urlencode(query)}" if query else ""
        return f"{'rediss' if self.tls else 'redis'}+cluster://{login}{hosts}/{db}{end}"

    def kill_node(self, server: RedisServer) -> RedisServer:
        """SIGKILL a master; returns its successor once it serves the slots and all living nodes agree."""
        successors = self.replicas_of(server)
        server.kill()
        self._wait(lambda: any(node in self.masters for node in successors), "a replica is promoted")
        self._wait_each(lambda node: b"cluster_state:ok" in node.cli("CLUSTER", "INFO"), "the cluster is complete")
        self._wait_agreed()
        return next(node for node in successors if node in self.masters)

    def failover(self, master: RedisServer) -> RedisServer:
        """Swap a living master with a replica of it; returns the new master once all nodes agree."""
        successor = self.replicas_of(master)[0]
        for _ in range(5):  # soon after another one the others refuse their votes, and it gives up after 5 s
            successor.cli("CLUSTER", "FAILOVER")
            try:
                self._wait(lambda: successor.cli("ROLE")[0] == b"master", "the replica took over", timeout=5.5)
                break
            except TimeoutError:
                continue
        self.wait_settled()
        return successor

    @contextmanager
    def migrating(self, slot: int, target: RedisServer) -> Generator[RedisServer]:
        """Move a slot; the block runs in the middle: keys moved, ownership not yet (so: ASK). Yields the source."""
        source = self.owner(slot)
        target.cli("CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[source])
        source.cli("CLUSTER", "SETSLOT", slot, "MIGRATING", self.ids[target])
        login: list[str] = ["AUTH2", ADMIN, ADMIN_PASSWORD]
        while keys := source.cli("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.cli("MIGRATE", target.host, target.port, "", 0, 5000, *login, "KEYS", *keys)
        try:
            yield source
        finally:
            for server in (target, source, *(node for node in self.masters if node not in (target, source))):
                server.cli("CLUSTER", "SETSLOT", slot, "NODE", self.ids[target])
            self._wait_agreed()

    def migrate_slot(self, slot: int, target: RedisServer) -> None:
        """Move a slot with its keys to another master."""
        with self.migrating(slot, target):
            pass

    # --- inside

    def _wait_each(self, holds: Callable[[RedisServer], bool], what: str) -> None:
        self._wait(lambda: all(holds(server) for server in self.living), what)

    def _nodes(self, server: RedisServer) -> list[str]:
        return [line for line in server.cli("CLUSTER", "NODES").decode().splitlines() if "handshake" not in line]

    def _slots(self, server: RedisServer) -> list[tuple[int, int, int]]:
        return sorted((start, end, owner[1]) for start, end, owner, *_ in server.cli("CLUSTER", "SLOTS"))

    def _wait_agreed(self) -> None:
        def agreed() -> bool:
            views = [self._slots(server) for server in self.living]
            return all(view == views[0] for view in views)

        self._wait(agreed, "the nodes agree on the slots")
