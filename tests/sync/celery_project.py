"""A Celery application whose tasks wait for, and send, other tasks. ``results`` names the module they wait with."""

from __future__ import annotations

import importlib
import json
import os
import time
from typing import Any

from celery import Celery, Task, group

from tests.tools.celery_app import CONFIG_VARIABLE

__all__ = ["app", "make_project"]


def make_project(**config: Any) -> Celery:
    made = Celery("sync_project", set_as_current=False)
    made.conf.update(
        broker_connection_retry_on_startup=True,
        broker_heartbeat=None,
        task_track_started=True,
        result_extended=True,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        **config,
    )

    @made.task(shared=False, name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @made.task(shared=False, name="boom")
    def boom() -> None:
        raise ValueError("boom")

    @made.task(shared=False, name="slow")
    def slow(seconds: float) -> None:
        time.sleep(seconds)

    @made.task(shared=False, name="report", bind=True)
    def report(self: Task, a: int, b: int) -> int:
        self.update_state(state="PROGRESS", meta={"progress": 50})
        self.update_state(state="PROGRESS", meta={"progress": 90})
        return a + b

    @made.task(shared=False, name="fan")
    def fan(count: int) -> Any:
        return group(relay.s(number) for number in range(count))()

    @made.task(shared=False, name="relay")
    def relay(number: int) -> Any:
        return square.delay(number)

    @made.task(shared=False, name="square")
    def square(number: int) -> int:
        return number**2

    @made.task(shared=False, name="ask")
    def ask(results: str, id: str, how: str) -> Any:
        """Wait for a result inside a task: not allowed, unless it is said how."""
        module = importlib.import_module(results)
        result = module.AsyncResult(id, app=made)
        if how == "option":
            return result.get(timeout=10, disable_sync_subtasks=False)
        if how == "block":
            with module.allow_join_result():
                return module.ResultSet([result]).get(timeout=10)
        return result.get(timeout=10)

    return made


app = make_project(**json.loads(os.environ.get(CONFIG_VARIABLE, "{}")))
