"""Servers in processes of their own end at once when they are told to, though streams are open."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.tools.processes import Child
from tests.tools.servers import free_port

httpx = pytest.importorskip("httpx")

ROOT = Path(__file__).parents[2]
APP = """
from asyncresult.web import create_app, lifespan
from starlette.applications import Starlette
from starlette.routing import Mount

tasks = create_app(authorize=lambda request, task_id: True)
app = Starlette(routes=[Mount("/tasks", tasks)], lifespan=lifespan("memory://"))
"""
SERVERS = {
    "uvicorn": ["uvicorn", "served:app", "--port", "{port}"],
    "gunicorn": ["gunicorn", "served:app", "-k", "uvicorn.workers.UvicornWorker", "-b", "127.0.0.1:{port}"],
}


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("uvicorn", signal.SIGTERM),
        ("uvicorn", signal.SIGINT),
        ("gunicorn", signal.SIGTERM),
    ],  # its SIGINT cuts, by design
)
def test_a_server_ends_at_once(name: str, number: int, tmp_path: Path) -> None:
    pytest.importorskip(name)
    (tmp_path / "served.py").write_text(APP)
    port = free_port()
    command = [sys.executable, "-m", *(word.format(port=port) for word in SERVERS[name])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    server = Child(command, log=tmp_path / "log", env=env, cwd=tmp_path)
    client: Any = httpx.Client(
        base_url=f"http://127.0.0.1:{port}", timeout=20, transport=httpx.HTTPTransport(retries=8)
    )
    try:
        with client, client.stream("GET", "/tasks/t1/events") as response:
            lines = response.iter_lines()
            while not next(lines).startswith("data:"):
                pass
            began = time.monotonic()
            os.kill(server.pid, number)
            assert not [line for line in lines if line.startswith("data:")]
            assert time.monotonic() - began < 1.5
        server.wait(10)
        assert time.monotonic() - began < 4  # Python itself takes a while to end, on a busy machine
        assert "Traceback" not in server.output()
    finally:
        server.kill()
