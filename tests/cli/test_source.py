"""Where the results are: options, environment, and what is said when they are not there."""

from __future__ import annotations

import json

import pytest

from tests.tools.celery_app import CONFIG_VARIABLE
from tests.tools.command_line import asyncresult, in_process
from tests.tools.servers import RedisServer, free_port


def test_the_environment_names_the_server(url: str) -> None:
    dead = f"redis://127.0.0.1:{free_port()}"
    assert in_process("get", "text", env={"ASYNCRESULT_URL": url, "CELERY_RESULT_BACKEND": dead}).status == 0
    assert in_process("get", "text", env={"CELERY_RESULT_BACKEND": url}).status == 0
    assert in_process("get", "text", "--url", url, env={"ASYNCRESULT_URL": dead}).status == 0


def test_there_is_no_silent_default() -> None:
    outcome = in_process("get", "ok")
    assert outcome.status == 2
    assert "--url" in outcome.err
    assert "$ASYNCRESULT_URL" in outcome.err


@pytest.mark.parametrize("command", ["get", "wait", "watch", "info", "tree", "doctor"])
def test_an_unreachable_server_is_status_5(command: str) -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}"
    outcome = in_process(command, "ok", "--url", url, "--connect-timeout", "0.5")
    assert outcome.status == 5
    assert "cannot be reached: " in outcome.err
    assert "Connect call failed" in outcome.err
    assert outcome.err.endswith("(tried for 0.5 seconds)\n")
    assert "secret" not in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_server_without_tls_is_named_as_such(redis_server: RedisServer) -> None:
    url = redis_server.url().replace("redis://", "rediss://")
    outcome = in_process("get", "ok", "--url", url, "--connect-timeout", "0.5")
    assert outcome.status == 5
    assert outcome.err.endswith("no answer within 0.5 seconds, which may mean that the server does not speak TLS\n")


def test_a_silent_server_is_status_5(redis_server: RedisServer) -> None:
    url = redis_server.url()
    redis_server.pause()
    assert in_process("ls", "--url", url, "--connect-timeout", "0.5").status == 5


@pytest.mark.parametrize("url", ["localhost:6379", "nonsense://x:secret@y", "redis://h/x?nonsense=1", "rpc://"])
def test_a_wrong_url_is_status_2(url: str) -> None:
    outcome = in_process("ls", "--url", url)
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert "secret" not in outcome.err


def test_refused_credentials_are_status_5() -> None:
    with RedisServer(password="the-password") as server:
        url = server.url(password="wrong-secret")
        outcome = in_process("get", "ok", "--url", url)
        assert outcome.status == 5
        assert "password" in outcome.err
        assert "wrong-secret" not in outcome.err
        assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("app", ["no_such_module", "os", "json:nonsense", "no_such_module:app"])
def test_an_app_that_is_none_is_status_2(app: str) -> None:
    outcome = asyncresult("ls", "-A", app)
    assert outcome.status == 2
    assert outcome.err.startswith("asyncresult: cannot load the Celery app")
    assert outcome.err.count("\n") == 1


def test_the_settings_of_an_app_say_where_its_results_are(url: str) -> None:
    config = json.dumps({"broker_url": "memory://", "result_backend": url})
    outcome = asyncresult("get", "text", "-A", "tests.tools.celery_app:app", env={CONFIG_VARIABLE: config})
    assert outcome == (0, "two\nlines\n", "")
