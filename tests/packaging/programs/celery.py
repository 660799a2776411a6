"""A Celery worker on a Redis broker, and the tutorial's program that awaits its tasks."""

from __future__ import annotations

from support import background, output

with background("-m", "celery", "-A", "tasks", "worker", "--concurrency=2", "--loglevel=INFO", until=" ready."):
    assert output("ask.py").endswith("SUCCESS 3 pictures resized\n")
