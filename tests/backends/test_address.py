"""Reaching a server: names with several addresses, names that take long to look up, sockets in a child of fork."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import sys
from typing import Any

import pytest

import asyncresult
from asyncresult import Backend, ResultTimeout
from asyncresult._redis import address as _address
from asyncresult._redis.address import Address, dial_address
from tests.tools.servers import RedisServer

from .waiting import waits_for


def info(host: str, port: int) -> tuple[Any, ...]:
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)


@pytest.mark.parametrize("first", ["swallows packets", "refuses"])
async def test_the_second_address_of_a_name(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    connect = _address._connect
    tried: list[str] = []

    async def connecting(loop: asyncio.AbstractEventLoop, found: tuple[Any, ...]) -> socket.socket:
        host = found[-1][0]
        tried.append(host)
        if host == "192.0.2.1":
            if first == "refuses":
                raise ConnectionRefusedError
            await loop.create_future()
        return await connect(loop, found)

    loop = asyncio.get_running_loop()
    look_up = loop.getaddrinfo

    async def getaddrinfo(host: Any, port: Any, **kwargs: Any) -> Any:
        if host != "cache.test":  # uvloop looks up what is an address already
            return await look_up(host, port, **kwargs)
        return [info("192.0.2.1", port), info("127.0.0.1", port)]

    monkeypatch.setattr(_address, "_connect", connecting)
    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    url = f"redis://cache.test:{redis_server.port}"
    async with asyncresult.connect(url, socket_connect_timeout=20) as backend, asyncio.timeout(20):
        waiting = asyncio.ensure_future(backend.result("x").get())
        await waits_for(backend, 1)
        await backend.mark_as_done("x", 1)
        assert await waiting == 1
    assert sorted(tried) == ["127.0.0.1"] * 2 + ["192.0.2.1"] * 2


async def test_the_applications_threads_are_busy(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop never comes to look the name up."""

    loop = asyncio.get_running_loop()
    look_up = loop.getaddrinfo

    async def never(host: Any, port: Any, **kwargs: Any) -> Any:
        if host == "localhost":
            await loop.create_future()
        return await look_up(host, port, **kwargs)

    monkeypatch.setattr(loop, "getaddrinfo", never)
    async with asyncio.timeout(20):
        transport = await dial_address(Address("localhost", redis_server.port), None, asyncio.Protocol)
    transport.abort()


async def test_none_of_the_addresses_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await dial_address(Address("127.0.0.1", unused.getsockname()[1]), None, asyncio.Protocol)


def descriptors(port: int) -> list[int]:
    """The sockets of this process that are connected to ``port``."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as copy:
                if copy.getpeername()[1] == port:
                    found.append(int(name))
        except (OSError, IndexError):
            pass
    return found


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="looks at /proc")
async def test_a_child_of_fork_has_no_copy_of_a_socket(redis_server: RedisServer, redis_url: str) -> None:
    """It goes on with the inherited loop, in the middle of a wait; its parent never notices."""
    async with asyncresult.connect(redis_url) as backend:
        waiting = asyncio.ensure_future(backend.result("x").get(timeout=20))
        await waits_for(backend, 1)
        await backend.result("y").state()
        assert len(descriptors(redis_server.port)) == 2
        before = {client["id"] for client in redis_server.clients()}
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                left = len(descriptors(redis_server.port))
                later = loop.create_future()
                loop.call_later(0.2, later.set_result, None)
                await later  # whatever the loop's copy would do meanwhile
                os.write(writing, json.dumps(left).encode())
            finally:
                os._exit(0)
        os.close(writing)
        said = await asyncio.to_thread(os.read, reading, 100)
        os.close(reading)
        await asyncio.to_thread(os.waitpid, child, 0)
        assert json.loads(said) == 0
        await backend.mark_as_done("x", "the parent's")
        assert await waiting == "the parent's"
        assert backend.stats().reconnects == 0
        assert before <= {client["id"] for client in redis_server.clients()}


async def test_connected_means_that_the_server_has_answered() -> None:
    """Not that it was dialled."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"redis://127.0.0.1:{mute.getsockname()[1]}"
        async with asyncresult.connect(url, socket_connect_timeout=0.3) as backend:
            waiting = asyncio.ensure_future(backend.result("x").get())
            while backend.stats().last_error is None:
                assert not backend.stats().connected
                await asyncio.sleep(0.01)
            assert not backend.stats().connected
            waiting.cancel()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # that nobody has closed the backend on that loop
