"""The tasks. ``pip install "asyncresult[celery,web]" fastapi uvicorn``, then ``celery -A tasks worker``."""

import os
import time
from typing import Any

from celery import Celery

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

app = Celery("tasks", broker=REDIS_URL, backend=REDIS_URL, task_cls="asyncresult.integrations.celery:Task")


@app.task(bind=True)
def write_report(self: Any, customer: str, pages: int) -> str:
    if pages > 500:
        raise ValueError(f"{pages} pages are too many")
    for page in range(pages):
        self.update_state(state="PROGRESS", meta={"current": page, "total": pages, "description": customer})
        time.sleep(0.05)
    return f"{pages} pages for {customer}"
