"""What comes on a reply queue, sent by hand over kombu's memory transport: no worker, no server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager
from queue import Queue
from typing import Any
from unittest import mock

import pytest
from celery import Celery
from celery.contrib.testing.app import setup_default_app
from celery.contrib.testing.worker import start_worker
from kombu import Connection, Producer
from kombu.transport import memory

import asyncresult
from asyncresult import BackendError, ResultDecodeError, ResultTooLarge
from asyncresult.integrations.celery import replies as replies_module
from asyncresult.integrations.celery.replies import ReplyRecords
from asyncresult.integrations.celery.rpc import RpcBackend, watch
from tests.integrations.celery_project import client


@pytest.fixture
def app() -> Generator[Celery]:
    with client(broker_url="memory://", result_backend="rpc://") as made:
        yield made


def connected(app: Celery, **options: Any) -> RpcBackend:
    backend = asyncresult.connect(app, **options)
    assert isinstance(backend, RpcBackend)
    return backend


def record(id: str, result: Any = None, status: str = "SUCCESS") -> bytes:
    return json.dumps(
        {"status": status, "result": result, "traceback": None, "children": [], "date_done": None, "task_id": id}
    ).encode()


def reply(
    backend: RpcBackend, id: str | None, body: bytes, content_type: str = "application/json", **options: Any
) -> None:
    """Send as a worker does.

    Args:
        options: Others of kombu's ``publish()``: compression, headers.
    """
    with Connection("memory://") as connection:
        Producer(connection.channel()).publish(
            body,
            routing_key=backend.replies.queue,
            correlation_id=id,
            content_type=content_type,
            content_encoding="utf-8",
            **options,
        )


async def received(backend: RpcBackend, count: int) -> None:
    async with asyncio.timeout(20):
        while backend.stats().received < count:
            await asyncio.sleep(0.01)


async def test_a_reply(app: Celery) -> None:
    async with connected(app) as backend:
        handle = backend.result("t")
        assert await handle.state() == "PENDING"
        reply(backend, "t", record("t", 5))
        assert await handle.get(timeout=10) == 5
        assert backend.stats().received == 1


async def test_what_belongs_to_no_task_is_refused(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(app) as backend:
        await backend.result("t").state()
        reply(backend, None, record("t", 5))
        await received(backend, 1)
        assert backend.stats().refused == 1
        assert await backend.result("t").exists() is False
    assert "it names no task" in caplog.text


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b"\x80\x04K\x05.", "application/x-python-serialize", "pickle"),
        (b"{", "application/json", "read as json"),
        (record("other", 5), "application/json", "record of another task"),
        (b"{", "\x1b[2J\r\n", "read as json"),
    ],
)
async def test_what_cannot_be_read_ends_the_wait(
    app: Celery, body: bytes, content_type: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(app) as backend:
        handle = backend.result("t")
        await handle.state()
        reply(backend, "t", body, content_type)
        with pytest.raises(ResultDecodeError, match=words):
            await handle.get(timeout=10)
        await received(backend, 1)
        assert backend.stats().refused == 1
        reply(backend, "t", record("t", 5))  # protects nothing
        await received(backend, 2)
        assert await backend.result("t").get(timeout=10) == 5
    assert all(message.isprintable() for message in caplog.messages)


@pytest.mark.parametrize("compression", ["application/x-gzip", "no such", "\ud800", {"a": 1}])
async def test_a_false_compression_header_hurts_no_other_reply(app: Celery, compression: Any) -> None:
    async with connected(app) as backend:
        waits = [asyncio.ensure_future(backend.result(id).get(timeout=10)) for id in ("t", "u")]
        await backend.result("t").state()
        reply(backend, "t", b"neither compressed nor JSON", headers={"compression": compression})
        reply(backend, "u", record("u", 5))
        with pytest.raises(ResultDecodeError, match="the record of task 't' cannot be read: it cannot be decompressed"):
            await waits[0]
        assert await waits[1] == 5
        assert backend.stats().reconnects == 0


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "lzma"])
async def test_a_compressed_reply(app: Celery, compression: str) -> None:
    async with connected(app) as backend:
        handle = backend.result("t")
        await handle.state()
        reply(backend, "t", record("t", ["x" * 1000]), compression=compression)
        assert await handle.get(timeout=10) == ["x" * 1000]


async def test_a_reply_that_becomes_too_large_when_decompressed(app: Celery) -> None:
    async with connected(app) as backend:
        handle = backend.result("t")
        await handle.state()
        reply(backend, "t", b"[]," * 20_000_000, compression="gzip")
        with pytest.raises(ResultTooLarge, match="decompresses to at least"):
            await handle.get(timeout=10)
        assert backend.stats().refused == 1


async def test_a_compressed_reply_that_comes_back_to_the_queue(app: Celery) -> None:
    """Kombu's virtual transports send again what was not acknowledged, without the header."""
    async with connected(app) as backend:
        handle = backend.result("t")
        await handle.state()
        receiver = backend.replies.receiver
        take = receiver._take
        came_back = threading.Event()

        def restore_first(message: Any) -> None:
            if came_back.is_set():
                take(message)
            else:
                came_back.set()
                message.channel._restore(message)

        receiver._take = restore_first
        reply(backend, "t", record("t", 5), compression="gzip")
        assert await handle.get(timeout=10) == 5
        assert came_back.is_set()


