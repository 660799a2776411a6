"""watch: lines, JSON, and the view that is drawn on a terminal."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import threading
from pathlib import Path
from xml.etree import ElementTree

import pytest

import asyncresult as asyncresult_library
from tests.tools.command_line import asyncresult, command, environment, in_process, on_terminal
from tests.tools.processes import wait_until
from tests.tools.servers import RedisServer

from .conftest import Store

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def ending(redis_server: RedisServer, url: str, store: Store) -> str:
    """An URL; the task ``busy`` goes on, and ends, once somebody watches it."""

    def end() -> None:
        wait_until(lambda: "celery-task-meta-busy" in redis_server.channels(), "it is watched")
        store("busy", "PROGRESS", {"current": 5, "total": 10})
        store("busy", result="done")

    thread = threading.Thread(target=end)
    thread.start()
    return url


def test_a_line_for_each_state(ending: str) -> None:
    outcome = asyncresult("watch", "busy", "bad", "--url", ending)
    assert outcome.status == 0
    lines = outcome.out.splitlines()
    assert "bad FAILURE ValueError: boom" in lines
    assert lines[-1] == "busy SUCCESS done"
    assert 'busy PROGRESS {"current": 3, "total": 10, "note": "three"}' in lines


@pytest.mark.parametrize(("id", "status"), [("bad", 1), ("gone", 3), ("ok", 0), ("junk", 6)])
def test_the_exit_status_says_how_it_ended_where_that_is_wanted(id: str, status: int, url: str) -> None:
    assert in_process("watch", "ok", id, "--exit-status", "--url", url).status == status
    assert in_process("watch", "ok", id, "--url", url).status == (6 if id == "junk" else 0)


def test_json_lines(ending: str) -> None:
    shown = [json.loads(line) for line in asyncresult("watch", "busy", "--json", "--url", ending).out.splitlines()]
    assert (shown[0]["id"], shown[0]["state"], shown[0]["ready"]) == ("busy", "PROGRESS", False)
    assert (shown[-1]["state"], shown[-1]["ready"], shown[-1]["result"]) == ("SUCCESS", True, "done")


def test_timeout(url: str) -> None:
    outcome = in_process("watch", "busy", "--timeout", "0.2", "--url", url)
    assert (outcome.status, outcome.err) == (124, "asyncresult: not all had ended after 0.2 seconds\n")


def test_a_bar_on_a_terminal(url: str, store: Store) -> None:
    pytest.importorskip("rich")
    status, seen = on_terminal(
        "watch", "busy", "bad", "--url", url, once_seen=("3/10 three", lambda _: store("busy", result="done"))
    )
    assert status == 0
    assert "━" in seen
    assert "\x1b[1A" in seen  # drawn again, not below
    assert "\x1b[31mFAILURE" in seen
    assert "done" in seen[seen.rindex("busy") :]


def test_one_that_reports_nonsense_leaves_the_others_drawn(url: str, store: Store) -> None:
    pytest.importorskip("rich")
    store("odd", "PROGRESS", {"current": 10**400, "total": 10**400})
    status, seen = on_terminal(
        "watch", "busy", "odd", "--url", url, "--timeout", "3", once_seen=("3/10 three", lambda _: store("busy"))
    )
    assert status == 124
    assert "Traceback" not in seen
    assert "SUCCESS" in seen


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"PYTHONPATH": "no-rich"}])
def test_lines_where_the_cursor_cannot_move_or_rich_is_missing(env: dict[str, str], url: str, tmp_path: Path) -> None:
    if "PYTHONPATH" in env:
        # As if it were not installed: find_spec() finds nothing.
        (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['rich'] = None\n")
        env = {"PYTHONPATH": f"{tmp_path}:{environment()['PYTHONPATH']}"}
    status, seen = on_terminal("watch", "ok", "--url", url, env=env)
    assert (status, seen) == (0, 'ok SUCCESS {"n": 1}\r\n')


def test_no_color(url: str) -> None:
    status, seen = on_terminal("watch", "bad", "--url", url, env={"NO_COLOR": "1"})
    assert status == 0
    assert "\x1b[31m" not in seen
    assert "FAILURE" in seen
    assert "\x1b[31m" in on_terminal("info", "bad", "--url", url)[1]
    assert "\x1b[" not in on_terminal("info", "bad", "--url", url, env={"NO_COLOR": "1"})[1]


def test_ascii_terminal(url: str, store: Store) -> None:
    store("utf", result="naïve ☃")
    outcome = asyncresult("watch", "utf", "--url", url, env={"PYTHONIOENCODING": "ascii"})
    assert (outcome.status, outcome.out) == (0, "utf SUCCESS na\\xefve \\u2603\n")


def test_since(redis_server: RedisServer) -> None:
    async def run() -> None:
        async with asyncresult_library.connect(redis_server.url()) as backend:
            async with backend.track("kept", history=10) as task:
                for step in range(1, 4):
                    await task.progress(step, 3)
                task.set_result("done")

    asyncio.run(run())

    def watched(since: str) -> list[tuple[str, str]]:
        lines = in_process("watch", "kept", "--json", "--since", since, "--url", redis_server.url()).out.splitlines()
        return [(shown["state_id"], shown["state"]) for shown in map(json.loads, lines)]

    every = watched("0")
    assert every[0][1] == "STARTED"
    assert every[-1][1] == "SUCCESS"
    assert len(every) >= 3
    assert watched(every[1][0]) == every[2:]
    wrong = in_process("watch", "kept", "--since", "nonsense", "--url", redis_server.url())
    assert wrong.status == 2
    assert wrong.err.count("\n") == 1


def test_ctrl_c_leaves_the_terminal_in_order(url: str) -> None:
    pytest.importorskip("rich")
    status, seen = on_terminal(
        "watch", "busy", "--url", url, once_seen=("3/10 three", lambda process: process.send_signal(signal.SIGINT))
    )
    assert status == 130
    assert "Traceback" not in seen
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")  # the cursor is shown again


def test_connections_that_end_do_not_end_a_watch(redis_server: RedisServer, url: str) -> None:
    """What is said of an outage goes to stderr; the states go on."""
    process = subprocess.Popen(
        command("watch", "busy", "--json", "--url", url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["state"] == "PROGRESS"
    redis_server.kill_clients("pubsub")
    redis_server.kill_clients()
    redis_server.cli("SETEX", "celery-task-meta-busy", 60, json.dumps({"status": "SUCCESS", "result": 7}))
    out, err = process.communicate(timeout=60)
    assert json.loads(out.splitlines()[-1])["result"] == 7
    assert process.returncode == 0
    assert b"Traceback" not in err


def test_the_recording_of_watch_is_drawn() -> None:
    pytest.importorskip("rich")
    from tests.tools.recording import PICTURE, states

    picture = ElementTree.parse(PICTURE).getroot()
    frames = [group for group in picture.iter(f"{SVG}g") if group.get("class", "").startswith("f ")]
    assert len(frames) == len(states()) + 1, "python3 -m tests.tools.recording"
    last = "".join(frames[-1].itertext())
    assert last.count("SUCCESS") == 2
    assert "FAILURE" in last


def test_recording() -> None:
    pytest.importorskip("rich")
    from tests.tools.recording import recording, states

    assert len(list(ElementTree.fromstring(recording()).iter(f"{SVG}g"))) == len(states()) + 1
