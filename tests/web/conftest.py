"""A real server in the loop of the test, its client, and a backend in memory."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

import asyncresult

httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")
starlette = pytest.importorskip("starlette")

from starlette.applications import Starlette  # noqa: E402
from starlette.routing import Mount  # noqa: E402

from asyncresult import Backend  # noqa: E402
from asyncresult._storage.store import engine_of  # noqa: E402
from asyncresult.web import create_app  # noqa: E402

Client = Any
Serve = Callable[..., AbstractAsyncContextManager[Client]]


@asynccontextmanager
async def serving(app: Any, **config: Any) -> AsyncIterator[Client]:
    """A client of an app that uvicorn serves."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", **config))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            await asyncio.sleep(0.005)
            assert not task.done(), task
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=base, timeout=10) as client:
            client.server = server
            yield client
    finally:
        server.should_exit = True
        await task
        listener.close()


@pytest.fixture
async def backend() -> AsyncGenerator[Backend]:
    async with asyncresult.connect("memory://") as backend:
        yield backend


@pytest.fixture
def serve() -> Serve:
    """``async with serve(app) as client``, or ``serve(revoke=True)`` for the app of the package with these options."""

    def serve(app: Any = None, **options: Any) -> AbstractAsyncContextManager[Client]:
        if app is None:
            options.setdefault("authorize", lambda request, task_id: not task_id.startswith("secret"))
            app = Starlette(routes=[Mount("/tasks", create_app(**options))])
        return serving(app)

    return serve


async def put_raw(backend: Backend, id: str, payload: bytes) -> None:
    """Store these very bytes."""
    await engine_of(backend).put(backend.task_key(id), payload, None)


class Events:
    """The events of a stream, parsed as the HTML standard says."""

    def __init__(self, response: Any) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> dict[str, str] | None:
        """The next event: its fields; None at the end of the stream. Comments are passed over."""
        fields: dict[str, str] = {}
        async for line in self._lines:
            if not line:
                if "data" in fields:
                    return fields
                fields = {}
            elif not line.startswith(":"):
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                fields[name] = f"{fields[name]}\n{value}" if name in fields else value
        return None

    async def all(self) -> list[dict[str, str]]:
        found = []
        while (event := await self.next()) is not None:
            found.append(event)
        return found


@asynccontextmanager
async def stream(client: Client, path: str, **headers: str) -> AsyncIterator[Events]:
    """The events of a path."""
    async with client.stream("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()}) as response:
        assert response.status_code == 200, response.status_code
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Events(response)