async def test_a_body_that_kombu_cannot_encode_hurts_no_other_reply(app: Celery) -> None:
    async with connected(app) as backend:
        waits = [asyncio.ensure_future(backend.result(id).get(timeout=10)) for id in ("t", "u")]
        await backend.result("t").state()
        with Connection("memory://") as connection:
            channel = connection.default_channel
            properties = {"correlation_id": "t"}
            message = channel.prepare_message("\ud800", content_type="application/json", properties=properties)
            message["properties"].update(body_encoding=None, delivery_tag="1", delivery_info={})
            channel._put(backend.replies.queue, message)
        reply(backend, "u", record("u", 5))
        with pytest.raises(ResultDecodeError, match="the record of task 't' cannot be read"):
            await waits[0]
        assert await waits[1] == 5
        assert backend.stats().reconnects == 0


async def test_a_final_state_stays(app: Celery) -> None:
    async with connected(app) as backend:
        handle = backend.result("t")
        await handle.state()
        reply(backend, "t", record("t", 5))
        reply(backend, "t", record("t", None, "STARTED"))
        reply(backend, "t", record("t", 6))
        await received(backend, 3)
        assert await handle.get(timeout=0) == 5


async def test_unread_results_are_bounded(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(app, max_unread=3) as backend:
        await backend.result("x").state()
        for number in range(5):
            reply(backend, f"t{number}", record(f"t{number}", number))
        await received(backend, 5)
        states = [await backend.result(f"t{number}").exists() for number in range(5)]
        assert states == [False, False, True, True, True]
    assert "max_unread=3" in caplog.text


def test_read_results_are_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """They make room for others; those that nobody has read do not."""
    monkeypatch.setattr(replies_module, "KEPT_AFTER_READING", 2)
    records = ReplyRecords(max_unread=10)
    for number in range(6):
        key = f"k{number}".encode()
        assert records.receive(key, b"v", None, lambda old: False, key + b".history", again=False)
        if number < 4:
            assert records.get(key) == b"v"
    records.receive(b"k6", b"v", None, lambda old: False, b"k6.history", again=False)
    assert [records.peek(f"k{number}".encode()) for number in range(7)] == [None, None, b"v", b"v", b"v", b"v", b"v"]


def test_what_comes_again_is_recognised() -> None:
    """After a lost connection the broker sends again what was not acknowledged."""
    records = ReplyRecords(max_unread=10)
    for again, values in ((False, [b"1", b"2"]), (True, [b"1", b"2", b"3"])):
        for value in values:
            records.receive(b"k", value, None, lambda old: False, b"h", again=again)
    assert [value for _, value in records.history(b"h", "0")] == [b"1", b"2", b"3"]
    assert records.peek(b"k") == b"3"


@pytest.mark.parametrize(
    "options",
    [
        *({"reply_expires": value} for value in (0, float("nan"), 2**31, "60", b"x")),
        *({"max_unread": value} for value in (0, 1.5, float("nan"), "60")),
        *({"reply_queue": value} for value in ("", "x" * 256, 5, b"x")),
    ],
)
def test_invalid_options(app: Celery, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        asyncresult.connect(app, **options)


async def test_options_that_come_too_late(app: Celery) -> None:
    async with connected(app) as backend:
        await backend.result("x").state()
        with pytest.raises(ValueError, match="reply_expires must be set before"):
            asyncresult.connect(app, reply_expires=60)
        assert connected(app, max_unread=5).replies is backend.replies


def test_a_url_has_no_app() -> None:
    with pytest.raises(ValueError, match=r"connect\(app\)"):
        asyncresult.connect("rpc://")


@contextmanager
def logging_as_it_was() -> Generator[None]:
    """A worker sets up logging for the whole process."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


@pytest.mark.celery
async def test_a_worker_in_this_process() -> None:
    """Over kombu's memory transport the whole way can be gone without any server."""
    app = Celery("here", broker="memory://", backend="rpc://", set_as_current=False)

    @app.task(shared=False, name="here.double")
    def double(x: int) -> int:
        return 2 * x

    with (
        setup_default_app(app),
        logging_as_it_was(),
        start_worker(app, perform_ping_check=False, pool="solo", loglevel="ERROR"),
    ):
        async with connected(app) as backend:
            result = double.delay(21)
            assert await result == 42  # Celery's own result
            backend.replies.close()


async def test_a_task_is_sent_while_the_receiver_starts(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kombu's queues in memory are made by whoever finds none: made twice, the first one is lost with its replies."""
    both_declare = threading.Barrier(2)

    def new_queue(channel: memory.Channel, queue: str, **_: Any) -> None:
        if queue not in channel.queues:
            with contextlib.suppress(threading.BrokenBarrierError):
                both_declare.wait(0.2)
            channel.queues[queue] = Queue()

    monkeypatch.setattr(memory.Channel, "_new_queue", new_queue)
    async with connected(app) as backend:
        backend.replies.receiver.start()
        with Connection("memory://") as connection:
            backend.replies.expect(connection.channel(), "id")
        reply(backend, "id", record("id", 42))
        async with asyncio.timeout(10):
            assert await backend.result("id") == 42
        backend.replies.close()


async def test_only_so_many_tasks_are_expected(app: Celery) -> None:
    """The others' results are nobody's, as far as is known here."""
    async with connected(app, max_unread=2) as backend:
        replies = backend.replies
        with Connection("memory://") as connection:
            for id in ("a", "b", "c"):
                replies.expect(connection.channel(), id)
        assert [replies.expects(id) for id in ("a", "b", "c")] == [False, True, True]
        replies.close()


def test_a_refused_queue_is_no_concern_of_a_loop_that_is_closed(app: Celery) -> None:
    async def look() -> None:
        assert not await backend.result("t").exists()

    backend = connected(app)
    asyncio.run(look())
    assert backend.replies.records.engines()
    backend.replies._fail_all(BackendError("the broker refuses the reply queue"))
    backend.replies.close()
    asyncio.run(backend.aclose())


def test_celerys_own_lookups(app: Celery) -> None:
    """``result.forget()``, and the name of the reply queue."""
    backend = connected(app)
    theirs, replies = app.backend, backend.replies
    assert theirs.oid == replies.queue
    message = mock.Mock(properties={"correlation_id": "t"}, body=record("t", 5), delivery_info={})
    replies.take(message)
    assert app.AsyncResult("t").result == 5
    theirs._forget("t")
    assert app.AsyncResult("t").state == "PENDING"
    replies.close()


def test_an_app_that_cannot_be_read_sends_as_before() -> None:
    """Pickle alone is accepted: who connects or awaits gets that error."""
    with client(broker_url="memory://", result_backend="rpc://", accept_content=["pickle"]) as app:

        def refuse(app: Celery) -> Any:
            raise ValueError("accept_content")

        watch(app, refuse)
        assert app._local.backend is None
        app._local.oid = "celerys"
        assert app._local.oid == "celerys"
        assert not hasattr(app, "_asyncresult_replies")


def test_a_backend_that_was_made_before_is_kept_where_results_are_elsewhere() -> None:
    with client(broker_url="memory://", result_backend="cache+memory://") as app:
        before = app.backend
        watch(app, pytest.fail)
        assert app._local.backend is before
