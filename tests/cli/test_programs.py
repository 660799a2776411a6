"""completion, demo, and apps by -A."""

from __future__ import annotations

import json
import subprocess

import pytest

from asyncresult.cli.completion import script_for
from tests.tools.celery_app import CONFIG_VARIABLE
from tests.tools.command_line import asyncresult


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["do"], {"doctor"}),
        (["tree", "--format", "m"], {"mermaid"}),
        (["watch", "--ex"], {"--exit-status"}),
        (["completion", "z"], {"zsh"}),
    ],
)
def test_bash_completes(words: list[str], expected: set[str]) -> None:
    typed = " ".join(["asyncresult", *words])
    program = (
        f"{script_for('bash')}\nCOMP_WORDS=({typed}); COMP_CWORD={len(words)}; _asyncresult; echo ${{COMPREPLY[@]}}"
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected


def test_the_settings_of_an_app_say_where_its_results_are(url: str) -> None:
    config = json.dumps({"broker_url": "memory://", "result_backend": url})
    outcome = asyncresult("get", "text", "-A", "tests.tools.celery_app:app", env={CONFIG_VARIABLE: config})
    assert outcome == (0, "two\nlines\n", "")


def test_demo_in_memory_shows_code_and_what_happens() -> None:
    outcome = asyncresult("demo", "--memory")
    assert outcome.status == 0
    assert "   | value = await handle.get(timeout=30)" in outcome.out
    assert "   2 + 3 = 5" in outcome.out
    assert "   the answer is 42" in outcome.out


def test_demo_with_a_worker() -> None:
    outcome = asyncresult("demo", timeout=120)
    assert (outcome.status, outcome.err) == (0, "")
    assert "each the right one" in outcome.out
    assert "except ZeroDivisionError" in outcome.out
