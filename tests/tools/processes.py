"""Child processes that never outlive the tests, however the tests end.

A child runs in a process group of its own (a Ctrl-C at the terminal does not reach it before the fixtures do),
and is killed with its whole group at the latest when this interpreter ends: at exit, by us; after a SIGKILL, by
a guardian process that notices that its standard input was closed. The same holds for temporary directories.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shutil import rmtree
from typing import IO, TypeVar

__all__ = ["Child", "ServerMissing", "private_directory", "wait_until"]

_GUARDIAN = """
import os, shutil, signal, sys
groups, directories = set(), set()
for line in sys.stdin:
    if line[0] == "/":
        directories.add(line.rstrip())
    elif line[0] == "+":
        groups.add(int(line))
    else:
        groups.discard(-int(line))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
for directory in directories:
    shutil.rmtree(directory, ignore_errors=True)
"""

T = TypeVar("T")

_owner = os.getpid()  # a forked child of the tests inherits the lists below, but not the duty
_children: set[Child] = set()
_directories: set[Path] = set()
_guardian: IO[bytes] | None = None


class ServerMissing(RuntimeError):
    """This machine has no program for what was asked; the text says which. A reason to skip."""


def _tell_guardian(line: str) -> None:
    """``+pid`` or ``-pid`` for a process group that begins or ends, or the path of a directory."""
    global _guardian
    if _guardian is None:
        process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _GUARDIAN], stdin=subprocess.PIPE, start_new_session=True
        )
        _guardian = process.stdin
        process.returncode = 0  # it ends after us: nobody will wait for it
        assert _guardian is not None
    _guardian.write(f"{line}\n".encode())
    _guardian.flush()


@atexit.register
def _clean_up() -> None:
    if os.getpid() == _owner:
        for child in list(_children):
            child.kill()
        for directory in _directories:
            rmtree(directory, ignore_errors=True)
        if _guardian is not None:
            _guardian.close()


def private_directory() -> Path:
    """A new temporary directory, with a path short enough for a unix socket; removed at exit."""
    directory = Path(tempfile.mkdtemp(prefix="asyncresult-"))
    _directories.add(directory)
    _tell_guardian(str(directory))
    return directory


def wait_until(ask: Callable[[], T], what: str, *, timeout: float = 30.0, interval: float = 0.002) -> T:
    """Ask again and again until the answer is true, and return it.

    Raises:
        TimeoutError: It was not, in ``timeout`` seconds. (Many, because a busy machine stands still for some.)
    """
    deadline = time.monotonic() + timeout
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout} s")
        time.sleep(interval)
    return answer


class Child:
    """A child process and the group that it leads.

    Args:
        command: The program and its arguments.
        log: File that gets what it prints, appended.
        env: Its whole environment; None for a copy of ours.
    """

    def __init__(
        self, command: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
        self.pid = self._process.pid
        _children.add(self)
        _tell_guardian(f"+{self.pid}")

    @property
    def running(self) -> bool:
        """Whether it has not ended; a stopped process (SIGSTOP) runs."""
        return self._process.poll() is None

    def output(self) -> str:
        """What this process printed so far."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        self._process.send_signal(number)

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit status, or None if it still runs after ``timeout`` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def stop(self, timeout: float = 10.0) -> int:
        """Ask it to end (SIGTERM), kill it after ``timeout`` seconds; the exit status."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        self.wait(timeout)
        return self.kill()

    def kill(self) -> int:
        """Kill it and everything in its group, also what it left behind; the exit status."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        status = self._process.wait()
        if self in _children:
            _children.discard(self)
            _tell_guardian(f"-{self.pid}")
        return status
