"""The page docs/howto/django.md, followed word by word in a project that django-admin has made."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.tools.celery_worker import CeleryWorker
from tests.tools.processes import Child
from tests.tools.servers import free_port

django = pytest.importorskip("django")
httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "howto" / "django.md").read_text(encoding="utf-8")


def follow_page(directory: Path, *, celery: bool) -> None:
    """Write its files. Blocks for settings.py are appended."""
    for title, code in re.findall(r'```\w+ title="(.*?)"\n(.*?)```', PAGE, re.DOTALL):
        path, _, rest = title.partition(", ")
        if ("celery" in title.lower()) and not celery:
            continue
        if django.VERSION < (6,):
            code = code.replace("from django.tasks import task", "from django_tasks import task")
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        earlier = target.read_text(encoding="utf-8") if rest else ""
        target.write_text(earlier + code, encoding="utf-8")


def _a_misspelt_option_is_found(settings: Path, check: list[str], env: dict[str, str]) -> None:
    right = settings.read_text(encoding="utf-8")
    settings.write_text(right + "\nTASKS['default'].setdefault('OPTIONS', {})['CONCURENCY'] = 3\n", encoding="utf-8")
    done = subprocess.run(check, check=False, env=env, cwd=settings.parents[1], capture_output=True, text=True)
    assert "(asyncresult.E007)" in done.stderr, done.stderr
    settings.write_text(right, encoding="utf-8")


@pytest.mark.celery
@pytest.mark.parametrize("celery", [False, True], ids=["in-process", "celery"])
def test_the_page(celery: bool, redis_url: str, tmp_path: Path) -> None:
    python = [sys.executable, "-m", "django"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    subprocess.run([*python, "startproject", "mysite", str(tmp_path)], check=True, env=env)
    subprocess.run([sys.executable, "manage.py", "startapp", "shop"], check=True, env=env, cwd=tmp_path)
    follow_page(tmp_path, celery=celery)
    settings = tmp_path / "mysite" / "settings.py"
    settings.write_text(settings.read_text(encoding="utf-8").replace("redis://localhost:6379/0", redis_url))
    check = [sys.executable, "manage.py", "check", "--fail-level", "WARNING"]
    subprocess.run(check, check=True, env=env, cwd=tmp_path)
    _a_misspelt_option_is_found(settings, check, env)
    env["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "mysite.asgi:application", "--port", str(port), "--lifespan", "off"]
    with ExitStack() as stack:
        if celery:
            worker_env = {name: env[name] for name in ("PYTHONPATH", "DJANGO_SETTINGS_MODULE")}
            worker = CeleryWorker(broker=redis_url, app="mysite.celery:app", pool="threads", env=worker_env)
            stack.enter_context(worker.start())
        server = Child(command, log=tmp_path / "log", env=env, cwd=tmp_path)
        stack.callback(server.kill)
        transport = httpx.HTTPTransport(retries=8)
        client: Any = stack.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, transport=transport)
        )
        assert client.get("/total").json() == {"status": "SUCCESSFUL", "value": "5 pictures"}
        page = client.get("/start").text
        ((script, task),) = re.findall(r'<script type="module" src="(\S+)"></script><task-progress src="(\S+)"', page)
        assert script == "/static/asyncresult/task-progress.js" and task.startswith("/tasks/")
        events = client.get(f"{task}/events").text
        assert events.count("event: progress") >= 2 and '"description":"resizing"' in events
        assert '"result":"50 pictures"' in events
        assert "Traceback" not in server.output(), server.output()
