"""Deadlines and closing hold in any state of the server (P5, P10), misuse is loud (P11), refusals are told (P12)."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import socket
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from asyncresult import AsyncResult, Backend, BackendClosed, BackendPermissionError, ResultTimeout, connect
from tests.backends.waiting import until, waits_for
from tests.tools.proxy import FaultProxy
from tests.tools.servers import RedisServer, free_port

from .load import outcome, start_waits

# On an idle machine it is 0.02, see docs/explanation/reliability.md. A busy one stands still for a second or two, and
# a deadline that is not kept is missed by more: redis-py gives up after 5 s, connecting takes minutes, a wait for ever.
SLACK = 3.0


@pytest.fixture(params=["up", "stopped", "black hole", "refused", "no DNS"])
async def unhelpful(
    request: pytest.FixtureRequest, redis_server: RedisServer, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Backend]:
    """A backend whose server is in some bad way; one that works among them."""
    url = redis_server.url()
    if request.param == "stopped":
        redis_server.pause()
    elif request.param == "black hole":
        proxy.black_hole()
        url = proxy.url()
    elif request.param == "refused":
        url = f"redis://127.0.0.1:{free_port()}/0"
    elif request.param == "no DNS":
        url = "redis://a-host-that-never-resolves.invalid:6379/0"

        async def never(*args: object, **kwargs: object) -> Any:
            await asyncio.get_running_loop().create_future()

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    async with connect(url) as backend:
        yield backend
        start = time.monotonic()
    assert time.monotonic() - start < 2.0 + SLACK, "aclose() keeps its own timeout too"


@pytest.mark.parametrize("timeout", [0.005, 0.3, 1.0])
async def test_p5_a_timeout_holds_whatever_the_server_does(unhelpful: Backend, timeout: float) -> None:
    for wait in (unhelpful.result("x").get, unhelpful.results(["x", "y"]).get):
        start = time.monotonic()
        with pytest.raises(ResultTimeout):
            await wait(timeout)
        assert timeout <= time.monotonic() - start < timeout + SLACK


async def test_p5_a_look_never_hangs(unhelpful: Backend) -> None:
    start = time.monotonic()
    with pytest.raises(ResultTimeout):
        await unhelpful.result("x").get(timeout=0)
    assert time.monotonic() - start < 1.0 + SLACK


async def test_p10_closing_releases_500_waiters_at_once(unhelpful: Backend) -> None:
    waits = start_waits(unhelpful, [f"t{n}" for n in range(500)])
    await asyncio.sleep(0.02)
    start = time.monotonic()
    closing = asyncio.ensure_future(unhelpful.aclose(timeout=0.3))
    await asyncio.wait(waits)
    assert time.monotonic() - start < SLACK
    await closing
    assert time.monotonic() - start < 0.3 + SLACK
    for wait in waits:
        with pytest.raises(BackendClosed):
            await wait


async def test_p10_what_is_read_or_written_ends_with_an_error_of_its_own(redis_server: RedisServer) -> None:
    """One that several are given mixes their tracebacks and notes, and keeps alive what their frames hold."""

    class Data:
        """What a request has in its local variables."""

    async def follow(data: Data) -> None:
        with pytest.raises(BackendClosed):
            async for _ in AsyncResult("u", backend=backend).updates():
                raise AssertionError("nobody answers")

    async with connect(redis_server.url()) as backend:
        await backend.get_meta("t")
        redis_server.pause()
        handles = [backend.result(f"t{number}") for number in range(2)]
        calls = [handle.state() for handle in handles] + [handle.exists() for handle in handles]
        calls += [backend.store_result("t", 1, "SUCCESS") for _ in range(2)]
        ending = [asyncio.ensure_future(call) for call in calls]
        data = Data()
        alive, following = weakref.ref(data), asyncio.ensure_future(follow(data))
        del data
        await asyncio.sleep(0.01)
        gc.collect()
        gc.disable()
        try:
            await backend.aclose(timeout=0.01)
            await following
            del following
            await asyncio.sleep(0.01)
            assert alive() is None
        finally:
            gc.enable()
        errors = await asyncio.gather(*ending, return_exceptions=True)
        assert {type(error) for error in errors} == {BackendClosed}
        assert len({id(error) for error in errors}) == len(errors)


async def test_p10_what_is_being_written_is_written(redis_server: RedisServer, redis_url: str) -> None:
    backend = connect(redis_url)
    stores = [asyncio.ensure_future(backend.mark_as_done(f"t{n}", n)) for n in range(3000)]
    await asyncio.sleep(0)
    await backend.aclose()
    assert await asyncio.gather(*stores) == [True] * 3000
    assert redis_server.cli("DBSIZE") == 3000


# -- P11 ------------------------------------------------------------------------------------------------------------


def test_p11_a_handle_without_a_loop(redis_url: str) -> None:
    backend = connect(redis_url)
    backend.stats()
    waits: list[Callable[[], Any]] = [
        backend.result("x").then,
        backend.result("x").as_future,
        backend.results(["x"]).as_completed,
    ]
    for use in waits:
        with pytest.raises(RuntimeError, match="running event loop"):
            use()


def test_p11_after_a_closed_loop(redis_url: str) -> None:
    """What a loop left behind does not stand in the way of the next one."""
    backend = connect(redis_url)
    handle: AsyncResult[Any] = backend.result("x")

    async def abandon() -> None:
        task = asyncio.ensure_future(handle.get())
        await waits_for(backend, 1)
        assert not task.done()

    async def again() -> Any:
        await backend.mark_as_done("x", 1)
        value = await handle.get(timeout=10)
        await backend.aclose()
        return value

    asyncio.run(abandon())
    assert asyncio.run(again()) == 1


def _in_child(use: Callable[[], Coroutine[Any, Any, Any]], out: Any) -> None:
    out.send(asyncio.run(use()))


async def test_p11_a_child_forked_in_the_middle_of_a_wait(redis_url: str) -> None:
    async with connect(redis_url) as backend:
        handle: AsyncResult[Any] = backend.result("x")
        waiting = asyncio.ensure_future(handle.get(timeout=20))
        await waits_for(backend, 1)
        receiver, sender = multiprocessing.Pipe(duplex=False)

        async def use() -> Any:
            return await backend.result("x").get(timeout=20)

        child = multiprocessing.get_context("fork").Process(target=_in_child, args=(use, sender))
        child.start()
        await backend.mark_as_done("x", "both")
        assert await waiting == await asyncio.to_thread(receiver.recv) == "both"
        await asyncio.to_thread(child.join)


async def test_p11_a_closed_backend(redis_url: str) -> None:
    backend = connect(redis_url)
    await backend.mark_as_done("x", 1)
    await backend.aclose()
    for use in (
        backend.result("x").get(),
        backend.result("x").get(timeout=0),
        backend.result("x").state(),
        backend.mark_as_done("x", 1),
        backend.forget("x"),
        anext(backend.result("x").updates()),
    ):
        with pytest.raises(BackendClosed):
            await use


# -- P12 ------------------------------------------------------------------------------------------------------------


async def test_p12_a_password_changed_under_the_wait(redis_server: RedisServer, redis_url: str) -> None:
    async with connect(redis_url, retry=0.3) as backend:
        waits = start_waits(backend, ["a", "b"])
        await waits_for(backend, 2)
        with redis_server.control() as control:
            control("CONFIG", "SET", "requirepass", "new-password")
            control("CLIENT", "KILL", "TYPE", "pubsub")
            control("CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: "NOAUTH" in str(backend.stats().last_error))
        assert not backend.stats().connected
        with pytest.raises(BackendPermissionError, match="password"):
            await backend.mark_as_started("c")
        assert not any(wait.done() for wait in waits), "it may be put right"
        redis_server.cli("CONFIG", "SET", "requirepass", "")
        await backend.mark_as_done("a", 0)
        await backend.mark_as_done("b", 1)
        await outcome(waits, 10)
        assert backend.stats().last_error is None


async def test_p12_a_right_taken_away(redis_server: RedisServer) -> None:
    redis_server.cli("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all")
    try:
        async with connect(f"redis://app:pw@127.0.0.1:{redis_server.port}/0") as backend:
            waits = start_waits(backend, ["a"])
            await waits_for(backend, 1)
            redis_server.cli("ACL", "SETUSER", "app", "resetchannels")
            with pytest.raises(BackendPermissionError, match="&celery-task-meta-"):
                await asyncio.wait_for(waits[0], 10)
            with pytest.raises(BackendPermissionError, match="&celery-task-meta-"):
                await backend.result("b").get(timeout=10)
    finally:
        redis_server.cli("ACL", "DELUSER", "app")


async def test_somebody_else_answers() -> None:
    """A server that does not speak Redis: the wait goes on, with a limit it ends in time, and says what is wrong."""
    listener = socket.create_server(("127.0.0.1", 0))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, sock=listener):
        async with connect(f"redis://127.0.0.1:{listener.getsockname()[1]}/0") as backend:
            (other,) = start_waits(backend, ["other"])
            await until(lambda: "protocol error" in str(backend.stats().last_error))
            with pytest.raises(ResultTimeout, match="not reachable: protocol error"):
                await backend.result("x").get(timeout=0.5)
            other.cancel()
            await until(lambda: backend.stats().pending == 0)
