"""The contract of records, over every backend: what is read, written, refused, and known of a task without one."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from asyncresult import (
    AsyncResult,
    Backend,
    BackendError,
    NotReady,
    ResultDecodeError,
    ResultEncodeError,
    TaskMeta,
)
from asyncresult._storage.store import engine_of

from .conftest import POLLED, ROWS, whole_records
from .contract import fail, new_id
from .waiting import waits_for

# -- reading without waiting ----------------------------------------------------------------------------------------


@whole_records
async def test_the_attributes_of_a_record(make_backend: Callable[..., Backend], request: pytest.FixtureRequest) -> None:
    class Request:
        task = "app.add"
        args = (1, 2)
        kwargs = {"x": 3}
        hostname = "w1@host"
        retries = 2
        delivery_info = {"routing_key": "q"}
        parent_id = "the-parent"
        group = "the-group"
        children = [AsyncResult[Any]("a-child")]

    backend = make_backend(result_extended=True)
    handle = backend.result(id := new_id())
    assert (await handle.state(), await handle.result(), await handle.children()) == ("PENDING", None, None)
    assert not await handle.exists() and not await handle.ready()
    await backend.mark_as_done(id, 9, request=Request())
    assert (await handle.status(), await handle.info()) == ("SUCCESS", 9)
    assert await handle.successful() and await handle.ready() and not await handle.failed()
    assert await handle.exists()
    done = await handle.date_done()
    assert done is not None and datetime.now(UTC) - done < timedelta(minutes=1)
    assert await handle.traceback() is None
    assert (await handle.name(), await handle.args(), await handle.kwargs()) == ("app.add", [1, 2], {"x": 3})
    assert await handle.worker() == "w1@host"
    children = await handle.children()
    (child,) = children or []
    assert child == AsyncResult("a-child") and isinstance(child, AsyncResult) and child.backend is backend
    meta = await handle.meta()
    assert isinstance(meta, TaskMeta)
    kind = request.node.callspec.params["backend_url"]  # not every table has columns for these
    if kind != "django":
        assert (meta.queue, meta.retries) == ("q", 2) == (await handle.queue(), await handle.retries())
    if kind not in ROWS:
        assert (meta.parent_id, meta.group_id) == ("the-parent", "the-group")


async def test_states_are_data(backend: Backend) -> None:
    await fail(backend, id := new_id())
    handle = AsyncResult[Any](id)
    assert await handle.state() == "FAILURE" and await handle.failed() and await handle.ready()
    assert isinstance(await handle.result(), ValueError)
    assert "boom" in str(await handle.traceback())


async def test_memory_is_only_what_was_learned(backend: Backend) -> None:
    await backend.mark_as_done(id := new_id(), 1)
    handle = AsyncResult[int](id)
    assert not handle.done() and handle.snapshot is None
    for look in (lambda: handle.value, lambda: handle.exception):
        with pytest.raises(NotReady, match="wait for it first"):
            look()
    await handle
    assert handle.done() and handle.value == 1 and handle.exception is None
    assert handle.snapshot is not None and handle.snapshot.status == "SUCCESS"
    await fail(backend, id := new_id())
    failed = AsyncResult[int](id)
    await failed.meta()
    assert failed.done() and isinstance(failed.exception, ValueError)
    with pytest.raises(ValueError, match="boom"):
        _ = failed.value


async def test_get_many_keeps_order_and_knows_what_is_missing(backend: Backend) -> None:
    await backend.mark_as_done("a", 1)
    await backend.mark_as_done("c", 3)
    metas = await backend.get_many(["c", "b", "a", "c"])
    assert [(m.task_id, m.status, m.result) for m in metas] == [
        ("c", "SUCCESS", 3),
        ("b", "PENDING", None),
        ("a", "SUCCESS", 1),
        ("c", "SUCCESS", 3),
    ]
    assert await backend.get_many([]) == []  # and its connection can still be closed


# -- writing --------------------------------------------------------------------------------------------------------


async def test_success_is_never_overwritten(backend: Backend) -> None:
    id = new_id()
    assert await backend.mark_as_done(id, "first")
    for late in (
        backend.mark_as_started(id),
        backend.mark_as_done(id, "second"),
        backend.mark_as_failure(id, ValueError()),
        backend.mark_as_revoked(id),
    ):
        assert await late is False
    assert await AsyncResult(id) == "first"


async def test_what_is_not_final_never_overwrites_what_is(backend: Backend) -> None:
    await fail(backend, id := new_id())
    assert await backend.mark_as_started(id) is False
    assert await backend.mark_as_retry(id, ValueError()) is False
    assert await backend.store_result(id, {}, "PROGRESS") is False
    assert await backend.mark_as_done(id, "a retry made it") is True


async def test_a_value_that_cannot_be_stored_is_named_and_nothing_is_sent(backend: Backend) -> None:
    with pytest.raises(ResultEncodeError) as caught:
        await backend.mark_as_done(id := new_id(), {"rows": [1, object()]})
    assert caught.value.path == "result['rows'][1]" and caught.value.path in str(caught.value)
    assert not await AsyncResult(id).exists()


@pytest.mark.not_over(*POLLED, reason="how long they keep a record is Celery's setting")
async def test_records_expire(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend(expires=1, failure_expires=0)
    await backend.mark_as_done(id := new_id(), 1)
    await fail(backend, kept := new_id())
    assert await backend.result(id).exists()
    async with asyncio.timeout(10):
        while await backend.result(id).exists():
            await asyncio.sleep(0.05)
    assert await backend.result(id).state() == "PENDING"
    assert await backend.result(kept).state() == "FAILURE"


async def test_forget_deletes_record_and_memory_parents_too(backend: Backend) -> None:
    await backend.mark_as_done("parent", 1)
    await backend.mark_as_done("child", 2)
    handle = AsyncResult[int]("child", parent=AsyncResult("parent"))
    await handle
    await handle.forget()
    assert not handle.done()
    assert not await handle.exists() and not await AsyncResult("parent").exists()


@pytest.mark.not_over("rpc", *POLLED, reason="their keys are Celery's business")
async def test_key_prefixes_are_separate_worlds(make_backend: Callable[..., Backend]) -> None:
    one, other = make_backend(key_prefix="one"), make_backend(key_prefix="other:")
    assert one.task_key("x") == b"one_celery-task-meta-x" and other.task_key("x") == b"other:celery-task-meta-x"
    await one.mark_as_done("x", 1)
    assert await one.result("x") == 1
    assert await other.result("x").state() == "PENDING"


# -- hostile and broken records -------------------------------------------------------------------------------------


async def put_raw(backend: Backend, id: str, payload: bytes) -> None:
    """Store and publish bytes as they are."""
    await engine_of(backend).put(backend.task_key(id), payload, None)


@pytest.mark.parametrize("stored_before", [True, False], ids=["stored", "live"])
@pytest.mark.parametrize(
    "payload",
    [
        b"not json",
        b"\xff\xfe",
        b"[1]",
        b'{"result": 1}',
        b'{"status": 1}',
        b'{"status": "SUCCESS", "task_id": "somebody-else"}',
        b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00}\x94.",
        b"[" * 100_000,
    ],
    ids=lambda payload: repr(payload[:20]),
)
@pytest.mark.not_over(*ROWS, reason="rows of an SQL table cannot be any bytes")
async def test_a_broken_record_costs_its_own_waiter_only(backend: Backend, payload: bytes, stored_before: bool) -> None:
    bystander = asyncio.ensure_future(AsyncResult("bystander").get())
    if stored_before:
        await put_raw(backend, "victim", payload)
        victim = asyncio.ensure_future(AsyncResult("victim").get())
    else:
        victim = asyncio.ensure_future(AsyncResult("victim").get())
        await waits_for(backend, 2)
        await put_raw(backend, "victim", payload)
    with pytest.raises(ResultDecodeError) as caught:
        await victim
    assert caught.value.task_id == "victim"
    await backend.mark_as_done("bystander", 1)
    assert await bystander == 1
    assert backend.stats().reconnects == 0


@pytest.mark.not_over("rpc", reason="what comes is the record: there is no other")
async def test_a_published_lie_does_not_beat_the_stored_key(backend: Backend) -> None:
    """A notification is a hint: when it cannot be read, the key decides."""
    waiting = asyncio.ensure_future(AsyncResult(id := new_id()).get())
    await waits_for(backend, 1)
    engine = engine_of(backend)
    engine.waiters.pushed(backend.task_key(id), b"garbage")
    await backend.mark_as_done(id, "the truth")
    assert await waiting == "the truth"


@pytest.mark.not_over(*ROWS, reason="rows of an SQL table cannot be any bytes")
async def test_a_read_error_is_not_final(backend: Backend) -> None:
    await put_raw(backend, id := new_id(), b"garbage")
    handle = AsyncResult[int](id)
    with pytest.raises(ResultDecodeError):
        await handle
    assert handle.done() and isinstance(handle.exception, ResultDecodeError)
    await backend.forget(id)
    await backend.mark_as_done(id, 1)
    assert await handle == 1 and handle.exception is None


@pytest.mark.parametrize(
    ("id", "error"),
    [(None, ValueError), ("", ValueError), ("a\nb", ValueError), ("a\udc80", ValueError), (7, TypeError)],
)
async def test_impossible_ids(backend: Backend, id: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="task id"):
        AsyncResult(id)


@pytest.mark.not_over("memcached", "postgresql", reason="their keys are short, or of plain ASCII without blanks")
async def test_odd_but_possible_ids(backend: Backend) -> None:
    for id in ("custom id/with:odd é", "*", "x" * 5000, str(uuid.UUID(int=1))):
        waiting = asyncio.ensure_future(AsyncResult(id).get())
        await waits_for(backend, 1)
        await backend.mark_as_done(id, id)
        assert await waiting == id
    assert AsyncResult(uuid.UUID(int=1)).id == str(uuid.UUID(int=1))


# -- notes that tasks were sent ---------------------------------------------------------------------------------------


async def test_a_task_that_was_registered_is_known_before_it_has_a_record(
    backend: Backend, make_backend: Callable[..., Backend]
) -> None:
    handle = backend.result(id := f"{{{new_id()}}}")
    if not backend.driver.keeps_notes:
        with pytest.raises(BackendError, match="keeps records only"):
            await backend.register(id)
        return
    before = datetime.now(UTC)
    assert not await handle.known()
    assert await handle.sent() is None
    await backend.register(id, name="resize")
    other = make_backend().result(id)
    assert await other.known()
    assert not await other.exists()
    await backend.mark_as_done(id, "done")
    sent = await other.sent()
    assert sent is not None
    assert sent.name == "resize"
    assert before <= sent.time <= datetime.now(UTC)
    assert [id async for id in backend.task_ids(limit=10)] == [id]  # a note is no record
    assert backend.expires is not None
    kept = await engine_of(backend).lifetime(backend.key_beside(id, "sent"))
    assert kept == pytest.approx(backend.expires, abs=60)
    await backend.forget(id)
    assert not await other.known()
    assert await other.sent() is None


@pytest.mark.parametrize("note", [b"{", b"\xff", b'{"name": "n", "time": "x"}', b'{"x": ' + b"[" * 100_000])
async def test_a_note_that_cannot_be_read(backend: Backend, note: bytes) -> None:
    if not backend.driver.keeps_notes:
        return
    handle = backend.result(id := new_id())
    await engine_of(backend).put(backend.key_beside(id, "sent"), note, None)
    with pytest.raises(ResultDecodeError, match=r"note that task .* cannot be read") as caught:
        await handle.sent()
    assert caught.value.task_id == id
    assert str(caught.value).isprintable()
    assert await handle.state() == "PENDING"
