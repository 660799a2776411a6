"""What several programs need. They run in an environment with the wheel alone, so this uses nothing else."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DOCS = Path(os.environ["DOCS"])
REDIS_URL = os.environ["REDIS_URL"]


def absent(*modules: str) -> None:
    """The environment must lack these, or the program shows nothing."""
    found = [module for module in modules if importlib.util.find_spec(module)]
    assert not found, f"installed, though no extra asked for it: {found}"


def output(*command: str, directory: Path = DOCS) -> str:
    """What a program prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, *command], cwd=directory, text=True, timeout=60, stdout=subprocess.PIPE, check=False
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}"
    return done.stdout


@contextmanager
def background(*command: str, directory: Path = DOCS, until: str = "") -> Iterator[subprocess.Popen[str]]:
    """A program that runs meanwhile; ``until``: what its output must show before the block begins."""
    log = directory / f"{command[-1].strip('-').replace('/', '_')}.log"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, *command], cwd=directory, stdout=file, stderr=file, text=True)
    try:
        deadline = time.monotonic() + 60
        while until not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, f"{command}: {log.read_text()[-3000:]}"
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
