"""The status of a task over HTTP: documents, caching, long polling, who may see what, and errors."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from unittest import mock

import pytest

from asyncresult import AsyncResult, Backend, TaskMeta, TaskRevoked, connect
from asyncresult._storage.store import engine_of
from asyncresult.errors import BackendUnavailable, ResultDecodeError, ResultTimeout
from asyncresult.web import Settings, Tokens, accepted, create_app, exception_handlers, status, tree, urls
from asyncresult.web.documents import dump, status_json
from asyncresult.web.urls import find_served
from tests.codec.records import VAGUE
from tests.web.conftest import Serve, put_raw, serving

from starlette.applications import Starlette  # isort: skip
from starlette.requests import Request  # isort: skip
from starlette.responses import Response  # isort: skip
from starlette.routing import Mount, Route  # isort: skip


async def test_a_task_that_has_ended(backend: Backend, serve: Serve) -> None:
    await backend.store_result("t1", {"pages": 3}, "SUCCESS")
    async with serve() as client:
        found = await client.get("/tasks/t1")
        assert found.status_code == 200
        document = found.json()
        assert document["id"] == "t1"
        assert document["state"] == "SUCCESS"
        assert document["ready"] is True
        assert document["result"] == {"pages": 3}
        assert document["links"] == {"self": "/tasks/t1", "events": "/tasks/t1/events", "page": "/tasks/t1/page"}
        assert document["date_done"].endswith("+00:00")
        again = await client.get("/tasks/t1", headers={"If-None-Match": found.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        head = await client.head("/tasks/t1")
        assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", found.headers["etag"])


async def test_a_worker_whose_heartbeat_has_stopped(backend: Backend, serve: Serve) -> None:
    record = {"status": "STARTED", "task_id": "t1", "result": None, "heartbeat": {"at": 1.0, "interval": 1.0}}
    await put_raw(backend, "t1", json.dumps(record).encode())
    async with serve() as client:
        assert (await client.get("/tasks/t1")).json()["stale"] is True
        assert "stale" not in (await client.get("/tasks/t2")).json()


async def test_what_a_worker_reports_about_itself_is_not_shown(backend: Backend, serve: Serve) -> None:
    await backend.store_result("t1", {"pid": 4711, "hostname": "worker-of-ours"}, "STARTED")
    async with serve() as client:
        found = await client.get("/tasks/t1")
        assert found.json()["state"] == "STARTED"
        assert "4711" not in found.text
        assert "worker-of-ours" not in found.text
        assert found.headers["retry-after"] == "1"
        assert found.headers["cache-control"] == "no-store"


async def test_progress(backend: Backend, serve: Serve) -> None:
    await backend.store_result("t1", {"current": 1, "total": 3, "note": "resizing", "secret": 7}, "PROGRESS")
    async with serve() as client:
        found = (await client.get("/tasks/t1")).json()
    assert found["progress"] == {"current": 1, "total": 3, "percent": 33.3, "description": "resizing"}
    assert "secret" not in str(found)


@pytest.mark.parametrize("reveal", [False, True])
async def test_a_failure_is_shown_as_far_as_that_is_wanted(backend: Backend, serve: Serve, reveal: bool) -> None:
    await backend.store_result("t1", ValueError("the password is xyzzy"), "FAILURE", traceback="File /srv/app.py")
    async with serve(reveal_errors=reveal) as client:
        found = await client.get("/tasks/t1")
        assert found.status_code == 200, "the status was read well"
        assert found.json()["error"]["title"] == "The task failed"
        assert ("xyzzy" in found.text, "ValueError" in found.text) == (reveal, reveal)
        assert "/srv/app.py" not in found.text


@pytest.mark.parametrize("deep", ["exc_type", "exc_message"])
async def test_a_failure_that_is_nested_too_deeply_to_be_shown_is_shown_without_it(
    backend: Backend, serve: Serve, deep: str
) -> None:
    for levels in range(700, 980, 10):  # as deep as can be read; how deep can be shown depends on what is in between
        record = f'{{"status": "FAILURE", "result": {{"{deep}": {"[" * levels + "]" * levels}}}}}'
        await engine_of(backend).put(backend.task_key(f"t{levels}"), record.encode(), None)
    async with serve(reveal_errors=True) as client:
        for levels in range(700, 980, 10):
            found = await client.get(f"/tasks/t{levels}")
            assert found.status_code in (200, 502), levels


async def test_unknown_and_forbidden_look_the_same_but_for_pending(backend: Backend, serve: Serve) -> None:
    """Ids cannot be probed: what may not be seen is 404, whether it is there or not."""
    await backend.store_result("secret-1", "gold", "SUCCESS")
    async with serve(revoke=True, forget=True) as client:
        for method, end in [("GET", ""), ("GET", "/events"), ("GET", "/page"), ("GET", "/tree"), ("DELETE", "")]:
            there = await client.request(method, f"/tasks/secret-1{end}")
            missing = await client.request(method, f"/tasks/secret-2{end}")
            assert there.status_code == missing.status_code == 404
            assert there.headers["content-type"] == "application/problem+json"
            assert there.json() == missing.json()
        assert (await client.get("/tasks/events?id=open&id=secret-1")).status_code == 404
    assert (await backend.get_meta("secret-1")).ready


@pytest.mark.parametrize("id", ["%00", "a%0d%0aSet-Cookie:%20x=1", "%7f", "a%0Ab"])
async def test_hostile_ids(backend: Backend, serve: Serve, id: str) -> None:
    async with serve() as client:
        for end in ("", "/events", "/page"):
            refused = await client.get(f"/tasks/{id}{end}")
            assert refused.status_code in (400, 404)
            assert refused.headers["content-type"] in ("application/problem+json", "text/plain; charset=utf-8")
            assert "set-cookie" not in refused.headers


async def test_ids_that_are_markup_are_text_on_the_page(backend: Backend, serve: Serve) -> None:
    async with serve() as client:
        page = await client.get("/tasks/%3Cscript%3Ealert(1)%3C%2Fscript%3E/page".replace("%2F", "-"))
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "script-src 'self'" in page.headers["content-security-policy"]


async def test_a_record_that_cannot_be_read_hides_no_other_from_the_page(backend: Backend, serve: Serve) -> None:
    await put_raw(backend, "broken", b"\xff")
    async with serve() as client:
        page = await client.get("/tasks/page?id=t1&id=broken")
    assert page.status_code == 200
    assert 'data-state="PENDING"' in page.text
    assert 'data-state="unreadable"' in page.text


async def test_a_long_poll_ends_with_the_task(backend: Backend, serve: Serve) -> None:
    async with serve() as client:
        polling = asyncio.create_task(client.get("/tasks/t1", headers={"Prefer": "respond-async, wait=8"}))
        while not backend.stats().pending:
            await asyncio.sleep(0.005)
        await backend.store_result("t1", 7, "SUCCESS")
        found = await polling
    assert found.json()["result"] == 7
    assert found.headers["preference-applied"] == "wait=8"


async def test_a_long_poll_is_capped_and_ends_with_its_client(backend: Backend, serve: Serve) -> None:
    async with serve(max_wait=0.2) as client:
        began = time.monotonic()
        assert (await client.get("/tasks/t1?wait=99")).json()["state"] == "PENDING"
        assert time.monotonic() - began < 5
        assert (await client.get("/tasks/t1?wait=never")).status_code == 400
    async with serve(max_wait=60) as client:
        polling = asyncio.create_task(client.get("/tasks/t1?wait=60"))
        while not backend.stats().pending:
            await asyncio.sleep(0.005)
        polling.cancel()
        async with asyncio.timeout(5):
            while backend.stats().pending:
                await asyncio.sleep(0.005)


async def test_waits_are_counted_with_the_streams(backend: Backend) -> None:
    async def start(request: Request) -> Response:
        return await accepted(request, AsyncResult("t2"))

    tasks = create_app(authorize=lambda request, id: True, max_streams_per_client=1, max_wait=60)
    async with serving(Starlette(routes=[Route("/", start, methods=["POST"]), Mount("/tasks", tasks)])) as client:
        waiting = asyncio.create_task(client.get("/tasks/t1?wait=60"))
        while not backend.stats().pending:
            await asyncio.sleep(0.005)
        refused = await client.get("/tasks/t1?wait=60")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        assert (await client.get("/tasks/t1")).status_code == 200
        sent = await client.post("/", headers={"Prefer": "wait=60"})
        assert (sent.status_code, "preference-applied" in sent.headers) == (202, False)
        await backend.store_result("t1", 7, "SUCCESS")
        assert (await waiting).json()["result"] == 7
        assert (await client.get("/tasks/t1?wait=60")).status_code == 200, "the wait is over"


async def test_deleting_and_revoking(backend: Backend, serve: Serve) -> None:
    await backend.store_result("t1", 7, "SUCCESS")
    async with serve() as client:
        refused = await client.delete("/tasks/t1")
        assert refused.status_code == 405
        assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD"}
        assert refused.headers["content-type"] == "application/problem+json"
        assert (await client.post("/tasks/t1/revoke")).status_code == 404
    async with serve(forget=True, revoke=True) as client:
        assert (await client.delete("/tasks/t1")).status_code == 204
        assert (await client.get("/tasks/t1")).json()["state"] == "PENDING"
        assert (await client.post("/tasks/t1/revoke")).status_code == 501, "nobody runs tasks"
        from_elsewhere = await client.post("/tasks/t1/revoke", headers={"Sec-Fetch-Site": "cross-site"})
        assert from_elsewhere.status_code == 403

        async def work() -> None:
            async with backend.track("t2"):
                await asyncio.Event().wait()

        working = asyncio.create_task(work())
        await AsyncResult("t2").until("STARTED", timeout=5)
        assert (await client.delete("/tasks/t2")).status_code == 202
        with pytest.raises(TaskRevoked):
            await working
        assert (await client.get("/tasks/t2")).json()["state"] == "REVOKED"


async def test_tokens(backend: Backend, serve: Serve) -> None:
    """An id opens nothing, a token does for whom it was made, as long as it is valid."""
    await backend.store_result("t1", 7, "SUCCESS")
    tokens = Tokens("s3cret", subject=lambda request: request.headers.get("x-user"))

    async def start(request: Request) -> Response:
        return await accepted(request, AsyncResult("t1"))

    tasks = create_app(tokens=tokens)
    async with serve(Starlette(routes=[Route("/", start, methods=["POST"]), Mount("/tasks", tasks)])) as client:
        location = (await client.post("/", headers={"X-User": "anna"})).headers["location"]
        assert "t1" not in location
        found = await client.get(location, headers={"X-User": "anna"})
        assert found.json()["result"] == 7
        assert found.json()["links"]["self"] == location
        again = await client.get(location, headers={"X-User": "anna", "If-None-Match": found.headers["etag"]})
        assert again.status_code == 304
        assert (await client.get(location, headers={"X-User": "bert"})).status_code == 404
        assert (await client.get(location[:-1], headers={"X-User": "anna"})).status_code == 404
        assert (await client.get("/tasks/t1", headers={"X-User": "anna"})).status_code == 404
    with pytest.raises(ValueError, match="secret"):
        Tokens("")


async def test_accepted(backend: Backend, serve: Serve) -> None:
    async def start(request: Request) -> Response:
        return await accepted(request, AsyncResult("t1"))

    async def nowhere(request: Request) -> Response:
        return await accepted(request, AsyncResult("t1"), base="/elsewhere")

    inner = Starlette(
        routes=[
            Route("/start", start, methods=["POST"]),
            Route("/nowhere", nowhere, methods=["POST"]),
            Mount("/tasks", create_app(authorize=lambda request, id: True), name="tasks"),
        ]
    )
    app = Starlette(routes=[Mount("/api", inner, name="api")])
    async with serve(app) as client:
        sent = await client.post("/api/start")
        assert (sent.status_code, sent.headers["location"]) == (202, "/api/tasks/t1")
        assert sent.headers["retry-after"] == "1"
        assert (await client.get(sent.headers["location"])).json() == sent.json()
        assert (await client.post("/api/nowhere")).headers["location"] == "/elsewhere/t1"
        await backend.store_result("t1", 7, "SUCCESS")
        done = await client.post("/api/start", headers={"Prefer": "wait=5"})
        assert (done.status_code, done.json()["result"]) == (200, 7)
        assert done.headers["preference-applied"] == "wait=5"


async def test_errors_of_ours_in_handlers_of_ones_own() -> None:
    async def fail(request: Request) -> Response:
        raise {
            "busy": BackendUnavailable("redis://user:pw@host is down"),
            "late": ResultTimeout("not within 3 s"),
            "broken": ResultDecodeError("nonsense"),
        }[request.path_params["kind"]]

    app = Starlette(routes=[Route("/{kind}", fail)], exception_handlers=exception_handlers())
    async with serving(app) as client:
        busy, late, broken = [await client.get(f"/{kind}") for kind in ("busy", "late", "broken")]
    assert (busy.status_code, late.status_code, broken.status_code) == (503, 504, 502)
    assert busy.headers["retry-after"] == "2"
    assert "pw" not in busy.text


async def test_a_status_handler_of_ones_own(backend: Backend) -> None:
    async def mine(request: Request) -> Response:
        return await status(request, AsyncResult("t1"))

    async with serving(Starlette(routes=[Route("/mine", mine)])) as client:
        assert (await client.get("/mine")).json() == {"id": "t1", "state": "PENDING", "ready": False}


async def test_the_tree_shows_what_may_be_seen(backend: Backend, serve: Serve) -> None:
    record = {"status": "SUCCESS", "result": 1, "traceback": None, "task_id": "top"}
    children = [[["child", None], None], [["secret-child", None], None]]
    await put_raw(backend, "top", json.dumps({**record, "children": children}).encode())
    await backend.store_result("child", 2, "SUCCESS")
    async with serve() as client:
        found = (await client.get("/tasks/top/tree")).json()
    child = {"id": "child", "state": "SUCCESS", "children": []}
    assert found == {"id": "top", "state": "SUCCESS", "children": [child]}


async def test_a_record_that_cannot_be_read_hides_no_other_from_the_tree(backend: Backend, serve: Serve) -> None:
    children = [[[id, None], None] for id in ("junk", "vague", "good")]
    for id, below in (("top", children), ("vague", [VAGUE])):
        await put_raw(backend, id, json.dumps({"status": "SUCCESS", "children": below, "task_id": id}).encode())
    await put_raw(backend, "junk", b"\xff")
    await backend.store_result("good", 2, "SUCCESS")
    async with serve() as client:
        found = (await client.get("/tasks/top/tree")).json()
        assert [(child["id"], child["state"]) for child in found["children"]] == [
            ("junk", "unreadable"),
            ("vague", "SUCCESS"),
            ("good", "SUCCESS"),
        ]
        assert (await client.get("/tasks/junk/tree")).status_code == 502


def test_who_may_see_a_task_has_no_default() -> None:
    with pytest.raises(TypeError, match="authorize is required"):
        create_app()
    with pytest.raises(TypeError, match="authorize must be callable, not bool"):
        create_app(authorize=True)
    with pytest.raises(ValueError, match="ping"):
        Settings(authorize=lambda request, id: True, ping=0)


@pytest.mark.parametrize("name", ["revoke", "forget", "reveal_errors"])
def test_what_is_allowed_is_no_text(name: str) -> None:
    """As it comes out of the environment: "false" would be true."""
    for value in ("false", "0", None, 2):
        with pytest.raises(ValueError, match=f"{name} must be True or False"):
            create_app(authorize=lambda request, id: True, **{name: value})


@pytest.mark.parametrize("max_age", [0, -1, "60", float("nan"), float("inf")])
def test_a_token_has_an_age(max_age: Any) -> None:
    with pytest.raises(ValueError, match="max_age must be"):
        Tokens("secret", max_age=max_age)


def test_every_value_has_a_form_in_json() -> None:
    assert json.loads(dump({"a": float("nan"), ("b", 1): b"x", "c": [float("inf")]})) == {
        "a": "nan",
        "('b', 1)": "b'x'",
        "c": ["inf"],
    }
    deep: object = None
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ResultDecodeError):
        dump(deep)


async def test_an_unknown_id_is_not_found_where_tasks_are_registered(serve: Serve) -> None:
    async with connect("memory://", register=True) as backend:
        await backend.register("sent")
        await backend.mark_as_done("stored", 1)
        async with serve() as client:
            for id, code in (("sent", 200), ("stored", 200), ("unknown", 404)):
                assert (await client.get(f"/tasks/{id}")).status_code == code
            assert (await client.get("/tasks/unknown/events")).status_code == 404
            assert (await client.get("/tasks/page?id=sent&id=unknown")).status_code == 404


async def test_a_handler_of_ones_own_refuses_an_unknown_id_too() -> None:
    async def mine(request: Request) -> Response:
        return await status(request, AsyncResult(request.path_params["id"]))

    async with connect("memory://", register=True) as backend:
        await backend.register("sent")
        app = Starlette(routes=[Route("/{id}", mine)], exception_handlers=exception_handlers())
        async with serving(app) as client:
            assert (await client.get("/sent")).status_code == 200
            assert (await client.get("/unknown")).status_code == 404


async def test_the_tree_shows_each_task_once_and_not_too_many(
    backend: Backend, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"status": "SUCCESS", "result": 1, "traceback": None, "task_id": "top"}
    children = [[[id, None], None] for id in ("a", "top", "a", "b", "c")]
    await put_raw(backend, "top", json.dumps({**record, "children": children}).encode())
    async with serve() as client:
        found = (await client.get("/tasks/top/tree")).json()
        assert [child["id"] for child in found["children"]] == ["a", "b", "c"]
        monkeypatch.setattr(tree, "MAX_NODES", 3)
        found = (await client.get("/tasks/top/tree")).json()
    assert [child["id"] for child in found["children"]] == ["a", "b"]
    assert found["more"] is True


async def test_what_cannot_be_done_to_a_task_in_its_state(backend: Backend, serve: Serve) -> None:
    await backend.mark_as_done("t", 1)
    async with serve(revoke=True) as client:
        ended = await client.delete("/tasks/t")
    async with serve(forget=True) as client:
        running = await client.delete("/tasks/u")
    assert [(answer.status_code, answer.json()["title"]) for answer in (ended, running)] == [
        (409, "The task has ended"),
        (409, "The task has not ended"),
    ]


async def test_nothing_serves_tasks_here(backend: Backend) -> None:
    async def mine(request: Request) -> Response:
        with pytest.raises(RuntimeError, match="nothing serves tasks here"):
            await accepted(request, AsyncResult("t"))
        return Response("refused")

    async with serving(Starlette(routes=[Route("/mine", mine)])) as client:
        assert (await client.get("/mine")).text == "refused"


def test_a_framework_whose_routes_are_not_known() -> None:
    """One app that serves tasks is the one; of two nobody knows which."""
    request = Request({"type": "http", "headers": [], "path": "/"})
    with mock.patch.object(urls, "served_settings", return_value=["settings"]):
        assert find_served(request, "/tasks/") == ("settings", "/tasks")
    with mock.patch.object(urls, "served_settings", return_value=["one", "two"]):
        assert find_served(request, None) == (None, None)


async def test_whoever_decides_may_have_to_wait_for_it(backend: Backend, serve: Serve) -> None:
    async def authorize(request: Request, id: str) -> bool:
        return id == "mine"

    async with serve(authorize=lambda request, id: authorize(request, id)) as client:
        assert (await client.get("/tasks/mine")).status_code == 200
        assert (await client.get("/tasks/theirs")).status_code == 404


def test_a_record_whose_date_cannot_be_read_is_shown_without_it() -> None:
    meta = TaskMeta(task_id="t", status="SUCCESS", result=1, _date_done="yesterday")
    assert json.loads(status_json(meta)) == {"id": "t", "state": "SUCCESS", "ready": True, "result": 1}
