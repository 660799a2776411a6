"""The program of docs/howto/fastapi.md, as it is there: a worker, a server, and requests."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tools.celery_worker import CeleryWorker
from tests.tools.processes import Child
from tests.tools.servers import free_port

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

ROOT = Path(__file__).parents[2]


@pytest.mark.celery
def test_the_program(redis_url: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "howto" / "fastapi.md").read_text(encoding="utf-8")
    ((title, code),) = re.findall(r'```python title="(\S+)"\n(.*?)```', page, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) < 40
    (tmp_path / title).write_text(code, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    env = {**os.environ, "PYTHONPATH": path, "REDIS_URL": redis_url}
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "shop:app", "--port", str(port)]
    server = Child(command, log=tmp_path / "log", env=env)
    client: Any = httpx.Client(
        base_url=f"http://127.0.0.1:{port}", timeout=20, transport=httpx.HTTPTransport(retries=8)
    )
    worker = CeleryWorker(broker=redis_url, app="shop:tasks", pool="prefork", env={**env, "PYTHONPATH": path})
    try:
        with worker.start(), client:
            sent = client.post("/resize/5")
            assert sent.status_code == 202
            location = sent.headers["location"]
            events = client.get(f"{location}/events").text
            assert events.count("event: progress") >= 2
            assert '"percent":' in events
            assert '"result":"5 pictures"' in events
            assert client.get(location, headers={"Accept": "text/html"}).text.count("<task-progress") == 1
            assert client.post("/resize/1", headers={"Prefer": "wait=15"}).json()["result"] == "1 pictures"
            location = client.post("/resize/1000").headers["location"]
            while client.get(location).json()["state"] != "PROGRESS":
                pass
            assert client.delete(location).status_code == 202
            assert client.get(location, headers={"Prefer": "wait=15"}).json()["state"] == "REVOKED"
    finally:
        server.kill()
