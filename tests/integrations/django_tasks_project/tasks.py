from __future__ import annotations

from typing import Any

from asyncresult.integrations.django.framework import base

task: Any = base.task


@task
def add(x: int, y: int) -> int:
    return x + y


@task
async def fail() -> None:
    raise KeyError("k")


@task
def unserializable() -> Any:
    return object()


@task
def leave() -> None:
    raise SystemExit(3)


@task(takes_context=True)
def attempt(context: Any, number: int) -> list[int]:
    return [context.attempt, number]
