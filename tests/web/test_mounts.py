"""The programs of docs/howto for other frameworks, as they are there, each in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import asyncresult
from asyncresult import Backend
from tests.tools.processes import Child
from tests.tools.servers import free_port
from tests.web.conftest import stream

httpx = pytest.importorskip("httpx")
aiohttp = pytest.importorskip("aiohttp")

ROOT = Path(__file__).parents[2]
UVICORN = ["-m", "uvicorn", "--port", "{port}"]
PROGRAMS = {
    "starlette": [*UVICORN, "shop:app"],
    "litestar": [*UVICORN, "shop:app"],
    "aiohttp": ["shop.py"],
    "django-asgi": [*UVICORN, "asgi:application"],
}
NEEDS = {"starlette": "starlette", "litestar": "litestar", "aiohttp": "aiohttp", "django-asgi": "channels"}


@contextmanager
def program(name: str, directory: Path, redis_url: str) -> Generator[tuple[str, Child]]:
    """The address of the program of a page, and its process."""
    pytest.importorskip(NEEDS[name])
    page = (ROOT / "docs" / "howto" / f"{name}.md").read_text(encoding="utf-8")
    ((title, code),) = re.findall(r'```python title="(\S+)"\n(.*?)```', page, re.DOTALL)
    (directory / title).write_text(code, encoding="utf-8")
    port = free_port()
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)]),
        "REDIS_URL": redis_url,
        "SECRET_KEY": "for tests",
        "PORT": str(port),
    }
    command = [sys.executable, *(word.format(port=port) for word in PROGRAMS[name])]
    server = Child(command, log=directory / "log", env=env, cwd=directory)
    try:
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.kill()


@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_program(name: str, redis_url: str, tmp_path: Path) -> None:
    """Sends a task (nobody runs it: the test stores its states), follows it, is refused others, and ends at once."""
    async with asyncresult.connect(redis_url) as backend:
        with program(name, tmp_path, redis_url) as (address, server):
            transport = httpx.AsyncHTTPTransport(retries=9)
            async with httpx.AsyncClient(base_url=address, timeout=30, transport=transport) as client:
                sent = await client.post("/add")
                assert sent.status_code == 202
                location = sent.headers["location"]
                id = location.rpartition("/")[2]
                found = await client.get(location)
                assert (found.status_code, found.json()["state"]) == (200, "PENDING")
                assert found.json().get("links", {}).get("self", location) == location
                for secret in ("/tasks/secret-1", "/tasks/secret-1/events"):
                    assert (await client.get(secret)).status_code == 404
                async with stream(client, f"{location}/events") as followed:
                    assert await followed.next() is not None
                    await backend.store_result(id, {"pid": 4711, "hostname": "worker-of-ours"}, "STARTED")
                    started = await followed.next()
                    assert started is not None
                    assert json.loads(started["data"])["state"] == "STARTED"
                    assert "worker-of-ours" not in started["data"]
                    if name in ("starlette", "django-asgi"):
                        cookie = "; ".join(f"{key}={value}" for key, value in client.cookies.items())
                        await over_a_websocket(backend, f"{address}/follow/", id, {"Cookie": cookie})
                    else:
                        await backend.store_result(id, 5, "SUCCESS")
                    last = await followed.next()
                    assert last is not None
                    assert (last["event"], json.loads(last["data"])["result"]) == ("done", 5)
                # A task that does not end keeps no server from ending.
                unended = (await client.post("/add")).headers["location"]
                async with stream(client, f"{unended}/events") as followed:
                    assert await followed.next() is not None
                    server.signal(signal.SIGINT)
                    assert await followed.next() is None
            assert await asyncio.to_thread(server.wait, 20) is not None
            assert "Traceback" not in server.output()


async def test_a_stream_of_aiohttp_goes_on_where_it_was_cut(redis_url: str, tmp_path: Path) -> None:
    async with asyncresult.connect(redis_url) as backend:
        with program("aiohttp", tmp_path, redis_url) as (address, _):
            transport = httpx.AsyncHTTPTransport(retries=9)
            async with httpx.AsyncClient(base_url=address, timeout=30, transport=transport) as client:
                async with backend.track("t1", history=100, progress_interval=0.001) as task:
                    await task.progress(1, 2)
                    seen = ""
                    async with stream(client, "/tasks/t1/events") as events:
                        while not seen:
                            event = await events.next()
                            assert event is not None
                            if '"current":1' in event["data"]:
                                seen = event["id"]
                    await task.progress(2, 2)
                async with stream(client, "/tasks/t1/events", Last_Event_ID=seen) as events:
                    missed = await events.all()
                assert [json.loads(event["data"])["state"] for event in missed] == ["PROGRESS", "SUCCESS"]
                other = await client.get("/tasks/t1/events", headers={"Last-Event-ID": "of another"})
                assert other.status_code == 400


async def over_a_websocket(backend: Backend, address: str, id: str, headers: dict[str, str]) -> None:
    """The states of a task, which ends meanwhile; of another one nothing."""
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.ws_connect(address + id) as socket:
            states: list[Any] = [(await socket.receive_json())["state"]]
            await backend.store_result(id, 5, "SUCCESS")
            while (message := await socket.receive()).type == aiohttp.WSMsgType.TEXT:
                states.append(json.loads(message.data)["state"])
            assert states == ["STARTED", "SUCCESS"]
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await session.ws_connect(f"{address}secret-1")
