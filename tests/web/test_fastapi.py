"""The router of FastAPI: the same answers, problem documents, and an OpenAPI description that is true."""

from __future__ import annotations

from typing import Any

import pytest

from asyncresult import AsyncResult, Backend
from asyncresult.web import accepted
from tests.web.conftest import put_raw, serving, stream

pytest.importorskip("fastapi")

from fastapi import APIRouter, FastAPI, Request

from asyncresult.web.fastapi import Results, router


def make_app(**options: Any) -> FastAPI:
    app = FastAPI()
    api = APIRouter()
    api.include_router(router(authorize=lambda request, id: id != "secret", **options), prefix="/tasks")
    app.include_router(api, prefix="/api")

    @app.post("/start", status_code=202)
    async def start(request: Request, results: Results) -> Any:
        return await accepted(request, AsyncResult("t1", backend=results))

    return app


async def test_the_router_answers_as_the_app_does(backend: Backend) -> None:
    await put_raw(backend, "broken", b"\xff")
    async with serving(make_app(forget=True)) as client:
        sent = await client.post("/start")
        assert (sent.status_code, sent.headers["location"]) == (202, "/api/tasks/t1")
        await backend.store_result("t1", 7, "SUCCESS")
        found = await client.get("/api/tasks/t1")
        assert found.json()["result"] == 7
        assert found.json()["links"]["page"] == "/api/tasks/t1/page"
        assert (await client.head("/api/tasks/t1")).headers["etag"] == found.headers["etag"]
        async with stream(client, "/api/tasks/t1/events") as followed:
            assert [event["event"] for event in await followed.all()] == ["done", "end"]
        async with stream(client, "/api/tasks/events?id=t1&id=t1") as followed:
            assert [event["event"] for event in await followed.all()] == ["done", "end"]
        page = await client.get("/api/tasks/t1", headers={"Accept": "text/html"})
        assert page.headers["content-type"].startswith("text/html")
        script = page.text.partition('<script type="module" src="')[2].partition('"')[0]
        assert (await client.get(script)).headers["content-type"].startswith("text/javascript")
        assert (await client.get("/api/tasks/t1/page")).text.count("<article") == 1
        assert (await client.get("/api/tasks/page?id=t1&id=t2")).text.count("<article") == 2
        assert (await client.get("/api/tasks/t1/tree")).json()["children"] == []
        for path, code in {"secret": 404, "broken": 502, "events": 400, "t1?wait=x": 400, "static/x.js": 404}.items():
            refused = await client.get(f"/api/tasks/{path}")
            assert (refused.status_code, refused.headers["content-type"]) == (code, "application/problem+json"), path
        assert (await client.delete("/api/tasks/t1")).status_code == 204


async def test_no_backend_is_a_problem() -> None:
    async with serving(make_app()) as client:
        found = await client.get("/api/tasks/t1")
        assert (found.status_code, found.headers["retry-after"]) == (503, "1")
        assert (await client.post("/start")).status_code == 503


def test_openapi_names_what_is_switched_on() -> None:
    plain, full = make_app().openapi()["paths"], make_app(revoke=True).openapi()["paths"]
    assert "delete" not in plain["/api/tasks/{task_id}"]
    assert "delete" in full["/api/tasks/{task_id}"]
    assert "/api/tasks/{task_id}/revoke" in full
    assert plain["/api/tasks/{task_id}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/TaskStatus"
    }
