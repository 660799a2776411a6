"""Django's tasks framework over a real Celery worker: see the checks of the project."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.tools.celery_worker import CeleryWorker
from tests.tools.servers import RedisServer

pytest.importorskip("django_tasks")
pytestmark = pytest.mark.celery

PROJECT = "tests.integrations.django_tasks_project"
CHECKS = [
    *("enqueue_blocks", "failures", "unknown_ids", "unserializable_arguments", "context", "later", "timeouts"),
    *("many", "coroutines"),
]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    with RedisServer() as server:
        env = {"DJANGO_RESULTS": server.url(), "DJANGO_SETTINGS_MODULE": f"{PROJECT}.settings"}
        with CeleryWorker(broker=server.url(), app=f"{PROJECT}.celery:app", pool="threads", concurrency=2, env=env):
            yield {**os.environ, **env, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.parametrize("check", CHECKS)
def test_the_celery_backend(environment: dict[str, str], check: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"{PROJECT}.checks", check],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
