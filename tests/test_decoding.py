"""The thread for large records: one at a time, apart from the application's, and none that outlives its work."""

from __future__ import annotations

import asyncio
import threading
import time

from asyncresult import connect
from asyncresult._storage.decoding import DecodingThread
from asyncresult._storage.store import engine_of
from asyncresult.codec import LARGE_PAYLOAD_BYTES, Codec
from asyncresult.errors import ResultDecodeError
from asyncresult.meta import TaskMeta


async def outcomes_of(*decoders: object) -> list[object]:
    loop = asyncio.get_running_loop()
    thread, futures = DecodingThread(loop), [loop.create_future() for _ in decoders]
    for decode, future in zip(decoders, futures, strict=True):
        thread.submit(decode, future.set_result)  # type: ignore[arg-type]
    return await asyncio.wait_for(asyncio.gather(*futures), 10)


async def test_one_at_a_time_and_in_order() -> None:
    active: list[int] = []
    most = 0

    def decode() -> str:
        nonlocal most
        active.append(1)
        most = max(most, len(active))
        time.sleep(0.005)
        active.pop()
        return threading.current_thread().name

    assert await outcomes_of(*[decode] * 8) == ["asyncresult-decoding"] * 8
    assert most == 1


async def test_an_error_ends_its_own_record_only() -> None:
    def unreadable() -> None:
        raise ResultDecodeError("no")

    def bug() -> None:
        raise MemoryError

    first, second, third = await outcomes_of(unreadable, bug, lambda: 3)
    assert isinstance(first, ResultDecodeError)
    assert first.__traceback__ is None, "it would keep the frames that hold the record"
    assert isinstance(second, ResultDecodeError)
    assert third == 3


async def test_the_thread_ends_with_its_work() -> None:
    await outcomes_of(lambda: 1)
    for thread in threading.enumerate():
        if thread.name == "asyncresult-decoding":
            thread.join(5)
            assert not thread.is_alive()


def test_a_loop_that_ended_meanwhile_is_left_alone() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def decode() -> None:
        begun.set()
        go_on.wait(5)

    async def main() -> None:
        thread = DecodingThread(asyncio.get_running_loop())
        thread.submit(decode, lambda _: None)
        thread.submit(decode, lambda _: None)
        assert await asyncio.to_thread(begun.wait, 5)

    asyncio.run(main())
    go_on.set()
    for thread in threading.enumerate():
        if thread.name == "asyncresult-decoding":
            thread.join(5)
            assert not thread.is_alive()


async def test_the_applications_threads_do_not_matter() -> None:
    """Its default executor is full of its own blocking calls."""
    loop, free = asyncio.get_running_loop(), threading.Event()
    full = [loop.run_in_executor(None, free.wait, 20) for _ in range(64)]
    try:
        async with connect("memory://") as backend:
            value = "x" * (2 * LARGE_PAYLOAD_BYTES)
            await backend.store_result("t", value, "SUCCESS")
            assert await backend.result("t").get(timeout=10) == value
            assert (await backend.get_meta("t")).result == value
    finally:
        free.set()
        await asyncio.gather(*full)


async def test_a_record_of_any_size_has_one_way() -> None:
    async with connect("memory://") as backend:
        engine, codec = engine_of(backend), Codec()
        for value in (None, "small", "x" * LARGE_PAYLOAD_BYTES):
            got: asyncio.Future[TaskMeta | ResultDecodeError] = asyncio.get_running_loop().create_future()
            meta = TaskMeta(task_id="t", status="SUCCESS" if value else "PENDING", result=value)
            engine.decoder.then("t", codec.encode(meta) if value else None, got.set_result)
            assert got.done() is (value != "x" * LARGE_PAYLOAD_BYTES)
            assert await got == meta
        refused = asyncio.get_running_loop().create_future()
        engine.decoder.then("t", b"{", refused.set_result)
        assert isinstance(refused.result(), ResultDecodeError)
