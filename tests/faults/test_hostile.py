"""Hostile data and sizes (P7, P8, P9): a record hurts nobody but who waits for it, and that with a typed error."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from asyncresult import (
    AsyncResult,
    AsyncResultError,
    Backend,
    GroupResult,
    ResultDecodeError,
    ResultTooLarge,
    ResultTypeError,
    TaskFailed,
    TaskMeta,
    TaskRevoked,
    connect,
)
from asyncresult._storage.store import engine_of
from asyncresult.codec import LARGE_PAYLOAD_BYTES, Codec, codec, compression, pieces, register_type
from tests.backends.waiting import waits_for
from tests.tools.servers import RedisServer

from .load import nothing_left, record, start_waits, stored_elsewhere

HARM: list[str] = []


class Harmful(Exception):
    """A class that is imported, may be named, and must not be run."""

    def __new__(cls, *args: object) -> Harmful:
        HARM.append("__new__")
        return super().__new__(cls, *args)

    def __init__(self, *args: object) -> None:
        HARM.append("__init__")
        super().__init__(*args)


def failure(exc_type: Any, exc_module: Any = "builtins", exc_message: Any = ("x",), status: str = "FAILURE") -> bytes:
    result = {"exc_type": exc_type, "exc_message": exc_message, "exc_module": exc_module}
    return json.dumps({"status": status, "result": result, "task_id": "victim"}).encode()


def success(**fields: Any) -> bytes:
    return json.dumps({"status": "SUCCESS", "result": 1, "task_id": "victim", **fields}).encode()


COMPRESSED = b"\0celery-compressed\0application/x-gzip\0"

# Each kind of payload with the error that its waiter gets, and nobody else.
KINDS: dict[str, tuple[bytes, type[Exception]]] = {
    "not JSON": (b"hello", ResultDecodeError),
    "cut short": (success()[:-3], ResultDecodeError),
    "not UTF-8": (b'{"status": "SUCCESS", "result": "\xff"}', ResultDecodeError),
    "UTF-16": (success().decode().encode("utf-16"), ResultDecodeError),
    "a list": (b"[1, 2]", ResultDecodeError),
    "a number": (b"17", ResultDecodeError),
    "null": (b"null", ResultDecodeError),
    "blank": (b" ", ResultDecodeError),
    "no status": (b'{"result": 1}', ResultDecodeError),
    "status a number": (success(status=5), ResultDecodeError),
    "status a mapping": (success(status={}), ResultDecodeError),
    "task_id another's": (success(task_id="bystander"), ResultDecodeError),
    "task_id a number": (success(task_id=5), ResultDecodeError),
    "deep nesting": (b'{"status": "SUCCESS", "result": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", ResultDecodeError),
    "an integer of a million digits": (
        b'{"status": "SUCCESS", "result": ' + b"9" * 1_000_000 + b"}",
        ResultDecodeError,
    ),
    "an unknown type tag": (success(result={"__type__": "evil", "__value__": 1}), ResultDecodeError),
    "a broken type tag": (success(result={"__type__": "uuid", "__value__": {"hex": "zz"}}), ResultDecodeError),
    "control characters in a type tag": (
        success(result={"__type__": "uuid", "__value__": {"\x1b[2J\r": 1}}),
        ResultDecodeError,
    ),
    "a pickle": (b"\x80\x04\x95\x1b\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93.", ResultDecodeError),
    "compressed garbage": (COMPRESSED + b"garbage", ResultDecodeError),
    "compressed, cut short": (COMPRESSED + zlib.compress(success())[:-5], ResultDecodeError),
    "compressed by nobody knows what": (b"\0celery-compressed\0application/x-evil\0abc", ResultDecodeError),
    "a decompression bomb": (COMPRESSED + zlib.compress(b" " * 300_000_000, 9), ResultTooLarge),
    "a gzip file": (gzip.compress(success()), ResultDecodeError),
    "os.system": (failure("system", "os", ["touch /tmp/x"]), TaskFailed),
    "eval": (failure("eval", "builtins", ["1/0"]), TaskFailed),
    "subprocess.Popen": (failure("Popen", "subprocess", [["true"]]), TaskFailed),
    "a dunder path": (failure("ValueError.__class__.__base__", "builtins"), TaskFailed),
    "through another module": (failure("sys.exit", "os"), TaskFailed),
    "a module not imported": (failure("Message", "mailbox"), TaskFailed),
    "a constructor with side effects": (failure("Harmful", __name__), Harmful),
    "SystemExit": (failure("SystemExit"), TaskFailed),
    "KeyboardInterrupt": (failure("KeyboardInterrupt"), TaskFailed),
    "GeneratorExit": (failure("GeneratorExit"), TaskFailed),
    "CancelledError": (failure("CancelledError", "asyncio.exceptions"), TaskFailed),
    "StopIteration": (failure("StopIteration"), TaskFailed),
    "StopAsyncIteration": (failure("StopAsyncIteration"), TaskFailed),
    "no exc_type": (b'{"status": "FAILURE", "result": {"exc_message": "x"}}', TaskFailed),
    "exc_type a number": (failure(5), TaskFailed),
    "exc_type a list": (failure(["a"]), TaskFailed),
    "exc_module a mapping": (failure("ValueError", {"a": 1}), TaskFailed),
    "a failure of null": (b'{"status": "FAILURE", "result": null}', TaskFailed),
    "a failure that is text": (b'{"status": "FAILURE", "result": "oops"}', TaskFailed),
    "control characters in names": (failure("Evil\x1b[2J\nError", "a\r\nb"), TaskFailed),
    "a forged revocation": (failure("system", "os", status="REVOKED"), TaskRevoked),
}


class Panic(BaseException):
    """What an extension module may raise."""


def panics(*_: object) -> Any:
    raise Panic


@dataclass
class Checked:
    """A type that a handle expects."""

    id: int

    def __post_init__(self) -> None:
        raise Panic


class Listed(Exception):
    __init__ = panics


class Registered:
    """A type that the application has registered."""


register_type(Registered, "tests.registered", lambda _: None, panics)


@pytest.fixture
async def backend(redis_url: str) -> AsyncIterator[Backend]:
    async with connect(redis_url) as entered:
        yield entered


def publish(server: RedisServer, id: str, payload: bytes, *, store: bool = True) -> None:
    if store:
        server.cli("SET", f"celery-task-meta-{id}", payload)
    server.cli("PUBLISH", f"celery-task-meta-{id}", payload)


@pytest.mark.parametrize("kind", KINDS)
async def test_p9_it_hurts_its_own_waiter_only(
    redis_server: RedisServer, backend: Backend, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Published on the connection that everybody shares, while others wait there."""
    payload, expected = KINDS[kind]
    caplog.set_level(logging.DEBUG, "asyncresult")
    HARM.clear()
    victim, bystander = start_waits(backend, ["victim", "bystander"])
    await waits_for(backend, 2)
    modules = set(sys.modules)
    start = time.monotonic()
    publish(redis_server, "victim", payload)
    with pytest.raises(expected) as caught:
        await asyncio.wait_for(victim, 10)
    assert time.monotonic() - start < 5, "at once (the figure on an idle machine: under 0.1 s)"
    if expected is not Harmful:
        assert isinstance(caught.value, AsyncResultError)
    assert set(sys.modules) == modules, "nothing was imported"
    assert not HARM, "no constructor ran"
    texts = [str(caught.value), *getattr(caught.value, "__notes__", ()), *caplog.messages]
    assert not any(ord(c) < 32 and c != "\n" for text in texts[1:] for c in text)
    assert "\x1b" not in texts[0] and "\r" not in texts[0]
    publish(redis_server, "bystander", record("bystander", 7).encode())
    assert await asyncio.wait_for(bystander, 10) == 7
    assert backend.stats().reconnects == 0
    await nothing_left(redis_server, backend)


