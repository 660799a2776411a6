"""Which backend is meant where none is given: in blocks, in other tasks, in requests of a server, in threads."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import uvicorn
from celery import Celery, _state

import asyncresult
import asyncresult.sync as sync
from asyncresult import AsyncResult, Backend, _portal, connect, current_backend

Send = Callable[[dict[str, Any]], Awaitable[None]]


@pytest.fixture(autouse=True)
def nothing_else_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASYNCRESULT_URL", raising=False)
    monkeypatch.setattr(_state._tls, "current_app", None)
    monkeypatch.setattr(_state, "default_app", None)
    monkeypatch.setattr(asyncresult.backend, "_default", None)


async def outside() -> Backend:
    """What code sees that is in no block: a task of an empty context."""

    async def look() -> Backend:
        return current_backend()

    return await asyncio.get_running_loop().create_task(look(), context=contextvars.Context())


class Entered:
    """A task that is in a block of its own until it is told to leave."""

    def __init__(self) -> None:
        self.backend = connect("memory://")
        self._entered, self._leave = asyncio.Event(), asyncio.Event()

    async def __aenter__(self) -> Backend:
        self._task = asyncio.get_running_loop().create_task(self._run(), context=contextvars.Context())
        await self._entered.wait()
        return self.backend

    async def _run(self) -> None:
        async with self.backend:
            self._entered.set()
            await self._leave.wait()
            assert current_backend() is self.backend

    async def __aexit__(self, *exc_info: object) -> None:
        self._leave.set()
        await self._task


async def test_a_block_is_of_its_task_and_of_those_that_it_starts() -> None:
    async with connect("memory://") as mine:
        async with connect("memory://") as nested:
            assert current_backend() is nested
            assert await asyncio.to_thread(current_backend) is nested
        async with Entered() as others:
            assert others is not mine
            assert current_backend() is mine
            assert AsyncResult("t").backend is mine
            assert await asyncio.create_task(asyncio.sleep(0, AsyncResult("t").backend)) is mine


async def test_outside_of_any_block_it_is_the_first_that_is_still_open() -> None:
    async with Entered() as first:
        async with Entered(), Entered():
            assert await outside() is first
        last = Entered()
        await last.__aenter__()
    assert await outside() is last.backend
    await last.__aexit__()
    with pytest.raises(RuntimeError, match="no backend"):
        await outside()


async def test_leaving_in_another_order_than_entering() -> None:
    one, two, three = connect("memory://"), connect("memory://"), connect("memory://")
    for backend in (one, two, three, two):
        await backend.__aenter__()
    assert current_backend() is two
    await two.__aexit__(None, None, None)
    assert current_backend() is three
    assert not two.closed
    await two.__aexit__(None, None, None)
    assert two.closed
    await one.__aexit__(None, None, None)
    assert current_backend() is three
    await three.__aexit__(None, None, None)
    with pytest.raises(RuntimeError, match="no backend"):
        current_backend()


async def test_a_block_may_be_left_in_another_context_than_it_was_entered_in() -> None:
    """As fixtures of pytest do."""
    backend = connect("memory://")
    await asyncio.create_task(backend.__aenter__())
    assert current_backend() is backend
    await asyncio.create_task(backend.__aexit__(None, None, None))
    assert backend.closed
    with pytest.raises(RuntimeError, match="no backend"):
        current_backend()


async def test_one_that_was_closed_within_its_block_is_not_current() -> None:
    async with connect("memory://") as outer:
        async with connect("memory://") as inner:
            await inner.aclose()
            assert current_backend() is outer
        assert current_backend() is outer


# -- requests of a server -------------------------------------------------------------------------------------


class Site:
    """An application that enters one backend in its lifespan, and another in requests to ``/tenant``."""

    def __init__(self) -> None:
        self.common = connect("memory://", key_prefix="common")
        self.in_tenant, self.go_on = threading.Event(), threading.Event()

    async def __call__(self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            async with self.common:
                await send({"type": "lifespan.startup.complete"})
                await receive()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["path"] == "/tenant":
            async with connect("memory://", key_prefix="tenant"):
                self.in_tenant.set()
                await asyncio.to_thread(self.go_on.wait, 30)
                await self._answer(send)
        else:
            await self._answer(send)

    async def _answer(self, send: Send) -> None:
        body = AsyncResult("t").backend.key_prefix.encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
def site() -> Iterator[tuple[Site, Callable[[str], str]]]:
    app = Site()
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="on", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]

        def get(path: str) -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                body: bytes = answer.read()
                return body.decode()

        yield app, get
    finally:
        app.go_on.set()
        server.should_exit = True
        thread.join()


def test_what_one_request_enters_is_not_what_others_get(site: tuple[Site, Callable[[str], str]]) -> None:
    app, get = site
    assert get("/") == "common_"
    found: list[str] = []
    tenant = threading.Thread(target=lambda: found.append(get("/tenant")))
    tenant.start()
    assert app.in_tenant.wait(30)
    assert get("/") == "common_"
    app.go_on.set()
    tenant.join()
    assert found == ["tenant_"]
    assert get("/") == "common_"


# -- threads, and both faces ----------------------------------------------------------------------------------


@pytest.fixture
def portal(no_leaks: None) -> Iterator[None]:
    yield
    _portal.stop()


@pytest.mark.usefixtures("portal")
def test_each_thread_is_in_its_own_blocks() -> None:
    def worker(found: list[Any], meeting: threading.Barrier) -> None:
        with sync.connect("memory://") as mine:
            meeting.wait()  # all have entered
            found.append((mine, sync.current_backend(), sync.AsyncResult("t").backend))
            meeting.wait()

    found: list[Any] = []
    meeting = threading.Barrier(4)
    with sync.connect("memory://") as first:
        threads = [threading.Thread(target=worker, args=(found, meeting)) for _ in range(3)]
        for thread in threads:
            thread.start()
        meeting.wait()
        assert sync.current_backend() is first
        looked: list[Any] = []
        bare = threading.Thread(target=lambda: looked.append(sync.current_backend()))
        bare.start()
        bare.join()
        meeting.wait()
        for thread in threads:
            thread.join()
    assert looked == [first]
    assert len(found) == 3
    assert all(mine is current is of_handle for mine, current, of_handle in found)


async def test_both_faces_mean_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def both() -> list[Backend]:
        return [current_backend(), sync.current_backend()._async(), AsyncResult("t").backend]  # type: ignore[list-item]

    for current in (current_backend, sync.current_backend):
        with pytest.raises(RuntimeError, match="no backend"):
            current()
    assert str(connect()) == str(sync.connect()) == "memory://"
    app = Celery("shop", backend="redis://of-the-app/1", set_as_current=True)
    assert both() == [connect(app)] * 3
    monkeypatch.setenv("ASYNCRESULT_URL", "redis://of-the-environment/2")
    assert str(connect()) == str(sync.connect()) == "redis://of-the-environment:6379/2"
    assert {str(backend) for backend in both()} == {"redis://of-the-environment:6379/2"}
    assert len(set(both())) == 1
    async with connect("memory://") as entered:
        assert both() == [entered] * 3
    assert len(set(both())) == 1


def test_an_app_has_one_backend_in_both_faces() -> None:
    app = Celery("shop", backend="redis://of-the-app/1", set_as_current=False)
    backend = sync.connect(app)
    assert sync.connect(app) is backend
    assert sync.AsyncResult("t", app=app).backend is backend
    assert backend._async() is connect(app)
