"""Django's tasks framework, over our two backends: see the checks of the project."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.tools.celery_worker import CeleryWorker
from tests.tools.processes import Child
from tests.tools.servers import RedisServer, free_port

pytest.importorskip("django")
pytest.importorskip("django_tasks" if sys.version_info < (3, 12) else "django.tasks")

PROJECT = "tests.integrations.django_tasks_project"


def environment(results: str, backend: str, directory: Path) -> dict[str, str]:
    return {
        "DJANGO_RESULTS": results,
        "DJANGO_SETTINGS_MODULE": f"{PROJECT}.settings",
        "DJANGO_TASKS_BACKEND": backend,
        "DJANGO_DATABASE": str(directory / "db.sqlite3"),
    }


def run_program(env: dict[str, str], *args: str, status: int = 0) -> str:
    """Run a module; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-m", *args],
        env={**os.environ, **env, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == status, done.stderr[-5000:]
    return done.stdout


@pytest.mark.celery
@pytest.mark.parametrize("backend", ["celery", "executor"])
def test_the_contract_of_the_framework(backend: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(RedisServer()).url()
        env = environment(url, backend, tmp_path)
        if backend == "celery":
            app = f"{PROJECT}.celery:app"
            stack.enter_context(CeleryWorker(broker=url, app=app, pool="threads", concurrency=4, env=env))
        run_program(env, f"{PROJECT}.checks")


@pytest.mark.slow
@pytest.mark.celery
@pytest.mark.parametrize("results", ["django-db", "rpc://"])
def test_celery_tasks_whose_results_are_not_in_redis(results: str, tmp_path: Path) -> None:
    pytest.importorskip("django_celery_results")
    with RedisServer() as redis:
        env = {**environment(redis.url(), "celery", tmp_path), "DJANGO_RESULT_BACKEND": results}
        run_program(env, f"{PROJECT}.elsewhere_stored", "migrate")
        with CeleryWorker(broker=redis.url(), app=f"{PROJECT}.celery:app", pool="threads", concurrency=2, env=env):
            run_program(env, f"{PROJECT}.elsewhere_stored")


def test_every_task_of_a_process_has_an_end(tmp_path: Path) -> None:
    with RedisServer() as redis:
        env = environment(redis.url(), "executor", tmp_path)
        ids = run_program(env, f"{PROJECT}.leaving").split()
        states = [json.loads(redis.cli("GET", f"celery-task-meta-{id}"))["status"] for id in ids]
    # The first may be late on a busy machine; it has an end all the same.
    assert states[0] in ("SUCCESS", "REVOKED") and states[1:] == ["REVOKED"] * 10


def test_results_of_other_backends(tmp_path: Path) -> None:
    env = environment("memory://", "executor", tmp_path)
    run_program(env, f"{PROJECT}.foreign_checks")


@contextmanager
def served(kind: str, env: dict[str, str], directory: Path) -> Iterator[Any]:
    """A client of the project behind a real server."""
    port = free_port()
    command = {
        "asgi": ["uvicorn", f"{PROJECT}.asgi:application", "--port", str(port), "--lifespan", "off"],
        "wsgi": ["gunicorn", f"{PROJECT}.wsgi:application", "-b", f"127.0.0.1:{port}", "--threads", "4"],
    }[kind]
    environment = {**os.environ, **env, "PYTHONPATH": os.pathsep.join(sys.path)}
    httpx = pytest.importorskip("httpx")
    pytest.importorskip(command[0])
    server = Child([sys.executable, "-m", *command], log=directory / "log", env=environment)
    try:
        transport = httpx.HTTPTransport(retries=8)
        base = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=base, headers={"X-User": "ann"}, timeout=60, transport=transport) as client:
            yield client
        assert "Traceback" not in server.output(), server.output()
    finally:
        server.kill()


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_a_site(kind: str, tmp_path: Path) -> None:
    with RedisServer() as redis:
        env = environment(redis.url(), "executor", tmp_path)
        with served(kind, env, tmp_path) as client:
            for number in range(5):
                assert client.get(f"/total?x={number}&y=3").json() == {"total": number + 3}
                found = client.get(f"/total_blocking?x={number}&y=3").json()
                assert found == {"total": number + 3, "status": "SUCCESSFUL"}
            assert len(redis.clients()) <= 8  # connections are kept, or closed with the request that made them

            page = client.get("/count/10").text
            ((id, script, source, label),) = re.findall(
                r'<title>(\S+)</title><script type="module" src="(\S+)"></script>'
                r'<task-progress src="(\S+)" label="(.*?)"></task-progress>',
                page,
            )
            assert (source, label) == (f"/jobs/{id}", "Count &lt;all&gt;")
            assert "class TaskProgress" in client.get(script).text

            # Who may see it; and the forms of an answer.
            for path in ("", "/events", "/page", "/tree"):
                assert client.get(f"{source}{path}", headers={"X-User": "bob"}).status_code == 404
            assert client.get(source).json()["links"]["events"] == f"{source}/events"
            assert "<task-progress" in client.get(f"{source}/page").text
            assert client.get("/jobs/static/page.css").headers["content-type"].startswith("text/css")
            waiting = client.get(source, headers={"Prefer": "wait=0.1"})
            assert not waiting.json()["ready"] and waiting.headers["cache-control"] == "no-store"

            # A stream to its end. Under WSGI it comes in pieces of a second.
            text, last, requests = "", "", 0
            while "event: end" not in text:
                piece = client.get(f"{source}/events", headers={"Last-Event-ID": last} if last else {})
                assert piece.headers["content-type"].startswith("text/event-stream")
                text += piece.text
                last = (re.findall(r"^id: (\S+)$", text, re.MULTILINE) or [""])[-1]
                requests += 1
            assert text.count("event: progress") >= 2 and '"description":"counting"' in text
            # (A busy machine may need the time of the task for what was done before.)
            assert "event: done" in text and (requests == 1 or kind == "wsgi"), requests

            # A client that goes away leaves nothing behind.
            other = re.findall(r"<title>(\S+)</title>", client.get("/count/1000").text)[0]
            with client.stream("GET", f"/jobs/{other}/events") as stream:
                next(stream.iter_lines())

            # Who may change it.
            assert client.post(f"/jobs/{other}/revoke").status_code == 403
            assert client.post(f"/jobs/{other}/revoke", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
            assert client.post(f"/jobs/{other}/revoke", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 202
            deadline = time.monotonic() + 60
            while client.get(f"/jobs/{other}").json()["state"] != "REVOKED":
                assert time.monotonic() < deadline

            # The same results by the command of the project.
            shown = run_program(env, "django", "asyncresult", "get", id, "--json")
            assert json.loads(shown)["status"] == "SUCCESS"
            run_program(env, "django", "asyncresult", "get", "nope", "--no-wait", status=4)
            assert "usage: manage.py asyncresult" in run_program(env, "django", "asyncresult", "--help")