@pytest.mark.parametrize("stored_before", [False, True])
@pytest.mark.parametrize(
    ("payload", "type_", "expected"),
    [
        (success(result={"id": 1}), Checked, ResultTypeError),
        (success(result={"__type__": "tests.registered", "__value__": None}), Any, ResultDecodeError),
        (failure("Listed", __name__), Any, TaskFailed),
    ],
    ids=["a validator", "a decoder", "a constructor"],
)
async def test_p9_code_of_the_application_that_panics_hurts_one_wait_only(
    redis_server: RedisServer, payload: bytes, type_: Any, expected: type[Exception], stored_before: bool
) -> None:
    """It runs where the record arrives, in the turn of all others, if a future or promise waits."""
    for url in (redis_server.url(), "memory://"):
        async with connect(url, exceptions=[Listed]) as backend:
            key = backend.task_key("victim")

            async def put(backend: Backend = backend, key: bytes = key) -> None:
                await engine_of(backend).put(key, payload, None)

            if stored_before:
                await put()
            handle: AsyncResult[Any] = backend.result("victim", type=type_)
            ends = [handle.as_future(), asyncio.ensure_future(handle.get()), asyncio.ensure_future(handle.then(str))]
            bystander = asyncio.ensure_future(backend.result("bystander").get())
            if not stored_before:
                await waits_for(backend, 2)
                await put()
            for end in ends:
                with pytest.raises(expected):
                    await asyncio.wait_for(end, 10)
            await backend.store_result("bystander", 7, "SUCCESS")
            assert await asyncio.wait_for(bystander, 10) == 7
        redis_server.reset()


