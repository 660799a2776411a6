"""A server with one record of each kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.tools.servers import RedisServer

Store = Callable[..., None]


@pytest.fixture
def store(redis_server: RedisServer) -> Store:
    """Writes a record as a worker would: ``store(id, state, result, **fields)``."""

    def write(id: str, status: str = "SUCCESS", result: Any = None, **fields: Any) -> None:
        record = {"task_id": id, "status": status, "result": result, "traceback": None, "children": [], **fields}
        document = json.dumps(record)
        redis_server.cli("SETEX", f"celery-task-meta-{id}", 3600, document)
        redis_server.cli("PUBLISH", f"celery-task-meta-{id}", document)

    return write


@pytest.fixture
def url(redis_server: RedisServer, store: Store) -> str:
    """Of a server with records: ok, text, bad, gone, busy; and ``junk``, which is none."""
    failure = {"exc_type": "ValueError", "exc_message": ["boom"], "exc_module": "builtins"}
    revoked = {"exc_type": "TaskRevokedError", "exc_message": ["revoked"], "exc_module": "celery.exceptions"}
    store("ok", result={"n": 1}, worker="w1", name="proj.add")
    store("text", result="two\nlines")
    store("bad", "FAILURE", failure, traceback="Traceback (most recent call last):\n  …\nValueError: boom\n")
    store("gone", "REVOKED", revoked)
    store("busy", "PROGRESS", {"current": 3, "total": 10, "note": "three"})
    redis_server.cli("SET", "celery-task-meta-junk", b"\x80\x04nonsense")
    return redis_server.url()
