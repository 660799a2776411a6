"""A newcomer's mistakes: each is one line that says what to do, with its exit status, and never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.command_line import asyncresult, command, environment, in_process
from tests.tools.servers import RedisServer

APPS = {
    "broken": "import nonexistent_module",
    "exits": "import sys\nsys.exit('no settings')",
    "raises": "raise RuntimeError('one\\ntwo')",
    "misspelt": "def f(:",
    "another": "app = 5",
    "without": "from celery import Celery\napp = Celery(broker='memory://')",
    "replies": "from celery import Celery\napp = Celery(broker='memory://', backend='rpc://')",
    "here": "from celery import Celery\napp = Celery(broker='memory://', backend='cache+memory://')",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, source in APPS.items():
        (tmp_path / f"{name}_app.py").write_text(source)
    return tmp_path


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("broken_app", "cannot load the Celery app 'broken_app': ModuleNotFoundError"),
        ("exits_app", "SystemExit: no settings"),
        ("raises_app", "RuntimeError: one two"),
        ("misspelt_app", "SyntaxError"),
        ("another_app:app", "that is not a Celery app, but int"),
        ("without_app", "it has no result_backend"),
        ("replies_app", "to the process that sent the task"),
        ("here_app", "memory of one process"),
    ],
)
def test_an_app_that_does_not_help(app: str, says: str, project: Path) -> None:
    outcome = asyncresult("get", "x", "-A", app, cwd=project)
    assert (outcome.status, outcome.out) == (2, "")
    assert says in outcome.err
    assert outcome.err.count("\n") == 1


def test_the_memory_of_another_process_is_refused() -> None:
    for words in (["ls"], ["get", "x"], ["stats"], ["forget", "x", "--yes"], ["tree", "x"]):
        outcome = in_process(*words, "--url", "memory://name")
        assert (outcome.status, outcome.out) == (2, "")
        assert "another one: give the URL of a server" in outcome.err


@pytest.mark.parametrize("words", ["get {} --no-wait", "info {}", "tree {}", "doctor {}", "forget {} --yes"])
def test_an_id_of_ten_kilobytes_is_no_screenful(words: str, url: str) -> None:
    outcome = in_process(*words.format("a" * 10_240).split(), "--url", url)
    assert outcome.status in (0, 4)
    assert all(len(line) < 400 for line in outcome.err.splitlines())


@pytest.mark.parametrize(
    ("name", "id"),
    [
        *((name, "a\x1b[2Jb") for name in ("get", "wait", "watch", "info", "tree", "forget", "revoke", "doctor")),
        ("get", ""),
        ("doctor", ""),
        ("wait", "a\nb"),
    ],
)
def test_an_id_that_cannot_be_one(name: str, id: str) -> None:
    outcome = in_process(name, id, "--url", "redis://127.0.0.1:1", *(["--yes"] if name == "forget" else []))
    assert outcome.status == 2
    assert "a task id must not" in outcome.err
    assert outcome.err.count("\n") == 1


def test_stdin_that_is_no_text(url: str) -> None:
    done = subprocess.run(
        command("wait", "-", "--url", url), input=b"a\xff\xfe\n", capture_output=True, env=environment(), check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"asyncresult: a task id must be encodable as UTF-8")


def test_a_key_that_holds_something_else(redis_server: RedisServer, url: str) -> None:
    redis_server.cli("LPUSH", "celery-task-meta-list", "x")
    outcome = in_process("get", "list", "--url", url)
    assert outcome.status == 6
    assert "not the record of a task" in outcome.err


@pytest.mark.parametrize("words", ["ls", "get ok", "info ok", "tree ok", "watch ok", "stats", "get ok --raw"])
def test_closed_streams_are_no_reason_to_fail(words: str, url: str) -> None:
    shell = "exec " + " ".join(command(*words.split(), "--url", url)) + " <&- >&-"
    done = subprocess.run(["sh", "-c", shell], stderr=subprocess.PIPE, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_is_said_to_a_closed_stderr_does_not_become_data(url: str) -> None:
    shell = "exec " + " ".join(command("get", "none", "--no-wait", "--url", url)) + " 2>&-"
    done = subprocess.run(["sh", "-c", shell], stdout=subprocess.PIPE, env=environment(), check=False)
    assert (done.returncode, done.stdout) == (4, b"")


def test_a_full_disk_is_said_in_one_line(url: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command("ls", "--url", url), stdout=full, stderr=subprocess.PIPE, env=environment(), check=False
        )
    assert done.returncode == 2
    assert done.stderr == b"asyncresult: the output cannot be written: No space left on device\n"


def test_options_before_the_command(url: str) -> None:
    assert in_process("--url", url, "get", "text").out == "two\nlines\n"
    assert in_process("--url", "redis://127.0.0.1:1", "get", "text", "--url", url).status == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["wait", "x", "--timeout", "abc"], "'abc' is not a number of seconds"),
        (["wait", "x", "--timeout", "nan"], "'nan' is not a number of seconds"),
        (["wait", "x", "--count", "x"], "'x' is not a number of at least 1"),
        (["serve", "--port", "70000"], "'70000' is not a port"),
        (["tree", "x", "--format", "png"], "choose from"),
        (["get"], "required: ID"),
        ([], "required: COMMAND"),
    ],
)
def test_wrong_usage_says_what_is_wrong_and_where_help_is(words: list[str], says: str) -> None:
    outcome = in_process(*words)
    assert (outcome.status, outcome.out) == (2, "")
    assert says in outcome.err
    assert "--help)\n" in outcome.err
    assert outcome.err.count("\n") == 1


def test_json_has_no_nan(redis_server: RedisServer, url: str) -> None:
    record = '{"status": "SUCCESS", "result": {"loss": NaN, "best": [-Infinity, Infinity]}}'
    redis_server.cli("SET", "celery-task-meta-nan", record)

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    for words in (["get", "nan", "--json"], ["info", "nan", "--json"], ["watch", "nan", "--json"]):
        shown = json.loads(in_process(*words, "--url", url).out, parse_constant=no_constant)
        assert shown["result"] == {"loss": "NaN", "best": ["-Infinity", "Infinity"]}


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
