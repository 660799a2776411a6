"""demo: in memory, and with a worker."""

from __future__ import annotations

import re

from tests.tools.command_line import asyncresult, on_terminal


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
