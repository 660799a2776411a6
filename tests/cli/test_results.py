"""get, wait, info, forget: output and exit statuses, which scripts rely on."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from datetime import datetime

import pytest

from asyncresult import connect
from tests.tools.command_line import Outcome, asyncresult, command, environment, in_process, on_terminal
from tests.tools.processes import wait_until
from tests.tools.servers import RedisServer

from .conftest import Store


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("get ok", Outcome(0, '{"n": 1}\n', "")),
        ("get text", Outcome(0, "two\nlines\n", "")),
        ("get ok --field worker", Outcome(0, "w1\n", "")),
        ("get ok --field parent_id", Outcome(0, "null\n", "")),
        ("get busy --no-wait", Outcome(0, '{"current": 3, "total": 10, "note": "three"}\n', "")),
        ("get bad", Outcome(1, "", "asyncresult: bad FAILURE: ValueError: boom\n")),
        (
            "get bad --traceback",
            Outcome(
                1,
                "",
                "asyncresult: bad FAILURE: ValueError: boom\n"
                "Traceback (most recent call last):\n  …\nValueError: boom\n",
            ),
        ),
        ("get gone", Outcome(3, "", "asyncresult: gone REVOKED: TaskRevokedError: revoked\n")),
        ("get none --no-wait", Outcome(4, "", "asyncresult: nothing is stored for none\n")),
        ("wait ok text", Outcome(0, "ok SUCCESS\ntext SUCCESS\n", "")),
        ("wait ok bad ok", Outcome(1, "ok SUCCESS\nbad FAILURE\n", "")),
        ("wait -q bad gone", Outcome(3, "", "")),
        ("wait busy ok --any", Outcome(0, "ok SUCCESS\n", "")),
        ("wait busy none --for PROGRESS --any", Outcome(0, "busy PROGRESS\n", "")),
        ("wait bad --for STARTED", Outcome(1, "bad FAILURE\n", "")),
        ("info none", Outcome(4, "", "asyncresult: nothing is stored for none\n")),
        ("forget ok none --yes", Outcome(4, "", "asyncresult: 1 of 2 deleted\n")),
        ("forget ok bad --yes", Outcome(0, "", "asyncresult: 2 of 2 deleted\n")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_command(words: str, expected: Outcome, url: str) -> None:
    outcome = in_process(*words.split(), "--url", url)
    assert outcome._replace(out="".join(sorted(outcome.out.splitlines(True)))) == expected._replace(
        out="".join(sorted(expected.out.splitlines(True)))
    )


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("get busy --timeout 0.2", 124, "0.2"),
        ("wait busy ok --timeout 0.2", 124, "1 of 2 had not ended after 0.2 seconds"),
        ("wait none --count 1 --timeout 0.2", 124, "1 of 1"),
        ("get junk", 6, "junk"),
        ("wait junk ok", 6, "junk"),
        ("info junk", 6, "junk"),
        ("get ok --field nonsense", 2, "it has status, task_id, result"),
        ("get a\x07b", 2, "control characters"),
        ("get ok --json --raw", 2, "not allowed with"),
        ("wait ok --count 0", 2, "--count"),
        ("get ok --timeout -1", 2, "--timeout"),
        ("nonsense", 2, "asyncresult --help"),
        ("revoke ok", 5, "nobody who runs tasks"),
        ("forget ok", 2, "give --yes"),
        ("wait -", 2, "no ids"),
    ],
)
def test_what_is_wrong_is_one_line(words: str, status: int, message: str, url: str) -> None:
    given = words.split(" ")
    outcome = in_process(*given, *([] if words == "nonsense" else ["--url", url]))
    assert outcome.status == status
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("asyncresult")


def test_raw_gives_the_stored_bytes_and_json_the_record(url: str) -> None:
    assert json.loads(asyncresult("get", "ok", "--raw", "--url", url).out)["children"] == []
    record = json.loads(in_process("get", "bad", "--json", "--url", url).out)
    assert (record["status"], record["result"]["exc_type"]) == ("FAILURE", "ValueError")
    done = subprocess.run(
        command("get", "junk", "--raw", "--url", url), capture_output=True, env=environment(), check=False
    )
    assert (done.returncode, done.stdout) == (6, b"\x80\x04nonsense")


def test_info_names_key_size_and_lifetime(url: str) -> None:
    known = json.loads(in_process("info", "ok", "--json", "--url", url).out)
    assert known["key"] == known["channel"] == "celery-task-meta-ok"
    assert 3590 < known["ttl"] <= 3600
    assert known["size"] > 50
    assert in_process("info", "ok", "--url", url).out.splitlines()[0].split() == ["status", "SUCCESS"]


def test_info_of_a_task_that_was_sent_and_has_no_record_yet(url: str) -> None:
    async def register() -> None:
        async with connect(url, register=True) as backend:
            await backend.register("waits", name="add")

    asyncio.run(register())
    known = json.loads(in_process("info", "waits", "--json", "--url", url).out)
    assert (known["status"], known["name"], known["size"]) == ("PENDING", "add", 0)
    assert datetime.fromisoformat(known["sent"]).tzinfo is not None
    assert in_process("info", "nobody", "--url", url).status == 4


def test_ten_thousand_ids_from_stdin_over_one_client(redis_server: RedisServer, url: str) -> None:
    ids = [f"id-{number}" for number in range(10_000)]
    record = json.dumps({"status": "SUCCESS", "result": 1, "traceback": None, "children": []})
    with redis_server.control() as control:
        for start in range(0, len(ids), 1000):
            control("MSET", *(word for id in ids[start : start + 1000] for word in (f"celery-task-meta-{id}", record)))
    before = int(redis_server.info()["total_connections_received"])
    outcome = asyncresult("wait", "-", "--url", url, stdin="\n".join(ids))
    assert outcome.status == 0
    assert sorted(outcome.out.splitlines()) == sorted(f"{id} SUCCESS" for id in ids)
    # One for commands, one for notifications; and this test's own.
    assert int(redis_server.info()["total_connections_received"]) - before <= 3


def test_control_characters_of_a_record_do_not_reach_the_terminal(url: str, store: Store) -> None:
    store("evil", "\x1b[2J", "\x1b]0;title\x07\u202e", name="\x9b31m", traceback="\x1b[31m")
    store("evil-failed", "FAILURE", {"exc_type": "E\x1b[1m", "exc_message": ["\x1b[2J"]}, traceback="\x1b[31m")
    for words in (
        ["info", "evil"],
        ["info", "evil", "--json"],
        ["ls"],
        ["tree", "evil"],
        ["wait", "evil", "--for", "\x1b[2J"],
        ["get", "evil-failed", "--traceback"],
        ["doctor", "evil"],
    ):
        outcome = in_process(*words, "--url", url)
        text = (outcome.out + outcome.err).replace("\n", "")
        assert "evil" in text
        assert text.isprintable(), words


def test_a_value_does_not_control_the_terminal(url: str, store: Store) -> None:
    text = "a\tb\nc\x1b]0;title\x07\x9b2J\u202e\r\N{BUTTERFLY}"
    store("evil", result=text, name=text)
    for words in (["get", "evil"], ["get", "evil", "--field", "name"]):
        assert in_process(*words, "--url", url).out == text + "\n", "as it is, for programs"
        status, seen = on_terminal(*words, "--url", url)
        assert status == 0
        assert seen == "a\tb\r\nc\\x1b]0;title\\x07\\x9b2J\\u202e\\r\N{BUTTERFLY}\r\n"


def test_ctrl_c_is_130_and_says_nothing(redis_server: RedisServer, url: str) -> None:
    process = subprocess.Popen(
        command("get", "none", "--url", url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    wait_until(lambda: "celery-task-meta-none" in redis_server.channels(), "it waits")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_reader_that_goes_away_is_no_error(url: str) -> None:
    process = subprocess.Popen(
        command("watch", "ok", "bad", "busy", "--url", url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) == 0


@pytest.mark.parametrize(("answer", "status", "left"), [(b"y\n", 0, 0), (b"n\n", 130, 1)])
def test_forget_wants_a_confirmation_on_a_terminal(
    answer: bytes, status: int, left: int, redis_server: RedisServer, url: str
) -> None:
    ended, seen = on_terminal("forget", "ok", "--url", url, typed=answer)
    assert "Delete the records of ok? [y/N]" in seen
    assert (ended, redis_server.cli("EXISTS", "celery-task-meta-ok")) == (status, left)
