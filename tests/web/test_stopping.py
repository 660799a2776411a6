"""Servers in processes of their own end at once on a signal, though streams are open."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asyncresult import Backend
from asyncresult.web import server_stops, stopping
from tests.tools.processes import Child, wait_until
from tests.tools.servers import free_port
from tests.web.conftest import serving

from starlette.applications import Starlette  # isort: skip
from starlette.requests import Request  # isort: skip
from starlette.responses import Response, StreamingResponse  # isort: skip
from starlette.routing import Route  # isort: skip

httpx = pytest.importorskip("httpx")

ROOT = Path(__file__).parents[2]
APP = """
from asyncresult.web import create_app, lifespan
from starlette.applications import Starlette
from starlette.routing import Mount

tasks = create_app(authorize=lambda request, task_id: True)
app = Starlette(routes=[Mount("/tasks", tasks)], lifespan=lifespan("memory://"))
"""
# The patience of each is longer than the tests': without our doing they would hang.
SERVERS = {
    "uvicorn": ["uvicorn", "served:app", "--port", "{port}"],
    "gunicorn": [
        *("gunicorn", "served:app", "-k", "uvicorn.workers.UvicornWorker"),
        *("-b", "127.0.0.1:{port}", "--graceful-timeout", "60"),
    ],
    "hypercorn": ["hypercorn", "served:app", "--bind", "127.0.0.1:{port}", "--graceful-timeout", "60"],
    "reload": ["uvicorn", "served:app", "--port", "{port}", "--reload", "--reload-dir", "{directory}"],
}
AT_ONCE = 10.0
"""Seconds: a tenth of one where nothing else runs."""


class Served:
    """A server in a process of its own, and a client."""

    def __init__(self, name: str, directory: Path, *, http2: bool = False) -> None:
        (directory / "served.py").write_text(APP)
        self.port = free_port()
        words = [word.format(port=self.port, directory=directory) for word in SERVERS[name]]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)])}
        self.process = Child([sys.executable, "-m", *words], log=directory / "log", env=env, cwd=directory)
        transport = httpx.HTTPTransport(retries=8, http1=not http2, http2=http2)
        self.client: Any = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, transport=transport)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *exc: object) -> None:
        self.client.close()
        self.process.kill()

    @contextmanager
    def stream(self) -> Generator[tuple[Any, Any]]:
        """A response that has begun, and its lines."""
        with self.client.stream("GET", "/tasks/t1/events") as response:
            lines = response.iter_lines()
            while not next(lines).startswith("data:"):
                pass
            yield response, lines

    def answers(self) -> bool:
        """Whether a stream begins; while the server reloads, one may end before."""
        try:
            with self.stream():
                return True
        except (RuntimeError, httpx.TransportError):
            return False

    def rest(self, lines: Any) -> list[str]:
        """What else is sent before the stream ends."""
        found: list[str] = []
        try:
            for line in lines:
                found.append(line)
        except httpx.RemoteProtocolError as error:
            if "ConnectionTerminated error_code:0" not in str(error):  # GOAWAY without an error, for httpx an error
                raise
        return found

    def ended(self, began: float) -> None:
        """See that the process has ended in order."""
        assert self.process.wait(AT_ONCE) is not None
        assert time.monotonic() - began < AT_ONCE
        assert "Traceback" not in self.process.output()


@pytest.mark.parametrize(
    ("name", "number", "http2"),
    [
        ("uvicorn", signal.SIGTERM, False),
        ("uvicorn", signal.SIGINT, False),
        ("gunicorn", signal.SIGTERM, False),  # its SIGINT cuts, by design
        ("hypercorn", signal.SIGTERM, False),
        ("hypercorn", signal.SIGINT, True),
    ],
)
def test_a_server_ends_at_once(name: str, number: int, http2: bool, tmp_path: Path) -> None:
    pytest.importorskip(name)
    with Served(name, tmp_path, http2=http2) as served:
        with served.stream() as (response, lines):
            assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            began = time.monotonic()
            os.kill(served.process.pid, number)
            assert not [line for line in served.rest(lines) if line.startswith("data:")]
            assert time.monotonic() - began < AT_ONCE
        served.ended(began)


def test_a_server_reloads_at_once(tmp_path: Path) -> None:
    with Served("reload", tmp_path) as served:
        with served.stream() as (_, lines):
            (tmp_path / "served.py").write_text(APP + "# changed\n")
            assert not [line for line in served.rest(lines) if line.startswith("data:")]
        wait_until(served.answers, "the new code is served", timeout=60)
        began = time.monotonic()
        os.kill(served.process.pid, signal.SIGINT)
        served.ended(began)


async def test_a_stream_of_ones_own_ends_too(backend: Backend) -> None:
    async def mine(request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            stop = server_stops()
            yield b"begun "
            await stop
            yield b"ended"

        return StreamingResponse(chunks())

    async with serving(Starlette(routes=[Route("/", mine)])) as client:
        async with client.stream("GET", "/") as response:
            chunks = response.aiter_bytes()
            assert await anext(chunks) == b"begun "
            client.server.should_exit = True
            assert b"".join([chunk async for chunk in chunks]) == b"ended"


async def test_a_server_that_has_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer of the last look at it is still to come, when something else waits, without a server."""
    found = iter([lambda: False, None])
    monkeypatch.setattr(stopping, "_find_server", lambda loop: next(found))
    stop = stopping.Stop()
    stop.future().cancel()
    await asyncio.sleep(0)
    waits = stop.future()
    await asyncio.wait([waits], timeout=3 * stopping.LOOK_INTERVAL)
    assert not waits.done()
    waits.cancel()
