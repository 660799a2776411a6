"""Private PostgreSQL clusters, memcached processes and what speaks MongoDB's protocol, like :mod:`.servers`."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from .processes import Child, ServerMissing, private_directory, wait_until
from .servers import free_port

__all__ = ["PostgresServer", "memcached", "mongodb"]

_PROGRAMS = Path("/usr/lib/postgresql")  # where Debian has it, apart from PATH and by version


def _postgres_programs() -> Path:
    """The folder of the newest PostgreSQL. Raises ServerMissing."""
    found = sorted(_PROGRAMS.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    if on_path := shutil.which("postgres"):
        return Path(on_path).parent
    raise ServerMissing("no PostgreSQL on this machine (Debian: apt install postgresql)")


def _unprivileged() -> list[str]:
    """What to put in front of a command so that PostgreSQL, which refuses to be run by root, takes it."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise ServerMissing("PostgreSQL does not run as root, and there is no setpriv to become another user with")
    user = pwd.getpwnam("nobody")
    return [setpriv, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


class PostgresServer:
    """A cluster of its own, without passwords, on a free port of 127.0.0.1 and in a directory that will be removed.

    Raises:
        ServerMissing: PostgreSQL is not installed.
    """

    def __init__(self) -> None:
        self._programs = _postgres_programs()
        self._as = _unprivileged()
        self.directory = private_directory()
        self.port = free_port()
        self._child: Child | None = None

    def __enter__(self) -> Self:
        if self._as:
            shutil.chown(self.directory, "nobody")
        command: list[str | Path] = [*self._as, self._programs / "initdb", "-D", self.directory / "data", "-U", "tests"]
        command += ["-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, cwd=self.directory)
        self.start()
        return self

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": "300",
        }
        command: list[str | Path] = [*self._as, self._programs / "postgres", "-D", self.directory / "data"]
        command += ["-p", str(self.port), *(f"--{name}={value}" for name, value in options.items())]
        log = self.directory / "log"
        self._child = Child(command, log=log, cwd=self.directory)
        wait_until(self._answers, "PostgreSQL answers", interval=0.02)

    def _answers(self) -> bool:
        return self.cli("SELECT 1") is not None

    def cli(self, statement: str, database: str = "postgres") -> str | None:
        """What psql prints; None if that failed."""
        psql: list[str | Path] = [self._programs / "psql", "-X", "-A", "-t", "-q", "-U", "tests", "-h", "127.0.0.1"]
        psql += ["-p", str(self.port), "-d", database, "-c", statement]
        done = subprocess.run(psql, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    def stop(self) -> None:
        """Stop it at once, as an outage does. :meth:`start` brings it back with what was committed."""
        if self._child is not None:
            self._child.signal(signal.SIGINT)  # "fast": connections are ended
            self._child.wait(20)
            self._child = None

    def __exit__(self, *exc_info: Any) -> None:
        if self._child is not None:
            self._child.kill()

    def url(self, database: str = "postgres", driver: str = "postgresql+psycopg") -> str:
        """A URL of SQLAlchemy."""
        return f"{driver}://tests@127.0.0.1:{self.port}/{database}"


@contextmanager
def memcached() -> Generator[tuple[str, int]]:
    """A memcached process; its host and port.

    Raises:
        ServerMissing: It is not installed.
    """
    program = shutil.which("memcached")
    if program is None:
        raise ServerMissing("no memcached on this machine (Debian: apt install memcached)")
    port = free_port()
    as_root = ["-u", "root"] if os.geteuid() == 0 else []
    with _listening([program, "-l", "127.0.0.1", "-p", str(port), "-U", "0", *as_root], port):
        yield "127.0.0.1", port


@contextmanager
def mongodb() -> Generator[str]:
    """NX-27017, which speaks MongoDB's protocol and keeps its documents in SQLite, in memory; its URL.

    Raises:
        ServerMissing: It is not installed, or pymongo is not.
    """
    if not all(importlib.util.find_spec(name) for name in ("nx_27017", "pymongo")):
        raise ServerMissing("nothing here speaks MongoDB's protocol (pip install nx-27017)")
    directory, port = private_directory(), free_port()
    command = [sys.executable, "-m", "nx_27017.nx_27017", "--host", "127.0.0.1", "--port", str(port), "--db", "memory"]
    command += ["--log-file", str(directory / "server.log"), "--pid-file", str(directory / "pid")]
    with _listening(command, port):
        yield f"mongodb://127.0.0.1:{port}"


@contextmanager
def _listening(command: list[str], port: int) -> Generator[None]:
    """A process, once it takes connections on its port."""
    child = Child(command, log=private_directory() / "log")

    def answers() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    try:
        wait_until(answers, f"{command[0]} answers")
        yield
    finally:
        child.kill()
