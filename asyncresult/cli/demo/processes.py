"""The server and the worker of the demo: private, on a free loopback port, ended with it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ...testing import server as testing
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
    with ExitStack() as stack:
        try:
            server = stack.enter_context(testing.private_server())
        except testing.ServerMissing as error:
            raise CommandError(str(error), Status.UNREACHABLE) from None
        yield server.url.removesuffix("/0")


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
