"""Server-sent events: their forms, resuming, limits, and their ends."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest

from asyncresult import AsyncResult, Backend
from asyncresult.web import create_app, events, status
from asyncresult.web.dashboard import create_dashboard
from asyncresult.web.forms import comment, sse_event
from asyncresult.web.settings import Settings
from asyncresult.web.streams import EventStream, Followed, Position
from tests.backends.waiting import until
from tests.codec.records import VAGUE
from tests.web.conftest import Serve, put_raw, serving, stream

from starlette.applications import Starlette  # isort: skip
from starlette.middleware import Middleware  # isort: skip
from starlette.middleware.gzip import GZipMiddleware  # isort: skip
from starlette.requests import Request  # isort: skip
from starlette.responses import Response  # isort: skip
from starlette.routing import Mount, Route  # isort: skip


async def work(backend: Backend, id: str, steps: int) -> None:
    async with backend.track(id, history=100, progress_interval=0.001) as task:
        for step in range(1, steps + 1):
            await task.progress(step, steps, note=f"step {step}")
            await asyncio.sleep(0.01)
        task.set_result("all done")


async def test_a_task_is_followed_to_its_end(backend: Backend, serve: Serve) -> None:
    async with serve() as client, stream(client, "/tasks/t1/events") as followed:
        first = await followed.next()
        assert first is not None
        assert json.loads(first["data"])["state"] == "PENDING"
        await work(backend, "t1", 3)
        rest = await followed.all()
    names = [event["event"] for event in rest]
    assert names == ["progress"] * (len(names) - 2) + ["done", "end"]
    assert json.loads(rest[-2]["data"])["result"] == "all done"
    assert backend.stats().pending == 0


async def test_a_cut_stream_goes_on_where_it_was(backend: Backend, serve: Serve) -> None:
    """Nothing is lost and nothing comes twice, wherever it is cut."""
    await work(backend, "t1", 5)
    async with serve() as client:
        async with stream(client, "/tasks/t1/events") as followed:
            whole = await followed.all()
        for cut, last in enumerate(whole[:-1], start=1):
            response = await client.get("/tasks/t1/events", headers={"Last-Event-ID": last["id"]})
            if response.status_code == 204:  # the end of the task was sent
                assert cut >= len(whole) - 1
                continue
            async with stream(client, "/tasks/t1/events", Last_Event_ID=last["id"]) as followed:
                assert await followed.all() == whole[cut:]
        assert (await client.get("/tasks/t1/events", headers={"Last-Event-ID": whole[-1]["id"]})).status_code == 204
    progress = [json.loads(event["data"])["progress"]["current"] for event in whole if "progress" in event["data"]]
    assert [n for n in progress if n] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("last", ["0", "x", "ffffffff:1-0", "99999999999999999999999-1", ":", "é", "9" * 5000])
async def test_the_last_event_id_of_another_stream_counts_for_nothing(
    backend: Backend, serve: Serve, last: str
) -> None:
    await work(backend, "t1", 2)
    async with serve() as client:
        async with stream(client, "/tasks/t1/events") as followed:
            whole = await followed.all()
        async with client.stream("GET", "/tasks/t1/events", headers=[(b"last-event-id", last.encode())]) as response:
            assert (await response.aread()).count(b"event: ") == len(whole)


def test_a_forged_place_is_no_place() -> None:
    right = str(Position(["a"])).partition(":")[0]
    for place in ("18446744073709551616-0", "1-18446744073709551616", "-", "1-2-3", "٣", "1,2"):
        assert Position(["a"], f"{right}:{place}").since("a") == "0"
    assert Position(["a"], f"{right}:7-1").since("a") == "7-1"
    assert Position(["b"], f"{right}:7-1").since("b") == "0"


async def test_many_tasks_in_one_stream(backend: Backend, serve: Serve) -> None:
    await work(backend, "a", 2)
    async with serve() as client:
        async with stream(client, "/tasks/events?id=a&id=b&id=a") as followed:
            found: list[Any] = []
            while not found or found[-1]["event"] != "done":
                event = await followed.next()
                assert event is not None
                found.append(event)
            last = next(event["id"] for event in reversed(found) if "id" in event)
        await work(backend, "b", 2)
        async with stream(client, "/tasks/events?id=a&id=b", Last_Event_ID=last) as followed:
            rest = await followed.all()
    ids = {json.loads(event["data"]).get("id") for event in rest}
    assert ids == {"b", None}, "the end of a has been sent before"
    assert [event["event"] for event in rest][-2:] == ["done", "end"]


@pytest.mark.parametrize(
    "record",
    [
        {"status": "SUCCESS", "result": [VAGUE]},
        {"status": "PROGRESS", "result": {"current": 1, "total": 2, "note": VAGUE}},
        {"status": "FAILURE", "result": {"exc_type": VAGUE, "exc_message": [VAGUE]}},
    ],
)
async def test_a_value_of_which_nothing_can_be_said_is_shown_and_hurts_no_other(
    backend: Backend, serve: Serve, record: dict[str, Any]
) -> None:
    await put_raw(backend, "a", json.dumps({**record, "task_id": "a"}).encode())
    await backend.mark_as_done("b", 7)
    async with serve(reveal_errors=True) as client:
        async with stream(client, "/tasks/events?id=a&id=b") as followed:
            events = [await followed.next(), await followed.next()]
        told = [json.loads(event["data"]) for event in events if event is not None]
        assert {document["id"]: document["state"] for document in told} == {"a": record["status"], "b": "SUCCESS"}
        shown = await client.get("/tasks/a")
        assert shown.json()["state"] == record["status"]
        assert ("cannot be shown" in shown.text) == (record["status"] != "PROGRESS")
    async with serving(create_dashboard(backend)) as client:
        assert {task["id"] for task in (await client.get("/list")).json()["tasks"]} == {"a", "b"}


async def test_the_number_of_ids_has_a_limit(backend: Backend, serve: Serve) -> None:
    async with serve(max_ids=2) as client:
        for query in ("", "?id=a&id=b&id=c"):
            assert (await client.get(f"/tasks/events{query}")).status_code == 400


async def test_forms(backend: Backend, serve: Serve) -> None:
    await backend.store_result("t1", "<b>&\r\nevent: forged", "SUCCESS")
    async with serve() as client:

        async def body(query: str, **headers: str) -> str:
            return str((await client.get(f"/tasks/t1/events{query}", headers=headers)).text)

        html4 = await body("", Accept="text/html, text/event-stream")
        html2, datastar = await body("?format=htmx2"), await body("?format=datastar")
        assert (await client.get("/tasks/t1/events?format=xml")).status_code == 400
        assert (await client.get("/tasks/t1/events", headers={"Accept": "image/png"})).status_code == 406
    assert "event: progress" not in html4
    assert "event: done\n" in html4
    assert "event: progress\n" in html2
    assert "event: done\n" in html2
    assert "event: datastar-patch-elements\n" in datastar
    assert 'data: elements <div class="asyncresult-task" id="task-t1"' in datastar
    for text in (html4, html2, datastar):
        assert "&lt;b&gt;&amp;" in text
        assert "\nevent: forged" not in text


def test_line_breaks_in_data_and_ids_forge_nothing() -> None:
    assert sse_event("a\r\nb\rc\nd\u2028e", name="x\ny", id="1\r\n\0" + "2") == (
        "event: xy\nid: 12\ndata: a\ndata: b\ndata: c\ndata: d\u2028e\n\n".encode()
    )
    assert comment("a\ndata: b") == b": adata: b\n\n"


async def test_head_of_a_stream_has_no_stream(backend: Backend, serve: Serve) -> None:
    async with serve() as client:
        head = await client.head("/tasks/t1/events")
    assert head.headers["content-type"].startswith("text/event-stream")
    assert head.headers["x-accel-buffering"] == "no"


async def test_streams_are_not_compressed(backend: Backend) -> None:
    app = Starlette(
        routes=[Mount("/tasks", create_app(authorize=lambda request, id: True))],
        middleware=[Middleware(GZipMiddleware, minimum_size=1)],
    )
    async with serving(app) as client, stream(client, "/tasks/t1/events", Accept_Encoding="gzip") as followed:
        assert await followed.next() is not None, "at once, not when there is enough to be compressed"


async def test_silence_is_filled_and_a_life_ends(backend: Backend, serve: Serve) -> None:
    async with serve(ping=0.05, stream_life=0.4) as client:
        response = await client.get("/tasks/t1/events")
    assert response.text.startswith("retry: 1000\n\n")
    assert response.text.count(": ping\n\n") >= 2
    assert "event: end" not in response.text, "the client is to come back"


async def test_caps(backend: Backend, serve: Serve) -> None:
    async with serve(max_streams_per_client=2) as client, AsyncExitStack() as stack:
        for id in ("a", "b"):
            followed = await stack.enter_async_context(stream(client, f"/tasks/{id}/events"))
            await followed.next()
        refused = await client.get("/tasks/c/events")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        assert refused.headers["content-type"] == "application/problem+json"
        counted = backend.stats()
        assert (counted.streams, counted.streamed, counted.refused_streams) == (2, 2, 1)
        await stack.aclose()
        async with asyncio.timeout(5):
            while (await client.head("/tasks/c/events")).status_code != 200 or backend.stats().pending:
                await asyncio.sleep(0.01)
        async with stream(client, "/tasks/c/events") as followed:
            assert await followed.next() is not None


async def test_streams_and_waits_end_when_the_server_begins_to_stop(backend: Backend, serve: Serve) -> None:
    async with serve() as client, stream(client, "/tasks/t1/events") as followed:
        await followed.next()
        polling = asyncio.create_task(client.get("/tasks/t2?wait=20"))
        while backend.stats().pending < 2:
            await asyncio.sleep(0.005)
        began = time.monotonic()
        client.server.should_exit = True
        assert await followed.all() == []
        assert (await polling).json()["state"] == "PENDING"
        assert time.monotonic() - began < 2
    assert backend.stats().pending == 0


async def test_an_unreadable_record_is_said_once(backend: Backend, serve: Serve) -> None:
    await put_raw(backend, "t1", b"\xff nonsense")
    async with serve() as client:
        assert (await client.get("/tasks/t1")).status_code == 502
        found = await client.get("/tasks/t1/events")
    assert "event: problem" in found.text
    assert "event: end" in found.text
    assert "nonsense" not in found.text


async def test_a_client_that_does_not_read_costs_little(backend: Backend, serve: Serve) -> None:
    """And keeps nobody from the end: the stream's life ends it."""
    async with serve(stream_life=1.0, ping=0.1) as client:
        port = client.base_url.port
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", port))
        slow.sendall(b"GET /tasks/t1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        while not backend.stats().pending and not backend.stats().subscribed:
            await asyncio.sleep(0.005)
        for step in range(1, 400):
            await backend.store_result("t1", {"current": step, "total": 400, "note": "x" * 400}, "PROGRESS")
            await asyncio.sleep(0)
        async with asyncio.timeout(8):
            while backend.stats().subscribed:
                await asyncio.sleep(0.02)
        slow.close()


async def test_a_slow_client_is_counted(backend: Backend) -> None:
    reads = asyncio.Event()
    reads.set()
    sent: list[bytes] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message.get("body", b""))
        await reads.wait()

    settings = Settings(authorize=lambda request, id: True, ping=0.01)
    tasks = [Followed(backend.result("t"), "t")]
    events: Any = EventStream(tasks, settings, form="json", position=Position(["t"]))
    gone: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(events({"method": "GET"}, lambda: gone, send))
    await until(lambda: any(b"PENDING" in event for event in sent))
    reads.clear()
    await backend.store_result("t", 0, "PROGRESS")
    await until(lambda: backend.stats().slow_streams == 1)
    for step in range(1, 101):
        await backend.store_result("t", step, "PROGRESS")
    assert backend.stats().streams == 1
    reads.set()
    await backend.mark_as_done("t", 1)
    await serving
    counted = backend.stats()
    assert (counted.streams, counted.slow_streams) == (0, 1)
    assert counted.dropped > 0
    # Those kept of 101 states, the first and the last, and the event that says that all have ended.
    assert counted.streamed == 1 + 101 - counted.dropped + 2


