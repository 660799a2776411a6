"""The demo's Celery application: ordinary tasks of an ordinary worker, which knows nothing of asyncresult."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery, Task

app: Any = Celery("demo", broker=os.environ["DEMO_BROKER"], backend=os.environ["DEMO_BACKEND"])
app.conf.update(task_track_started=True, broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task(bind=True)
def resize(self: Task, pictures: int) -> str:
    for done in range(1, pictures + 1):
        time.sleep(0.1)
        self.update_state(state="PROGRESS", meta={"current": done, "total": pictures})
    return f"{pictures} pictures resized"


@app.task
def divide(x: int, y: int) -> Any:
    return x / y
