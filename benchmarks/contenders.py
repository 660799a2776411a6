"""Who takes part, and the virtual environment of each."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CONTENDERS", "QUICK", "ROOT", "Contender", "prepare"]

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Contender:
    """A row of every table.

    Attributes:
        name: For ``--only`` and the results.
        label: For people.
        adapter: The module in :mod:`benchmarks.adapters`.
        requirements: What its own environment needs; without any it lives in the project's.
        variant: Told to the adapter.
        waits: What the server shows once n waits stand: "channels" (n of them), "patterns" (one), "" (nothing).
        polls: Seconds between two looks of a contender that polls: its rounds are fewer and further apart.
        waiting_first: Seconds that it takes from there until it really listens.
        most: The largest number of results it is asked to wait for (None: any); larger ones take minutes.
    """

    name: str
    label: str
    adapter: str
    requirements: tuple[str, ...] = ()
    variant: str = ""
    waits: str = "channels"
    polls: float = 0.0
    waiting_first: float = 0.0
    most: int | None = None

    @property
    def environment(self) -> Path:
        return ROOT / ".venvs" / f"bench-{self.adapter}" if self.requirements else Path(sys.prefix)

    @property
    def python(self) -> str:
        return str(self.environment / "bin" / "python") if self.requirements else sys.executable


CONTENDERS = [
    Contender("raw", "raw protocol", "raw"),
    Contender("asyncresult", "asyncresult", "ours", variant="asyncio"),
    Contender("uvloop", "asyncresult, uvloop", "ours", variant="uvloop"),
    Contender("frozen", "asyncresult after gc.freeze()", "ours", variant="frozen"),
    Contender("sync", "asyncresult.sync", "ours_sync"),
    Contender("pubsub", "redis-py PubSub by hand", "pubsub"),
    Contender("celery", "Celery", "celery", waiting_first=0.8),
    Contender("celery-nosleep", "Celery, sleep(0) taken out", "celery", variant="nosleep", waiting_first=0.8),
    Contender("celery-thread", "Celery in a thread", "celery", variant="thread", waiting_first=0.8),
    Contender(
        "celery-thread-nosleep",
        "Celery in a thread, sleep(0) taken out",
        "celery",
        variant="thread+nosleep",
        waiting_first=0.8,
    ),
    Contender(
        "saq",
        "SAQ",
        "saq",
        ("saq[redis]", "hiredis", "typing_extensions"),
        waits="patterns",
        waiting_first=4.0,
        most=10_000,
    ),
    Contender(
        "taskiq", "taskiq-redis", "taskiq", ("taskiq", "taskiq-redis", "hiredis"), waits="", polls=0.2, most=10_000
    ),
    Contender("arq", "arq", "arq", ("arq", "hiredis"), waits="", polls=0.5, most=10_000),
    Contender("streaq", "streaq", "streaq", ("streaq", "hiredis"), polls=0.1, most=1),
    Contender(
        "aio-celery", "aio-celery", "aio_celery", ("aio-celery[redis]", "hiredis"), waits="", polls=0.5, most=10_000
    ),
    Contender("dramatiq", "dramatiq", "dramatiq", ("dramatiq[redis]", "hiredis"), waits="", most=10_000),
    Contender("rq", "RQ", "rq", ("rq", "hiredis"), waits="", most=10_000),
]

#: Who takes part with ``--quick``.
QUICK = {"raw", "asyncresult", "pubsub", "celery", "celery-nosleep"}


def prepare(contender: Contender) -> str | None:
    """Make the contender's environment, unless it is there; why that failed, if it did."""
    if not contender.requirements or (contender.environment / "ready").exists():
        return None
    shutil.rmtree(contender.environment, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(contender.environment)],
        [contender.python, "-m", "pip", "--disable-pip-version-check", "install", "-q", *contender.requirements],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return (done.stderr or done.stdout).strip().splitlines()[-1]
    (contender.environment / "ready").touch()
    return None
