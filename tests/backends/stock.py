"""What a stock Celery worker does to the store, without one."""

from __future__ import annotations

import json
import uuid
from typing import Any

from asyncresult import Backend
from tests.tools.servers import RedisServer

__all__ = ["new_ids", "stock_store"]


def new_ids(count: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(count)]


def stock_store(server: RedisServer, backend: Backend, results: dict[str, Any], *, announce: bool = True) -> None:
    """SETEX and PUBLISH each result, as the workers of Celery do, over one connection."""
    with server.control() as control:
        if db := getattr(getattr(backend.driver, "options", None), "db", 0):  # a cluster has none
            control("SELECT", db)
        for id, value in results.items():
            record = {
                "status": "SUCCESS",
                "result": value,
                "traceback": None,
                "children": [],
                "date_done": "2024-01-02T03:04:05.678901+00:00",
                "task_id": id,
            }
            key, payload = backend.task_key(id), json.dumps(record)
            control("SETEX", key, 86400, payload)
            if announce:
                control("PUBLISH", key, payload)
