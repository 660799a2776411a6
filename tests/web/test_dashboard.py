"""What ``asyncresult serve`` shows, in the process of the test; tests/cli/test_serve.py runs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asyncresult import Backend
from asyncresult.web.dashboard import Listing, create_dashboard
from tests.web.conftest import put_raw, serving


async def test_running_tasks_come_first_and_the_latest_before_others(backend: Backend) -> None:
    for id in ("old", "new"):
        await backend.store_result(id, 1, "SUCCESS")
    await backend.store_result("runs", {"current": 1, "total": 4}, "PROGRESS")
    await put_raw(backend, "junk", b"\xff")
    async with serving(create_dashboard(backend)) as client:
        found = (await client.get("/list")).json()
        assert [task["id"] for task in found["tasks"]] == ["runs", "new", "old", "junk"]
        assert [task["percent"] for task in found["tasks"]] == [25.0, None, None, None]
        assert found["complete"] is True
        assert (await client.get("/find?id=")).headers["location"] == "/"
        assert (await client.get("/find?id=a%20b")).headers["location"] == "/tasks/a%20b/page"
        assert (await client.get("/")).text.count("<script") == 2


async def test_many_look_and_the_store_is_looked_at_once(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Listing, "SHOWN", 3)
    for number in range(5):
        await backend.store_result(f"t{number}", 1, "SUCCESS")
    looks = 0
    task_ids = type(backend).task_ids

    async def counted(self: Backend, *, limit: int) -> AsyncIterator[str]:
        nonlocal looks
        looks += 1
        async for id in task_ids(self, limit=limit):
            yield id

    monkeypatch.setattr(type(backend), "task_ids", counted)
    listing = Listing(backend)
    monkeypatch.setattr(listing, "INTERVAL", 60.0)
    found = await asyncio.gather(*(listing.document() for _ in range(20)))
    assert looks == 1
    assert (len(found[0]["tasks"]), found[0]["complete"]) == (3, False)


async def test_a_store_that_does_not_answer_is_a_problem(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(self: Backend, *, limit: int) -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield ""

    monkeypatch.setattr(type(backend), "task_ids", never)
    monkeypatch.setattr(Listing, "SECONDS", 0.01)
    async with serving(create_dashboard(backend)) as client:
        refused = await client.get("/list")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert refused.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("localhost:1", 200),
        ("[::1]:1", 200),
        ("[::1]", 200),
        ("LOCALHOST", 200),
        ("a:1", 200),
        ("evil.example", 403),
        ("", 403),
    ],
)
async def test_the_names_of_the_server(backend: Backend, host: str, code: int) -> None:
    async with serving(create_dashboard(backend, hosts=["localhost", "[::1]", "a"])) as client:
        assert (await client.get("/", headers={"Host": host})).status_code == code


async def test_the_token_leaves_the_address_and_the_rest_stays(backend: Backend) -> None:
    app = create_dashboard(backend, token="s3cret")
    async with serving(app) as client:
        refused = await client.get("/tasks/t1", headers={"Accept": "application/json"})
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        moved: Any = await client.get("/tasks/t%201/events?format=html&token=s3cret")
        assert (moved.status_code, moved.headers["location"]) == (303, "/tasks/t%201/events?format=html")
        assert (moved.headers["cache-control"], moved.headers["referrer-policy"]) == ("no-store", "no-referrer")
        assert (await client.get("/list")).status_code == 200, "the cookie is enough"
