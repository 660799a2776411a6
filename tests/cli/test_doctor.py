"""doctor: what is found on servers that are configured so."""

from __future__ import annotations

import json

from tests.tools.command_line import asyncresult
from tests.tools.servers import RedisServer


def findings(*words: str) -> dict[str, tuple[str, str, str]]:
    """Severity, message and fix of each check."""
    shown = json.loads(asyncresult("doctor", *words, "--json").out)["findings"]
    return {found["check"]: (found["severity"], found["message"], found["fix"]) for found in shown}


def test_a_server_whose_settings_lose_results() -> None:
    options = {
        "maxmemory": "100mb",
        "maxmemory-policy": "allkeys-lru",
        "client-output-buffer-limit": ["pubsub 1mb 1mb 60", "normal 1mb 0 0"],
    }
    with RedisServer(options=options) as server:
        server.cli("SET", "celery-task-meta-for-ever", '{"status": "SUCCESS", "result": 1}')
        found = findings("--url", server.url())
    assert found["eviction"][0] == "warning"
    assert "noeviction" in found["eviction"][2]
    assert found["output buffers"][0] == "warning"
    assert found["expiry"][0] == "warning"
    assert found["notifications"][0] == "ok"


def test_records_that_cannot_be_read_are_an_error(url: str) -> None:
    severity, message, fix = findings("--url", url)["records"]
    assert severity == "error"
    assert "e.g. junk" in message
    assert "result_serializer json" in fix
    assert asyncresult("doctor", "--url", url).status == 1


def test_a_result_under_another_prefix(redis_server: RedisServer) -> None:
    redis_server.cli("SET", "myapp_celery-task-meta-lost", "{}")
    severity, message, fix = findings("lost", "--url", redis_server.url())["reason"]
    assert severity == "error"
    assert "myapp_celery-task-meta-lost" in message
    assert "key_prefix" in fix


def test_reasons_for_one_task(url: str) -> None:
    assert findings("ok", "--url", url)["reason"][0] == "ok"
    assert findings("busy", "--url", url)["reason"][:2] == ("note", "the task has not ended yet: it is PROGRESS")
    assert findings("junk", "--url", url)["reason"][0] == "error"
    assert findings("nowhere", "--url", url)["reason"][0] == "warning"
