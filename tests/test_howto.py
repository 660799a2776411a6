"""The pages of docs/howto do what they say: their code is run as it stands there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import runpy
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as aioredis

import asyncresult
from asyncresult import TaskRevoked
from tests.tools.processes import Child

ROOT = Path(__file__).parents[1]
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def write_code(page: str, directory: Path) -> None:
    """Write the blocks of a page that have a title to files of that name."""
    text = (ROOT / "docs" / "howto" / page).read_text(encoding="utf-8")
    for title, code in re.findall(r'```python title="(\S+)"\n(.*?)```', text, re.DOTALL):
        (directory / title).write_text(code, encoding="utf-8")


async def test_your_own_queue(redis_url: str, tmp_path: Path) -> None:
    write_code("your-own-queue.md", tmp_path)
    worker_code = (tmp_path / "worker.py").read_text()
    assert sum(bool(line.strip()) for line in worker_code.splitlines()) <= 30
    send = runpy.run_path(str(tmp_path / "sender.py"))["send"]
    worker = Child([sys.executable, tmp_path / "worker.py", redis_url], log=tmp_path / "log", env=ENV)
    try:
        async with aioredis.from_url(redis_url) as queue, asyncresult.connect(redis_url) as backend:
            assert await (await send(queue, backend, "resize", "cat.png", 100)).get(timeout=20) == "cat.png@100"
            failed = await send(queue, backend, "nonsense")
            with pytest.raises(KeyError):
                await failed.get(timeout=20)
            worker.stop()
            waiting = await send(queue, backend, "resize", "dog.png", 100)
            await waiting.revoke()
            worker = Child([sys.executable, tmp_path / "worker.py", redis_url], log=tmp_path / "log", env=ENV)
            with pytest.raises(TaskRevoked):
                await waiting.get(timeout=20)
    finally:
        worker.kill()


async def test_background_work(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    write_code("background-work.md", tmp_path)
    monkeypatch.setenv("REDIS_URL", redis_url)
    app = runpy.run_path(str(tmp_path / "app.py"))["app"]
    async with serving(app):
        task_id = (await ask(app, "POST", "/thumbnails/cat.png"))["id"]
        reader = Child(
            [sys.executable, tmp_path / "elsewhere.py", task_id],
            log=tmp_path / "log",
            env={**ENV, "REDIS_URL": redis_url},
        )
        try:
            assert await asyncio.to_thread(reader.wait, 20) == 0, reader.output()
            assert reader.output().strip() == "['cat.png@100', 'cat.png@200']"
        finally:
            reader.kill()
        answer = await ask(app, "GET", f"/thumbnails/{task_id}")
        assert answer == {"status": "SUCCESS", "result": ["cat.png@100", "cat.png@200"]}


async def test_deployment(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    write_code("deployment.md", tmp_path)
    monkeypatch.setenv("RESULTS_URL", redis_url)
    app = runpy.run_path(str(tmp_path / "main.py"))["app"]
    async with serving(app):
        assert (await ask(app, "GET", "/healthz"))["ok"] is True
        assert await ask(app, "GET", "/livez") == "alive"


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[None]:
    """The lifespan of an ASGI app, as a server plays it."""
    to_app: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    from_app: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    running = asyncio.create_task(
        app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, to_app.get, from_app.put)
    )
    await to_app.put({"type": "lifespan.startup"})
    assert (await from_app.get())["type"] == "lifespan.startup.complete"
    yield
    await to_app.put({"type": "lifespan.shutdown"})
    await running


async def ask(app: Any, method: str, path: str) -> Any:
    """One request to an ASGI app."""
    scope = {"type": "http", "asgi": {"version": "3.0"}, "method": method, "path": path}
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({**scope, "headers": [], "query_string": b"", "root_path": ""}, receive, send)
    assert sent[0]["status"] == 200
    return json.loads(b"".join(message.get("body", b"") for message in sent[1:]))
