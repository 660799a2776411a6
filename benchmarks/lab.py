"""A private server, and the processes that measure."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from tests.tools.servers import RedisServer

from .contenders import ROOT, Contender

__all__ = ["ENVIRONMENT", "Child", "Failed", "Lab"]

SECONDS_FOR_A_CHILD = 60
#: Between "all of them wait" and the first result: whatever the contender still has to do then is done.
SETTLING = 0.3


#: Children may keep bytecode, as there is for any installed package: else each first get would compile asyncresult.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class Failed(Exception):
    """A contender could not do it, or gave wrong values."""


class Child:
    """A process of :mod:`benchmarks.child`; ends with its block."""

    def __init__(self, contender: Contender, job: dict[str, Any]) -> None:
        self.contender = contender
        self._process = subprocess.Popen(
            [contender.python, "-m", "benchmarks.child", json.dumps(job)],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def expect(self, event: str, *, within: float = SECONDS_FOR_A_CHILD) -> dict[str, Any]:
        """The child's next word.

        Raises:
            Failed: It is another one, or none comes.
        """
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        deadline = time.monotonic() + within
        os.set_blocking(self._process.stdout.fileno(), False)
        line = ""
        while not line.endswith("\n"):
            line += self._process.stdout.readline()
            if not line.endswith("\n"):
                if self._process.poll() is not None:
                    raise Failed(self._process.stderr.read().strip()[-2000:] or "ended without a word")
                if time.monotonic() > deadline:
                    raise Failed(f"not done within {within} s")
                time.sleep(0.005)
        facts: dict[str, Any] = json.loads(line)
        if facts["event"] == "unsupported":
            raise Failed(facts["reason"])
        assert facts["event"] == event, facts
        if not facts.get("correct", True):
            raise Failed("gave wrong values")
        return facts

    def must_still_wait(self) -> None:
        """Raises: Failed: It has ended, or has got something, though there was nothing to get."""
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        if self._process.poll() is not None or self._process.stdout.readline():
            raise Failed("did not go on waiting")

    def cpu(self) -> float:
        """Seconds of CPU that it has used (Linux: the clock of another process, made from its pid)."""
        return time.clock_gettime((~self.pid << 3) | 2)

    def resident_bytes(self) -> int:
        with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()


class Lab:
    """Starts children around one server, which is emptied before each measurement."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self._runs = 0

    def new_run(self) -> int:
        self.server.reset()
        self._runs += 1
        return self._runs

    def client(self, contender: Contender, run: int, n: int, method: str, **more: Any) -> Child:
        return self._child("client", contender, run, n, method=method, **{"padding": 0, "warm": True, **more})

    def producer(self, contender: Contender, run: int, n: int, **more: Any) -> Child:
        return self._child("producer", contender, run, n, **{"padding": 0, "steps": 0, "pause": 0.0, **more})

    def _child(self, role: str, contender: Contender, run: int, n: int, **more: Any) -> Child:
        job = {
            "role": role,
            "adapter": contender.adapter,
            "variant": contender.variant,
            "url": f"redis://{self.server.host}:{self.server.port}/0",
            "run": run,
            "n": n,
        }
        return Child(contender, job | more)

    def announce(self, contender: Contender, run: int, n: int) -> None:
        """Put in place what is there while tasks run."""
        with self.producer(contender, run, n) as producer:
            producer.expect("ready")

    @contextmanager
    def stored(self, contender: Contender, run: int, n: int) -> Iterator[None]:
        """With n results in place."""
        with self.producer(contender, run, n) as producer:
            producer.expect("ready")
            producer.go()
            producer.expect("done")
        yield

    def wait_until_waiting(self, contender: Contender, n: int, *, within: float = SECONDS_FOR_A_CHILD) -> None:
        """Return when the server shows that n waits stand, and everything has calmed down.

        Raises:
            Failed: That does not happen.
        """
        wanted = {"channels": ("pubsub_channels", n), "patterns": ("pubsub_patterns", 1), "": ("", 0)}
        field, count = wanted[contender.waits]
        deadline = time.monotonic() + within
        while field and int(self.server.info("stats")[field]) < count:
            if time.monotonic() > deadline:
                raise Failed("did not come so far that it waits")
            time.sleep(0.02)
        time.sleep(SETTLING + contender.waiting_first + (contender.polls and 1.0))
