from __future__ import annotations

import threading
import time
from typing import Any

from asyncresult.integrations.django import report_progress
from asyncresult.integrations.django.framework import base

task: Any = base.task


@task
def add(x: int, y: int) -> int:
    return x + y


@task
async def add_async(x: int, y: int) -> int:
    return x + y


@task
async def fail() -> None:
    raise KeyError("k")


class Refused(Exception):
    """Has an exception among its arguments."""


@task
def refuse() -> None:
    raise Refused(ValueError("inner"))


@task
def unserializable() -> Any:
    return object()


@task
def leave() -> None:
    raise SystemExit(3)


@task(takes_context=True)
def attempt(context: Any, number: int) -> list[int]:
    return [context.attempt, number]


@task
def count_slowly(total: int) -> str:
    for number in range(total):
        report_progress(number, total, note="counting")
        time.sleep(0.2)
    return threading.current_thread().name


@task
async def report_once() -> None:
    report_progress(1, 2)


@task
def sleep(seconds: float) -> None:
    time.sleep(seconds)
