"""The leak detector finds one leak of each kind, and nothing where there is none."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading

import pytest
import redis

from . import leaks
from .leaks import LeakCheck
from .servers import RedisServer

pytestmark = pytest.mark.usefixtures("short_grace")


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "GRACE", 0.05)


async def test_task() -> None:
    check = LeakCheck({"tasks"})
    task = asyncio.create_task(asyncio.sleep(10), name="forgotten")
    (leak,) = await check.wait_in_loop()
    assert "forgotten" in leak
    task.cancel()
    assert await check.wait_in_loop(10) == []


def test_thread() -> None:
    check = LeakCheck({"threads"})
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="forgotten")
    thread.start()
    assert check.wait() == ["thread forgotten"]
    done.set()
    thread.join()
    assert check.wait(10) == []


def test_socket() -> None:
    check = LeakCheck({"sockets"})
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()) as client:
            found = check.wait()
            assert len(found) == 2
            assert any(f"{client.getsockname()} to {listener.getsockname()}" in leak for leak in found)
    assert check.wait(10) == []


def test_subscription(redis_server: RedisServer) -> None:
    check = LeakCheck({"subscriptions"})
    with redis.Redis.from_url(redis_server.url()) as client, client.pubsub() as subscriber:
        subscriber.subscribe("forgotten")
        (leak,) = check.wait()
        assert "'forgotten'" in leak
        subscriber.unsubscribe()
        assert check.wait(10) == []
        client.connection_pool.disconnect()


def test_logging() -> None:
    check = LeakCheck({"logging"})
    before = logging.root.level
    logging.root.setLevel(logging.CRITICAL)
    (leak,) = check.wait()
    assert "level of logging" in leak
    logging.root.setLevel(before)
    assert check.wait(10) == []


async def test_loop_error(loop_errors: leaks.LoopErrors) -> None:
    check = LeakCheck({"loop_errors"}, loop_errors=loop_errors)
    asyncio.get_running_loop().create_future().set_exception(ValueError("nobody looked at me"))
    (leak,) = await check.wait_in_loop()
    assert "never retrieved" in leak
    assert "nobody looked at me" in leak
    loop_errors.clear()
    assert await check.wait_in_loop(10) == []


async def test_what_ends_within_the_grace_is_no_leak() -> None:
    check = LeakCheck({"tasks"})
    task = asyncio.create_task(asyncio.sleep(0.02))
    assert check.found()
    assert await check.wait_in_loop(10) == []
    assert task.done()


_TESTS = """
    import asyncio, socket, threading, time
    import pytest
    import redis
    import asyncresult
    from tests.tools.servers import running_servers

    kept = []

    @pytest.fixture
    async def tidy():
        task = asyncio.create_task(asyncio.sleep(10))
        yield
        task.cancel()

    async def test_clean(tidy): await asyncio.sleep(0)
    def test_clean_too(): pass

    async def test_task(): kept.append(asyncio.create_task(asyncio.sleep(10)))
    async def test_loop_error(): asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    async def test_socket_in_loop(): kept.append(socket.socket())
    def test_socket(): kept.append(socket.socket())
    async def test_thread_in_loop(): threading.Timer(3, print).start()
    def test_thread(): threading.Timer(3, print).start()
    def test_backend(): asyncresult.connect("memory://")._enter()
    def test_the_next_gets_none_of_that():
        with pytest.raises(RuntimeError): asyncresult.current_backend()
    def test_subscription():
        subscriber = redis.Redis.from_url(running_servers()[0].url()).pubsub()
        subscriber.subscribe("forgotten")
        kept.append(subscriber)

    @pytest.mark.allow_leaks
    async def test_allowed():
        kept.append(asyncio.create_task(asyncio.sleep(10)))
        threading.Timer(3, print).start()

    @pytest.mark.allow_leaks("tasks")
    async def test_allowed_a_little():
        kept.append(asyncio.create_task(asyncio.sleep(10)))
        kept.append(socket.socket())
"""


@pytest.mark.allow_leaks
def test_a_leak_fails_the_test(pytester: pytest.Pytester, redis_server: RedisServer) -> None:
    pytester.makeini(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nmarkers = allow_leaks"
    )
    pytester.makeconftest('pytest_plugins = ["tests.tools.leaks"]')
    pytester.makepyfile(_TESTS)
    result = pytester.runpytest_inprocess("-W", "ignore::ResourceWarning")
    failed = {line.split("::")[1].split(" ")[0] for line in result.outlines if line.startswith("ERROR ")}
    assert failed == {
        "test_task",
        "test_loop_error",
        "test_socket_in_loop",
        "test_socket",
        "test_thread_in_loop",
        "test_thread",
        "test_backend",
        "test_subscription",
        "test_allowed_a_little",
    }
    result.assert_outcomes(passed=13, errors=len(failed))
