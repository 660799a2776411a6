"""What the tests of promises share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from asyncresult.promise import Promise

__all__ = ["Settle", "Thenable", "at_any_moment", "deferred", "fulfilling", "loop_errors", "rejecting", "ticks"]

Settle = Callable[[Any], None]

#: A promise settles before ``then``, right after it, or in a later job of the loop.
at_any_moment = pytest.mark.parametrize("moment", ["already", "immediately", "eventually"])


async def ticks(count: int = 10) -> None:
    """Let the jobs of the loop run, and the jobs that those put up."""
    for _ in range(count):
        await asyncio.sleep(0)


def deferred() -> tuple[Promise[Any], Settle, Settle]:
    """A promise and its two functions."""
    functions: list[Settle] = []
    promise: Promise[Any] = Promise(lambda resolve, reject: functions.extend((resolve, reject)))
    return promise, functions[0], functions[1]


def fulfilling(moment: str, value: Any = "value") -> tuple[Promise[Any], Callable[[], None]]:
    """A promise, and what to call after ``then`` so that it is fulfilled at ``moment``."""
    promise, resolve, _ = deferred()
    return promise, _settling(moment, resolve, value)


def rejecting(moment: str, reason: BaseException) -> tuple[Promise[Any], Callable[[], None]]:
    """A promise, and what to call after ``then`` so that it is rejected at ``moment``."""
    promise, _, reject = deferred()
    return promise, _settling(moment, reject, reason)


def _settling(moment: str, settle: Settle, outcome: Any) -> Callable[[], None]:
    def later() -> None:
        asyncio.get_running_loop().call_soon(settle, outcome)

    if moment == "already":
        settle(outcome)
        return lambda: None
    return later if moment == "eventually" else lambda: settle(outcome)


class Thenable:
    """An object with a ``then`` method, which calls back as told by ``script(resolve, reject)``."""

    def __init__(self, script: Callable[[Settle, Settle], None]) -> None:
        self.script = script
        self.looked_up = 0

    @property
    def then(self) -> Callable[[Settle, Settle], None]:
        self.looked_up += 1
        return self.script


def loop_errors() -> list[BaseException]:
    """From now on, collect what reaches the exception handler of the running loop."""
    errors: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context["exception"]))
    return errors