async def test_p9_what_others_put_into_a_history_is_passed_over(
    redis_server: RedisServer, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    history = backend.key_beside("victim", "history")
    redis_server.cli("XADD", history, "1-1", "foo", "bar")
    async with backend.track("victim", history=10):
        redis_server.cli("XADD", history, "*", "foo", "bar")
    seen = [meta.status async for meta in backend.result("victim").updates(since="0", timeout=10)]
    assert seen == ["STARTED", "SUCCESS"]
    assert not caplog.messages


async def test_p9_a_flood_of_garbage(redis_server: RedisServer, backend: Backend) -> None:
    """5,000 unreadable messages for 50 waits, and one good result each."""
    waits = start_waits(backend, [f"t{n}" for n in range(50)])
    await waits_for(backend, 50)
    with redis_server.control() as control:
        for n in range(50):
            control("SET", f"celery-task-meta-t{n}", record(f"t{n}", n))
        for n in range(5000):
            control("PUBLISH", f"celery-task-meta-t{n % 50}", b"garbage")
    assert await asyncio.wait_for(asyncio.gather(*waits), 20) == list(range(50))
    assert backend.stats().reconnects == 0


# -- P8: sizes, on the limits that a server has by default ----------------------------------------------------------


async def test_p8_1000_results_of_100_kb(redis_server: RedisServer, backend: Backend) -> None:
    """More than the 32 MB that Redis lets a subscriber be behind."""
    text = "x" * 100_000
    for n in range(1000):
        redis_server.cli("SET", f"celery-task-meta-t{n}", f'{{"status": "SUCCESS", "result": "{text}"}}')
    values = await backend.results([f"t{n}" for n in range(1000)]).get(timeout=20)
    assert values == [text] * 1000
    assert backend.stats().reconnects == 0


@pytest.mark.parametrize("live", [False, True], ids=["stored", "live"])
async def test_p8_40_mb(redis_server: RedisServer, backend: Backend, live: bool) -> None:
    """Over the subscriber's limit, so the server cuts it off: the value comes through the other connection."""
    payload = b'{"status": "SUCCESS", "result": "' + b"x" * 40_000_000 + b'"}'
    waits = start_waits(backend, ["big", "small"])
    if live:
        await waits_for(backend, 2)
        await asyncio.to_thread(publish, redis_server, "big", payload)
    else:
        await asyncio.to_thread(publish, redis_server, "big", payload)
    assert len(await asyncio.wait_for(waits[0], 30)) == 40_000_000
    await stored_elsewhere(redis_server, ["small"])
    assert await asyncio.wait_for(waits[1], 10) == 0
    assert backend.stats().reconnects <= 2, "no reconnect loop"


async def test_p8_100_mb_is_too_large(redis_server: RedisServer, backend: Backend) -> None:
    payload = b'{"status": "SUCCESS", "result": "' + b"x" * 100_000_000 + b'"}'
    waits = start_waits(backend, ["big"])
    await waits_for(backend, 1)
    await asyncio.to_thread(publish, redis_server, "big", payload)
    with pytest.raises(ResultTooLarge, match="max_result_bytes"):
        await asyncio.wait_for(waits[0], 30)
    assert backend.stats().reconnects <= 2


@pytest.mark.parametrize("shape", ["records", "numbers", "text", "bytes", "broken"])
async def test_p8_decoding_20_mb_does_not_stop_the_loop(
    redis_server: RedisServer, backend: Backend, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ticker goes on meanwhile.

    The stops are counted in our own CPU time: a busy machine stops a loop for longer than we do. (The times of an
    idle machine are in docs/explanation/reliability.md; that pieces are small is shown in tests/codec/test_pieces.py.)
    """
    value: Any
    if shape in ("records", "broken"):
        value = [{"id": n, "name": f"name {n}", "tags": ["a", "b"]} for n in range(300_000)]
    elif shape == "bytes":
        value = b"\xff\x00\x01 bytes" * 1_700_000
    else:
        value = list(range(2_500_000)) if shape == "numbers" else "x" * 20_000_000
    payload = backend.codec.encode(TaskMeta(task_id="big", status="SUCCESS", result=value))
    if shape == "broken":
        payload = payload.replace(b'"id": 150000', b'"id" 150000')
    await asyncio.to_thread(redis_server.cli, "SET", "celery-task-meta-big", payload)
    threads: list[threading.Thread] = []
    stops: list[float] = []

    def decode_large(self: Codec, task_id: str, payload: bytes) -> TaskMeta:
        threads.append(threading.current_thread())
        return original(self, task_id, payload)

    async def tick() -> None:
        while True:
            before = time.process_time()
            await asyncio.sleep(0.001)
            stops.append(time.process_time() - before)

    original = Codec.decode_large
    monkeypatch.setattr(Codec, "decode_large", decode_large)
    ticking = asyncio.ensure_future(tick())
    if shape == "broken":
        with pytest.raises(ResultDecodeError, match="Expecting ':' delimiter, about byte"):
            await AsyncResult("big").get(timeout=60)
    else:
        assert await AsyncResult("big").get(timeout=60) == value
    ticking.cancel()
    await asyncio.wait([ticking])
    assert threading.current_thread() not in threads
    assert max(stops) < 0.5, f"the loop stood still for {max(stops):.3f} s of CPU time"


@pytest.mark.parametrize("look", ["wait", "state", "get_many", "updates", "history"])
@pytest.mark.parametrize("kind", ["large", "compressed"])
async def test_p8_for_every_reader_a_large_record_is_decoded_on_a_thread(
    redis_url: str, look: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that only becomes large, and whatever the call that reads it."""
    threads: list[threading.Thread] = []
    original = pieces.decode_in_pieces

    def decode_in_pieces(text: bytes) -> Any:
        threads.append(threading.current_thread())
        return original(text)

    monkeypatch.setattr(pieces, "decode_in_pieces", decode_in_pieces)
    async with connect(redis_url, compression="gzip" if kind == "compressed" else None) as backend:
        value = "x" * 2_000_000
        async with backend.track("t", history=3) as task:
            task.set_result(value)
        handle = backend.result("t")
        if look == "wait":
            assert await handle.get(timeout=20) == value
        elif look == "state":
            assert await handle.state() == "SUCCESS"
        elif look == "get_many":
            assert [meta.result for meta in await backend.get_many(["t", "u", "t"])] == [value, None, value]
        elif look == "updates":
            assert [meta.result async for meta in handle.updates(timeout=20)] == [value]
        else:
            assert [meta.status async for meta in handle.updates(since="0", timeout=20)] == ["STARTED", "SUCCESS"]
    assert threads
    assert threading.current_thread() not in threads


@pytest.mark.parametrize("kind", ["compressed", "yaml"])
async def test_p8_a_saved_group_that_takes_long_is_read_on_a_thread(
    redis_url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small as it is: it may become two hundred times its size, or be YAML."""
    threads: list[threading.Thread] = []
    original = Codec.decode_group

    def decode_group(self: Codec, group_id: str, payload: bytes) -> Any:
        threads.append(threading.current_thread())
        return original(self, group_id, payload)

    monkeypatch.setattr(Codec, "decode_group", decode_group)
    options: dict[str, Any] = {"compression": "gzip"} if kind == "compressed" else {"serializer": "yaml"}
    async with connect(redis_url, **options) as backend:
        group = await GroupResult("g", [backend.result(f"t{number}") for number in range(500)]).save()
        assert len(await backend.restore_group("g")) == 2
        assert await GroupResult.restore("g") == group
    assert len(threads) == 2 and threading.current_thread() not in threads


async def test_p8_a_bomb_does_not_stop_the_loop(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop takes a look at its beginning; a thread finds out about the rest."""
    largest: dict[bool, int] = {True: 0, False: 0}
    original = codec.decompressed  # type: ignore[attr-defined]
    main = threading.current_thread()

    def decompressed(name: str, body: bytes) -> Iterator[bytes]:
        size = 0
        for chunk in original(name, body):
            size += len(chunk)
            here = threading.current_thread() is main
            largest[here] = max(largest[here], size)
            yield chunk

    monkeypatch.setattr(codec, "decompressed", decompressed)
    payload, expected = KINDS["a decompression bomb"]
    await engine_of(backend).put(backend.task_key("bomb"), payload, None)
    for look in (backend.result("bomb").get(timeout=20), backend.get_meta("bomb"), backend.result("bomb").state()):
        with pytest.raises(expected):
            await look
    assert largest[True] <= LARGE_PAYLOAD_BYTES + compression.CHUNK_BYTES
    assert (
        LARGE_PAYLOAD_BYTES
        < largest[False]
        <= max(codec.RATIO_BYTES, codec.MAX_RATIO * len(payload)) + compression.CHUNK_BYTES
    )
