"""``python -m asyncresult`` in a process of its own, with or without a terminal."""

from __future__ import annotations

import io
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from asyncresult.cli import main

__all__ = ["Outcome", "asyncresult", "command", "environment", "in_process", "on_terminal"]

_LOGGER = logging.getLogger("asyncresult")
ROOT = Path(__file__).parents[2]


class Outcome(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "asyncresult", *words]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """That of the tests, but for what the command line looks at."""
    unwanted = {"ASYNCRESULT_URL", "CELERY_RESULT_BACKEND", "NO_COLOR", "PYTHONIOENCODING", "TERM"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100", "LINES": "30", **(more or {})}


def asyncresult(
    *words: str, stdin: str = "", env: Mapping[str, str] | None = None, timeout: float = 60, cwd: Path | None = None
) -> Outcome:
    """Run a command to its end, through pipes. It prints no traceback, whatever happens."""
    done = subprocess.run(
        command(*words),
        input=stdin.encode(),
        capture_output=True,
        env=environment(env),
        timeout=timeout,
        check=False,
        cwd=cwd,
    )
    outcome = Outcome(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
    assert "Traceback (most recent call last)" not in outcome.err or "--traceback" in words, outcome.err
    return outcome


def in_process(*words: str, stdin: str = "", env: Mapping[str, str] | None = None) -> Outcome:
    """The same in this process, which is much cheaper; for all that does not depend on being a program."""
    written = io.BytesIO(), io.BytesIO()
    out, err = (io.TextIOWrapper(stream, "utf-8") for stream in written)
    handlers = list(_LOGGER.handlers)
    with (
        mock.patch.multiple(sys, stdin=io.StringIO(stdin), stdout=out, stderr=err),
        mock.patch.dict(os.environ, environment(env), clear=True),
    ):
        status = main(words)
        out.flush()
        err.flush()
    _LOGGER.handlers[:] = handlers
    return Outcome(status, *(stream.getvalue().decode(errors="replace") for stream in written))


def on_terminal(
    *words: str,
    typed: bytes = b"",
    env: Mapping[str, str] | None = None,
    once_seen: tuple[str, Callable[[subprocess.Popen[bytes]], object]] | None = None,
) -> tuple[int, str]:
    """Run a command to its end on a pseudo-terminal; its status, and all that is seen.

    Args:
        typed: What is there to be read from the beginning.
        once_seen: A text, and what to do with the process when it is seen for the first time.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command(*words), stdin=theirs, stdout=theirs, stderr=theirs, env=environment(env))
    os.close(theirs)
    try:
        os.write(ours, typed)
        seen = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux' way to say that the other side has closed
                break
            if not piece:
                break
            seen += piece
            if once_seen and once_seen[0] in seen.decode(errors="replace"):
                once_seen[1](process)
                once_seen = None
        return process.wait(60), seen.decode(errors="replace")
    finally:
        process.kill()
        process.wait()
        os.close(ours)
