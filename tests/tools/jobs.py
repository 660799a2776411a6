"""Functions for worker processes: they import this module, and nothing that takes long."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = [
    "LoadedBy",
    "OddError",
    "close_output",
    "die",
    "fail",
    "fail_oddly",
    "fork_and_die",
    "fork_and_go_on",
    "give",
    "give_a_lambda",
    "has_imported",
    "own_pid",
    "put_output_away",
    "run_program",
    "touch_and_sleep",
    "traceparent",
]


class OddError(Exception):
    """Cannot be pickled: its constructor wants more than its ``args``."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class LoadedBy:
    """When it is unpickled, ``call(argument)`` is called: in a class of users, that is code of theirs."""

    def __init__(self, call: Callable[[Any], Any], argument: Any) -> None:
        self.how = call, (argument,)

    def __reduce__(self) -> tuple[Callable[[Any], Any], tuple[Any]]:
        return self.how


def give(value: Any) -> Any:
    return value


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


def fork_and_go_on(error: BaseException | None) -> str:
    """The child does not leave the function by ``os._exit()``, but as the parent does, or by ``error``."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return "parent"
    if error is not None:
        raise error
    return "child"


def fork_and_die(path: str) -> None:
    """The child lives on, and has its pid in a file."""
    if os.fork():
        os._exit(3)
    touch_and_sleep(path, 600)


def close_output() -> str:
    sys.stdout.close()
    return "closed"


def put_output_away() -> str:
    """As it is in a program that was started without."""
    sys.stdout = sys.stderr = None
    return "put away"


def run_program(code: str) -> int:
    """Run a Python program with our streams; its exit code."""
    return subprocess.run([sys.executable, "-c", code]).returncode


def give_a_lambda() -> Callable[[], int]:
    return lambda: 1