async def test_a_stream_of_ones_own(backend: Backend) -> None:
    async def mine(request: Request) -> Response:
        return await events(request, AsyncResult("t1"))

    await backend.store_result("t1", 7, "SUCCESS")
    async with serving(Starlette(routes=[Route("/mine", mine)])) as client, stream(client, "/mine") as followed:
        assert [event["event"] for event in await followed.all()] == ["done", "end"]


@pytest.mark.parametrize("last", range(1, 6))
async def test_a_server_that_says_by_an_error_that_the_client_has_gone(backend: Backend, last: int) -> None:
    """At whatever it was to be sent: the head, an event of one of several tasks, a comment."""
    sent = 0

    async def send(message: dict[str, Any]) -> None:
        nonlocal sent
        sent += 1
        if sent >= last:
            raise ConnectionResetError("gone")

    ids = ["t1", "t2"]
    settings = Settings(authorize=lambda request, id: True, ping=0.01)
    tasks = [Followed(backend.result(id), id) for id in ids]
    events: Any = EventStream(tasks, settings, form="json", position=Position(ids))
    here: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(20):
        await events({"method": "GET"}, lambda: here, send)
    assert backend.stats().streams == backend.stats().pending == 0


@pytest.mark.parametrize("path", ["/events", "/status?wait=9"])
async def test_a_task_before_it_has_failed(backend: Backend, path: str) -> None:
    """In a handler of one's own, where a handle knows what comes before it: that is its end, too."""

    def last_of_a_chain() -> AsyncResult[Any]:
        return AsyncResult("last", parent=AsyncResult("first"))

    async def follow(request: Request) -> Response:
        return await events(request, last_of_a_chain())

    async def wait(request: Request) -> Response:
        return await status(request, last_of_a_chain(), base="/tasks")

    await backend.mark_as_failure("first", LookupError("secret"))
    async with serving(Starlette(routes=[Route("/events", follow), Route("/status", wait)])) as client:
        answer = await client.get(path)
    assert answer.status_code == 200
    assert '"state":"FAILURE"' in answer.text
    assert '"id":"last"' in answer.text
    assert "secret" not in answer.text
