"""``serve``, as a process: the list, the search, the gate, revoking where it is allowed, and its end."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Store
from tests.tools.command_line import asyncresult, command, environment
from tests.tools.processes import Child, wait_until
from tests.tools.servers import RedisServer, free_port

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")
pytest.importorskip("starlette")


@contextmanager
def serving(directory: Path, *words: str) -> Generator[tuple[Any, Child, str]]:
    """A client of a server, its process, and the address that it has printed."""
    process = Child(command("serve", "--port", "0", *words), log=directory / "log", env=environment())
    try:
        found = wait_until(lambda: re.search(r" (http://\S+)", process.output()) or not process.running, "an address")
        assert isinstance(found, re.Match), process.output()
        with httpx.Client(base_url=found[1].partition("?")[0], timeout=20) as client:
            yield client, process, found[1]
    finally:
        process.kill()


def test_the_list_the_search_and_the_end(url: str, tmp_path: Path) -> None:
    with serving(tmp_path, "--url", url) as (client, process, address):
        assert "token" not in address
        listed = client.get("/list").json()
        assert {task["id"]: task["state"] for task in listed["tasks"]} == {
            "ok": "SUCCESS",
            "text": "SUCCESS",
            "bad": "FAILURE",
            "gone": "REVOKED",
            "busy": "PROGRESS",
            "junk": "unreadable",
        }
        assert listed["complete"] is True
        assert listed["tasks"][0] == {
            "id": "busy",
            "state": "PROGRESS",
            "ready": False,
            "name": None,
            "date_done": None,
            "percent": 30.0,
        }
        page = client.get("/")
        assert "<table" in page.text
        for script in re.findall(r'src="([^"]+)"', page.text):
            assert client.get(script).status_code == 200
        found = client.get("/find", params={"id": " bad "})
        assert (found.status_code, found.headers["location"]) == (303, "/tasks/bad/page")
        assert 'href="/"' in client.get("/tasks/bad/page").text
        assert client.get("/tasks/bad").json()["error"]["detail"] == "boom"
        assert client.post("/tasks/busy/revoke").status_code == 404, "it was not allowed"
        assert client.get("/find", params={"id": "a/b"}).status_code == 400
        # A name of another site that points to this machine:
        refused = client.get("/list", headers={"Host": "evil.example:80"})
        assert refused.status_code == 403
        assert refused.json()["detail"] == "This server is called localhost or 127.0.0.1 or [::1]."

        with client.stream("GET", "/tasks/busy/events") as events:
            lines = events.iter_lines()
            wait_until(lambda: next(lines).startswith("data:"), "an event")
            began = time.monotonic()
            process.signal(signal.SIGINT)
            for _ in lines:
                pass
            assert process.wait(20) == 130
            assert time.monotonic() - began < 5, "Python alone takes a second to end on a busy machine"
        assert "Traceback" not in process.output()


def test_it_ends_though_the_store_does_not_answer(redis_server: RedisServer, url: str, tmp_path: Path) -> None:
    with serving(tmp_path, "--url", url) as (client, process, _):
        assert client.get("/tasks/busy").status_code == 200
        with socket.create_connection((client.base_url.host, client.base_url.port)) as waiting:
            redis_server.pause()
            try:
                waiting.sendall(b"GET /tasks/busy HTTP/1.1\r\nHost: localhost\r\n\r\n")
                time.sleep(0.2)  # it has come, and waits
                began = time.monotonic()
                process.signal(signal.SIGINT)
                assert process.wait(20) == 130
                assert time.monotonic() - began < 5
            finally:
                redis_server.resume()


def test_from_elsewhere_with_a_token_only(url: str, tmp_path: Path) -> None:
    with serving(tmp_path, "--url", url, "--host", "0.0.0.0") as (client, _, address):
        token = address.partition("?token=")[2].strip()
        assert len(token) > 20
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "asyncresult=x"}):
            refused = client.get("/list", headers=headers)
            assert (refused.status_code, refused.headers["content-type"]) == (401, "application/problem+json")
        assert client.get("/tasks/ok/events").status_code == client.get("/?token=é").status_code == 401
        assert client.get("/list", headers={"Authorization": f"Bearer {token}"}).status_code == 200
        entered = client.get("/", params={"token": token})
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        assert "httponly" in entered.headers["set-cookie"].lower()
        assert client.get("/list").status_code == 200, "the cookie is enough"


def test_revoking_where_it_is_allowed(store: Store, url: str, tmp_path: Path) -> None:
    """A running task of our own executor; a page of another site cannot."""
    with serving(tmp_path, "--url", url, "--allow-revoke") as (client, *_):
        assert "data-href" in client.get("/tasks/busy/page").text
        for headers in ({"Sec-Fetch-Site": "same-site"}, {"Origin": "http://evil.example"}):
            assert client.post("/tasks/busy/revoke", headers=headers).status_code == 403
        same = str(client.base_url).rstrip("/")
        refused = client.post("/tasks/busy/revoke", headers={"Origin": same})
        assert refused.status_code == 501, "nobody runs it"
        assert json.loads(refused.text)["title"] == "Nobody to reach"


def test_a_port_that_is_taken_is_one_line(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = asyncresult("serve", "--url", url, "--port", str(taken.getsockname()[1]))
    assert outcome.status == 2
    assert re.fullmatch(r"asyncresult: cannot listen at 127.0.0.1 port \d+: .*\n", outcome.err)
    assert asyncresult("serve", "--url", f"redis://127.0.0.1:{free_port()}/0", "--connect-timeout", "0.5").status == 5


def test_a_host_that_can_be_none_is_one_line(url: str) -> None:
    outcome = asyncresult("serve", "--url", url, "--host", "a..b")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert outcome.err.startswith("asyncresult: cannot listen at a..b port ")
