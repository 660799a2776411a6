"""A real Celery worker, in a process of its own: ``with CeleryWorker(broker=url) as worker: …``."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from .celery_app import CONFIG_VARIABLE
from .processes import Child, private_directory, wait_until

__all__ = ["CeleryWorker"]

_ROOT = Path(__file__).parents[2]


class CeleryWorker:
    """A worker of ``tests.tools.celery_app``, or of another application.

    Args:
        broker: URL.
        backend: URL; None for the broker's.
        config: More Celery settings (for other applications only if they read ``$TEST_CELERY_CONFIG`` too).
        app: What Celery's ``-A`` takes; importable from the root of the repository.
        pool: "solo" starts fastest; only "prefork" can be terminated and knows time limits.
        arguments: More of the command line.
        env: More of the environment.
    """

    def __init__(
        self,
        *,
        broker: str,
        backend: str | None = None,
        config: Mapping[str, Any] | None = None,
        app: str = "tests.tools.celery_app:app",
        pool: Literal["solo", "prefork", "threads"] = "solo",
        concurrency: int = 1,
        queues: Sequence[str] = ("celery",),
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.broker = broker
        self.backend = backend or broker
        self.config = {"broker_url": self.broker, "result_backend": self.backend, **(config or {})}
        self.queues = tuple(queues)
        self._log = private_directory() / "log"
        self._command = [
            *(sys.executable, "-m", "celery", "-A", app, "worker", "--loglevel", "INFO", "--pool", pool),
            *("--concurrency", str(concurrency), "--queues", ",".join(queues)),
            # On RabbitMQ the queue for remote control is called so, and belongs to one worker alone.
            *("--hostname", f"{uuid.uuid4().hex[:12]}@localhost"),
            # To look for other workers takes a second, and there are none.
            *("--without-mingle", "--without-gossip", "--without-heartbeat"),
            *arguments,
        ]
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        self._env = {**os.environ, "PYTHONPATH": path, CONFIG_VARIABLE: json.dumps(self.config), **(env or {})}
        self._child: Child | None = None

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    def start(self, *, wait: bool = True) -> Self:
        """Start it, and wait until it says that it takes tasks."""
        self._child = Child(self._command, log=self._log, env=self._env, cwd=self._log.parent)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, *, timeout: float = 30.0) -> None:
        def ready() -> bool:
            if not self.running:
                raise RuntimeError(f"the worker ended:\n{self.log()[-3000:]}")
            return re.search(r"\bready\.$", self.log(), re.MULTILINE) is not None

        wait_until(ready, "the worker is ready", timeout=timeout, interval=0.02)

    def log(self) -> str:
        """What it printed since its last start."""
        return self._child.output() if self._child else ""

    def pause(self) -> None:
        assert self._child is not None
        self._child.signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._child is not None
        self._child.signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, its pool too."""
        if self._child:
            self._child.kill()

    def stop(self) -> None:
        """Let it end what it is doing, for ten seconds at most."""
        if self._child:
            self._child.stop()

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
