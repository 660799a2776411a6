"""The record as a Celery worker stores it: what everybody reads who can read Celery's results."""

from __future__ import annotations

import json
from typing import Any

from .base import Adapter, Command

__all__ = ["CeleryFormat", "key_of"]


def key_of(id: str) -> str:
    return f"celery-task-meta-{id}"


def record(id: str, value: Any, status: str, date_done: str | None) -> str:
    return json.dumps(
        {
            "status": status,
            "result": value,
            "traceback": None,
            "children": [],
            "date_done": date_done,
            "task_id": id,
        }
    )


def storing(id: str, payload: str) -> list[Command]:
    key = key_of(id)
    return [("GET", key), ("MULTI",), ("SETEX", key, 86400, payload), ("PUBLISH", key, payload), ("EXEC",)]


class CeleryFormat(Adapter):
    def commands(self, id: str, value: Any) -> list[Command]:
        payload = record(id, value, "SUCCESS", "2026-01-02T03:04:05.678901+00:00")
        return storing(id, payload)

    def progress(self, id: str, step: int) -> list[Command]:
        payload = record(id, {"current": step}, "PROGRESS", None)
        return storing(id, payload)
