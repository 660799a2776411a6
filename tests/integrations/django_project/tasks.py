from __future__ import annotations

import time

from celery import shared_task


@shared_task
def add(x: int, y: int) -> int:
    return x + y


@shared_task
def divide(x: int, y: int) -> float:
    return x / y


@shared_task
def sleep(seconds: float) -> None:
    time.sleep(seconds)
