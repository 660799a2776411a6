"""A worker of RQ, and the program of the page that awaits its results."""

from __future__ import annotations

from support import REDIS_URL, background, output

with background("-m", "rq.cli", "worker", "--url", REDIS_URL, "--job-class", "rq_tasks.StoredJob"):
    assert output("rq_main.py") == "2.0\ndivision by zero\n"
