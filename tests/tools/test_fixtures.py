"""The fixtures of tests/conftest.py."""

from __future__ import annotations

import pytest

from .proxy import FaultProxy
from .servers import RedisServer


@pytest.mark.parametrize("damage", ["data", "config", "acl", "kill", "stop", "pause", "none"])
def test_each_test_gets_a_sound_server(redis_server: RedisServer, damage: str) -> None:
    """Each look is at what the damage of the one before left."""
    assert redis_server.cli("DBSIZE") == 0
    assert redis_server.cli("CONFIG", "GET", "maxclients")[1] != b"7"
    assert len(redis_server.cli("ACL", "USERS")) == 2
    assert "set" not in redis_server.commandstats()
    match damage:
        case "data":
            redis_server.cli("SET", "key", "value")
        case "config":
            redis_server.cli("CONFIG", "SET", "maxclients", 7)
        case "acl":
            redis_server.cli("ACL", "SETUSER", "somebody", "on", "nopass")
        case "kill":
            redis_server.kill()
        case "stop":
            redis_server.stop()
        case "pause":
            redis_server.pause()
        case _:
            pass


def test_sync_tests_have_the_server(redis_url: str, redis_server: RedisServer) -> None:
    assert redis_url == f"redis://127.0.0.1:{redis_server.port}/0"


async def test_async_tests_have_the_proxy(proxy: FaultProxy, redis_server: RedisServer) -> None:
    assert proxy.url() == redis_server.url(port=proxy.port)
