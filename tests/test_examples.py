"""The programs in examples/ are run as they are, against servers of the test's own."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import asyncresult
from tests.tools.celery_worker import CeleryWorker
from tests.tools.processes import Child
from tests.tools.servers import free_port

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@contextmanager
def serving(directory: Path, app: str, log: Path, env: dict[str, str]) -> Generator[Any]:
    """A client of an example that uvicorn serves."""
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("uvicorn")
    port = free_port()
    path = os.pathsep.join([str(directory), str(ROOT)])
    command = [sys.executable, "-m", "uvicorn", app, "--port", str(port)]
    server = Child(command, log=log, env={**os.environ, "PYTHONPATH": path, **env}, cwd=directory)
    # It takes some seconds until it listens.
    transport = httpx.HTTPTransport(retries=9)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, transport=transport) as client:
            yield client
    finally:
        server.kill()


@pytest.mark.celery
def test_fastapi_celery(redis_url: str, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    directory = EXAMPLES / "fastapi_celery"
    env = {"REDIS_URL": redis_url}
    worker_env = {**env, "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)])}
    worker = CeleryWorker(broker=redis_url, app="tasks:app", pool="threads", concurrency=2, env=worker_env)
    with worker, serving(directory, "web:app", tmp_path / "log", env) as client:
        assert client.get("/healthz").json()["ok"] is True
        assert "task-progress" in client.get("/").text
        assert client.get("/tasks/static/task-progress.js").status_code == 200
        started = client.post("/reports/Ada?pages=5")
        assert started.status_code == 202
        events = client.get(f"{started.headers['location']}/events").text
        assert '"result":"5 pages for Ada"' in events
        quick = client.post("/reports/Ada?pages=1", headers={"Prefer": "wait=25"})
        assert (quick.status_code, quick.json()["result"]) == (200, "1 pages for Ada")
        refused = client.post("/reports/Ada?pages=501", headers={"Prefer": "wait=25"})
        assert refused.json()["state"] == "FAILURE"
        assert client.get("/totals").json() == {
            "reports": [f"2 pages for {name}" for name in ("Ada", "Grace", "Edith")]
        }


def test_django_site(tmp_path: Path) -> None:
    pytest.importorskip("django")
    pytest.importorskip("django_tasks" if sys.version_info < (3, 12) else "django.tasks")
    with serving(EXAMPLES / "django_site", "mysite.asgi:application", tmp_path / "log", {}) as client:
        assert client.get("/total").json() == {
            "values": ["1 pictures", "2 pictures", "3 pictures"],
            "failed": "builtins.ValueError",
        }
        page = client.get("/start").text
        task = page.partition('<task-progress src="')[2].partition('"')[0]
        status = client.get(task, headers={"Accept": "application/json"})
        assert status.status_code == 200
        assert status.json()["state"] != "FAILURE"


async def test_script(redis_url: str) -> None:
    async with asyncresult.connect(redis_url) as backend:
        await backend.mark_as_done("good", 42)
        await backend.mark_as_failure("bad", ValueError("no such picture"))

    def run(*ids: str) -> subprocess.CompletedProcess[str]:
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "REDIS_URL": redis_url,
            "SECONDS": "0.2" if "never" in ids else "60",
        }
        return subprocess.run(
            [sys.executable, EXAMPLES / "script.py", *ids], env=env, capture_output=True, text=True, check=False
        )

    done = run("good", "bad")
    assert (done.returncode, done.stderr) == (1, "")
    assert sorted(done.stdout.splitlines()) == ["bad ValueError: no such picture", "good 42"]
    assert run("good").returncode == 0
    late = run("never")
    assert (late.returncode, late.stderr) == (2, "not ended: never\n")


async def test_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells, in the loop of the test instead of a kernel's."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    names: dict[str, Any] = {}
    values = []
    for cell in json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            values.append(await run_cell("".join(cell["source"]), names))
    assert values[1] == 6
    assert "SUCCESS" in values[2]._repr_html_()
    assert values[3] == [1, 2, 3]
    assert isinstance(values[4], ValueError)


async def run_cell(code: str, names: dict[str, Any]) -> Any:
    """The value of a cell's last expression, as IPython gives it."""
    tree = ast.parse(code)
    if isinstance(last := tree.body[-1], ast.Expr):
        tree.body[-1] = ast.copy_location(ast.Assign([ast.Name("_", ast.Store())], last.value), last)
    names["_"] = None
    running = eval(
        compile(ast.fix_missing_locations(tree), "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True),
        names,
    )
    if running is not None:
        await running
    return names["_"]
