"""Functions for worker processes: they import this module, and nothing that takes long."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

__all__ = [
    "OddError",
    "die",
    "fail",
    "fail_oddly",
    "give_a_lambda",
    "has_imported",
    "own_pid",
    "run_program",
    "touch_and_sleep",
    "traceparent",
]


class OddError(Exception):
    """Cannot be pickled: its constructor wants more than its ``args``."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def own_pid() -> int:
    return os.getpid()


def has_imported(module: str) -> bool:
    return module in sys.modules


def traceparent() -> str | None:
    """Of the span that is current."""
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get("traceparent")


def touch_and_sleep(path: str, seconds: float) -> str:
    """Write our pid to a file, then sleep."""
    with open(f"{path}.part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{path}.part", path)
    time.sleep(seconds)
    return "slept"


def fail() -> None:
    try:
        raise KeyError("the cause")
    except KeyError as error:
        raise ValueError("the effect") from error


def fail_oddly() -> None:
    raise OddError("odd", 7)


def die() -> None:
    os._exit(1)


def run_program(code: str) -> int:
    """Run a Python program with our streams; its exit code."""
    return subprocess.run([sys.executable, "-c", code]).returncode


def give_a_lambda() -> Callable[[], int]:
    return lambda: 1
