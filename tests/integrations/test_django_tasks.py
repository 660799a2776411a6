"""Django's tasks framework, over our two backends: see the checks of the project."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.tools.celery_worker import CeleryWorker
from tests.tools.servers import RedisServer

pytest.importorskip("django")
pytest.importorskip("django_tasks" if sys.version_info < (3, 12) else "django.tasks")

PROJECT = "tests.integrations.django_tasks_project"


def run_program(env: dict[str, str], *args: str) -> str:
    """Run a module of the project; returns what it says on stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-m", *args],
        env={**os.environ, **env, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stderr


@pytest.mark.celery
@pytest.mark.parametrize("backend", ["celery", "executor"])
def test_the_contract_of_the_framework(backend: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(RedisServer()).url()
        env = {
            "DJANGO_RESULTS": url,
            "DJANGO_SETTINGS_MODULE": f"{PROJECT}.settings",
            "DJANGO_TASKS_BACKEND": backend,
            "DJANGO_DATABASE": str(tmp_path / "db.sqlite3"),
        }
        if backend == "celery":
            app = f"{PROJECT}.celery:app"
            stack.enter_context(CeleryWorker(broker=url, app=app, pool="threads", concurrency=4, env=env))
        run_program(env, f"{PROJECT}.checks")


def test_results_of_other_backends(tmp_path: Path) -> None:
    env = {
        "DJANGO_RESULTS": "memory://",
        "DJANGO_SETTINGS_MODULE": f"{PROJECT}.settings",
        "DJANGO_TASKS_BACKEND": "executor",
        "DJANGO_DATABASE": str(tmp_path / "db.sqlite3"),
    }
    run_program(env, f"{PROJECT}.foreign_checks")
