"""The page docs/howto/other-stores.md does what it says: its examples are run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.tools.celery_worker import CeleryWorker

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "howto" / "other-stores.md"

pytestmark = pytest.mark.celery

#: Program: what it prints, as a pattern. What is printed of a task that runs is chance.
PROGRAMS = {
    "demo.py": r"15\n15\n30\nstep 0\nstep 1\nstep 2\nTask finished after 3 steps\.\n",
    "get.py": r"15\n",
    "ready.py": r"(True|False)\nTrue\n15\n",
    "callback.py": r"15\n",
    "steps.py": r"30\n",
    "client.py": r"Task submitted with ID: \S+\nInitial state: [A-Z]+\nCurrent state: [A-Z]+\n"
    r"Final state: SUCCESS\nFinal return value: Task finished after 5 steps\.\n",
}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with every program of the page."""
    page = PAGE.read_text(encoding="utf-8")
    found = dict(re.findall(r'```python title="(\w+\.py)"\n(.*?)```', page, re.DOTALL))
    assert set(found) == set(PROGRAMS)
    for name, code in found.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    return tmp_path


@pytest.mark.rabbitmq
def test_rpc_over_rabbitmq(rabbitmq_url: str, programs: Path) -> None:
    run(list(PROGRAMS), programs, broker=rabbitmq_url, backend="rpc://")


@pytest.mark.slow
def test_rpc_over_redis(redis_url: str, programs: Path) -> None:
    run(list(PROGRAMS), programs, broker=redis_url, backend="rpc://")


@pytest.mark.rabbitmq
def test_results_in_redis(rabbitmq_url: str, redis_url: str, programs: Path) -> None:
    """But for the first, which reads states that are over: Redis keeps the latest."""
    run(list(PROGRAMS)[1:], programs, broker=rabbitmq_url, backend=redis_url)


def run(names: list[str], programs: Path, *, broker: str, backend: str) -> None:
    """All at the same time: each gets what it has sent."""
    env = {"BROKER": broker, "BACKEND": backend, "PYTHONPATH": os.pathsep.join([str(programs), str(ROOT)])}
    with CeleryWorker(broker=broker, backend=backend, app="demo:app", env=env), ExitStack() as stack:
        running = {
            name: stack.enter_context(
                subprocess.Popen(
                    [sys.executable, programs / name],
                    env={**os.environ, **env},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for name in names
        }
        for process in running.values():
            stack.callback(process.kill)
        for name, process in running.items():
            output, errors = process.communicate(timeout=60)
            assert process.returncode == 0, (name, errors)
            assert re.fullmatch(PROGRAMS[name], output), (name, output)
