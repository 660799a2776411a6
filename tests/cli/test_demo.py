"""demo, apps by -A, and the recording of watch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from tests.tools.celery_app import CONFIG_VARIABLE
from tests.tools.command_line import asyncresult, environment, on_terminal

SVG = "{http://www.w3.org/2000/svg}"


def test_the_settings_of_an_app_say_where_its_results_are(url: str) -> None:
    config = json.dumps({"broker_url": "memory://", "result_backend": url})
    outcome = asyncresult("get", "text", "-A", "tests.tools.celery_app:app", env={CONFIG_VARIABLE: config})
    assert outcome == (0, "two\nlines\n", "")


def test_the_demo_shows_code_and_what_happens() -> None:
    outcome = asyncresult("demo", "--memory")
    assert (outcome.status, outcome.err) == (0, "")
    assert "   | value = await handle\n" in outcome.out
    assert "   2 + 3 = 5\n" in outcome.out
    assert "   ZeroDivisionError: division by zero\n" in outcome.out
    assert "   the answer is 42\n" in outcome.out
    assert "asyncresult doctor ID" in outcome.out.partition("where to go next")[2]


def test_the_demo_shows_them_beside_each_other_on_a_terminal() -> None:
    status, seen = on_terminal("demo", "--memory", env={"COLUMNS": "140", "LINES": "50"})
    assert status == 0
    assert re.search(r"\x1b\[3A\x1b\[\d+G→ 2 \+ 3 = 5\x1b\[K\x1b\[3B\r", seen)  # in the first of three lines
    assert "10/10\x1b[K" in seen


def test_the_demo_with_a_worker() -> None:
    outcome = asyncresult("demo", timeout=120)
    assert (outcome.status, outcome.err) == (0, "")
    assert "a stock Celery worker: process" in outcome.out
    assert "all there, in order, after" in outcome.out
    assert "return x / y" in outcome.out  # the worker's traceback
    assert "the answer is 42" in outcome.out


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


def test_what_needs_no_server_imports_no_client() -> None:
    program = (
        "import sys; from asyncresult.cli import main; main([sys.argv[1]])\n"
        "print(*{'asyncio', 'redis', 'hiredis', 'celery', 'rich', 'msgspec'} & set(sys.modules), file=sys.stderr)"
    )
    for words in ("--version", "--help"):
        done = subprocess.run(
            [sys.executable, "-c", program, words], capture_output=True, text=True, check=True, env=environment()
        )
        assert done.stderr == "\n"