def test_connections_of_a_closed_loop_go_with_the_next(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever they wait for at that moment, they end with it, quietly, and no socket is left (which is looked at)."""
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: raised.append(unraisable.exc_value))

    async def begin(backend: Backend, turns: int) -> None:
        waiting = asyncio.ensure_future(backend.result("t").get())
        waiting._log_destroy_pending = False  # type: ignore[attr-defined]
        for _ in range(turns):
            await asyncio.sleep(0)
        if turns == 29:
            await waits_for(backend, 1)

    async def again(backend: Backend) -> None:
        await backend.get_meta("t")
        await backend.aclose()

    for turns in range(4, 30):  # before that not all of its tasks have begun, of which asyncio warns
        backend = asyncresult.connect(redis_server.url())
        loop = asyncio.new_event_loop()
        loop.run_until_complete(begin(backend, turns))
        loop.close()
        del loop
        gc.collect()
        asyncio.run(again(backend))
        gc.collect()
    assert raised == []
    assert caplog.messages == []


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="looks at /proc")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_connections_of_a_closed_loop_do_not_wait_for_the_collector(redis_server: RedisServer) -> None:
    backend = asyncresult.connect(redis_server.url())

    async def use() -> None:
        with pytest.raises(ResultTimeout):
            await backend.result("t").get(timeout=0.02)

    gc.disable()
    try:
        for _ in range(5):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(use())
            loop.close()
        assert len(descriptors(redis_server.port)) == 2  # those of the last loop
    finally:
        gc.enable()

    async def end() -> None:
        await use()
        await backend.aclose()

    asyncio.run(end())
    gc.collect()


async def test_a_name_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        return []

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    with pytest.raises(OSError, match=r"the name nowhere\.test has no address"):
        await dial_address(Address("nowhere.test", 6379), None, asyncio.Protocol)


async def test_two_addresses_answer_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket that is not taken is closed."""
    made: list[socket.socket] = []
    both = asyncio.Event()

    async def connecting(loop: asyncio.AbstractEventLoop, found: tuple[Any, ...]) -> socket.socket:
        made.append(socket.socket())
        if len(made) == 2:
            both.set()
        await both.wait()
        return made[-1] if found[-1][1] == 2 else made[0]

    monkeypatch.setattr(_address, "_connect", connecting)
    monkeypatch.setattr(_address, "ATTEMPT_DELAY", 0.001)
    taken = await _address._connected_socket(asyncio.get_running_loop(), [info("192.0.2.1", 1), info("192.0.2.2", 2)])
    (left,) = [sock for sock in made if sock is not taken]
    assert left.fileno() == -1
    taken.close()


async def test_an_answer_of_the_thread_that_comes_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    called = loop.create_future()
    settle: list[Any] = []

    def call_soon_threadsafe(fn: Any, *args: Any) -> None:
        settle.append((fn, args))
        call_soon(called.set_result, None)

    call_soon = loop.call_soon_threadsafe
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [info("192.0.2.1", 1)])
    with monkeypatch.context() as context:
        context.setattr(loop, "call_soon_threadsafe", call_soon_threadsafe)
        looking = _address._look_up_on_a_thread(loop, "late.test", 1)
        await called
    looking.cancel()
    ((fn, args),) = settle
    fn(*args)  # no InvalidStateError
    assert looking.cancelled()
