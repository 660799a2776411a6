"""The contract of a handle, over every backend: what design and README promise of ``AsyncResult``."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import pickle
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypedDict

import msgspec
import pytest

from asyncresult import (
    AsyncResult,
    Backend,
    BackendClosed,
    BackendError,
    NotReady,
    ResultDecodeError,
    ResultEncodeError,
    ResultTimeout,
    ResultTypeError,
    TaskFailed,
    TaskMeta,
    TaskRevoked,
)
from asyncresult._storage.store import engine_of

from .conftest import POLLED, ROWS
from .waiting import until, waits_for


def new_id() -> str:
    return str(uuid.uuid4())


async def fail(backend: Backend, task_id: str, error: Exception | None = None) -> None:
    await backend.mark_as_failure(task_id, error or ValueError("boom"), traceback="Traceback\nValueError: boom\n")


# -- awaiting -------------------------------------------------------------------------------------------------------


async def test_a_stored_result_is_there_at_once(backend: Backend) -> None:
    await backend.mark_as_done(id := new_id(), {"answer": [4, 2]})
    assert await AsyncResult(id) == {"answer": [4, 2]}


async def test_a_result_that_comes_later_wakes_the_awaiter(backend: Backend) -> None:
    waiting = asyncio.ensure_future(AsyncResult(id := new_id()).get())
    await waits_for(backend, 1)
    await backend.mark_as_done(id, 42)
    assert await waiting == 42


async def test_a_result_from_another_client_wakes_the_awaiter(
    backend: Backend, make_backend: Callable[..., Backend]
) -> None:
    waiting = asyncio.ensure_future(AsyncResult(id := new_id()).get())
    await waits_for(backend, 1)
    await make_backend().mark_as_done(id, "from elsewhere")
    assert await waiting == "from elsewhere"


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -1.5,
        2**80,
        float("inf"),
        "text é\u2028",
        "\udc80",
        [],
        {},
        [1, [2, {"x": None}]],
        b"bytes",
        b"\xff\x00",
        datetime(2024, 1, 2, 3, 4, 5, 678901),
        datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
        Decimal("1.50"),
        uuid.UUID(int=7),
    ],
    ids=repr,
)
async def test_values_survive(backend: Backend, value: Any) -> None:
    await backend.mark_as_done(id := new_id(), value)
    got = await AsyncResult(id)
    assert got == value and type(got) is type(value)


async def test_many_awaiters_of_one_handle_and_many_handles_of_one_id(backend: Backend) -> None:
    shared = AsyncResult(id := new_id())
    waiting = [asyncio.ensure_future(shared.get()) for _ in range(10)]
    waiting += [asyncio.ensure_future(AsyncResult(id).get()) for _ in range(10)]
    await waits_for(backend, 1)
    await backend.mark_as_done(id, 1)
    assert await asyncio.gather(*waiting) == [1] * 20


async def test_awaiting_under_asyncio_tools(backend: Backend) -> None:
    for n in range(4):
        await backend.mark_as_done(f"tool-{n}", n)
    handles = [AsyncResult(f"tool-{n}") for n in range(4)]
    assert await asyncio.gather(*handles) == [0, 1, 2, 3]
    assert await asyncio.wait_for(AsyncResult("tool-1"), 20) == 1
    async with asyncio.timeout(20):
        assert await AsyncResult("tool-2") == 2
    async with asyncio.TaskGroup() as group:
        task = group.create_task(AsyncResult("tool-3").get())
    assert task.result() == 3
    assert sorted([await done for done in asyncio.as_completed([AsyncResult(f"tool-{n}") for n in range(4)])]) == [
        0,
        1,
        2,
        3,
    ]
    done, pending = await asyncio.wait([AsyncResult("tool-0").as_future()])
    assert not pending and done.pop().result() == 0


async def test_ignored_results_are_none_at_once(backend: Backend) -> None:
    handle = AsyncResult[Any](new_id())
    handle.ignored = True
    assert await handle is None


# -- timeouts and cancellation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, -1, 0.005, 0.05])
async def test_a_timeout_is_an_error_that_leaves_nothing_behind(backend: Backend, timeout: float) -> None:
    handle = AsyncResult[Any](id := new_id())
    with pytest.raises(ResultTimeout) as caught:
        await handle.get(timeout=timeout)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.task_id == id and caught.value.timeout == timeout
    assert not handle.done()
    await until(lambda: backend.stats().pending == 0)


async def test_timeout_zero_gives_what_is_stored(backend: Backend) -> None:
    await backend.mark_as_done(id := new_id(), 1)
    assert await AsyncResult(id).get(timeout=0) == 1
    await fail(backend, id := new_id())
    with pytest.raises(ValueError, match="boom"):
        await AsyncResult(id).get(timeout=0)


async def test_a_timeout_that_is_no_number(backend: Backend) -> None:
    with pytest.raises(ValueError, match="NaN"):
        await AsyncResult(new_id()).get(timeout=float("nan"))


async def test_a_handle_can_be_awaited_again_after_a_timeout(backend: Backend) -> None:
    handle = AsyncResult[int](id := new_id())
    with pytest.raises(ResultTimeout):
        await handle.get(timeout=0.005)
    await backend.mark_as_done(id, 1)
    assert await handle.get(timeout=20) == 1


async def test_cancelling_one_awaiter_leaves_the_others(backend: Backend) -> None:
    handle = AsyncResult[int](id := new_id())
    first, second = asyncio.ensure_future(handle.get()), asyncio.ensure_future(handle.get())
    await waits_for(backend, 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await backend.mark_as_done(id, 1)
    assert await second == 1


async def test_a_cancelled_wait_leaves_nothing_behind(backend: Backend) -> None:
    waiting = [asyncio.ensure_future(AsyncResult(new_id()).get()) for _ in range(50)]
    await waits_for(backend, 50)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    await until(lambda: backend.stats().pending == 0 and backend.stats().subscribed == 0)


async def test_wanted_again_within_the_linger(backend: Backend) -> None:
    """A key given up and wanted again at once is still served, though its unsubscription was on the way."""
    for _ in range(20):
        handle = AsyncResult[int](id := new_id())
        with pytest.raises(ResultTimeout):
            await handle.get(timeout=0.01)
        waiting = asyncio.ensure_future(handle.get(timeout=20))
        await asyncio.sleep(0)
        await backend.mark_as_done(id, 1)
        assert await waiting == 1


# -- failures -------------------------------------------------------------------------------------------------------


async def test_a_failure_is_raised_as_what_it_was(backend: Backend) -> None:
    await fail(backend, id := new_id(), KeyError("k", 1))
    with pytest.raises(KeyError) as caught:
        await AsyncResult(id)
    assert caught.value.args == ("k", 1)
    assert "ValueError: boom" in str(caught.value.__cause__)
    assert any(id in note for note in caught.value.__notes__)


async def test_an_unknown_class_becomes_task_failed(backend: Backend) -> None:
    record = {"exc_type": "Nested.Error", "exc_message": ["a", 1], "exc_module": "not.imported"}
    await backend.store_result(id := new_id(), record, "FAILURE", traceback="Traceback …")
    with pytest.raises(TaskFailed) as caught:
        await AsyncResult(id)
    error = caught.value
    assert (error.exc_type, error.exc_module, error.exc_args) == ("Nested.Error", "not.imported", ("a", 1))
    assert error.traceback == "Traceback …"


async def test_a_revoked_task(backend: Backend) -> None:
    await backend.mark_as_revoked(id := new_id(), "expired")
    handle = AsyncResult[Any](id)
    with pytest.raises(TaskRevoked, match="expired"):
        await handle
    assert await handle.state() == "REVOKED" and await handle.ready()
    assert not await handle.failed() and not await handle.successful()


async def test_each_raise_is_a_fresh_instance(backend: Backend) -> None:
    await fail(backend, id := new_id())
    handle = AsyncResult[Any](id)
    caught: list[Exception] = []
    for _ in range(2):
        try:
            await handle
        except ValueError as error:
            caught.append(error)
    assert caught[0] is not caught[1]
    assert caught[0].__traceback__ is not caught[1].__traceback__


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "StopIteration"])
async def test_what_must_not_be_raised_is_wrapped(backend: Backend, name: str) -> None:
    record = {"exc_type": name, "exc_message": ["x"], "exc_module": "builtins"}
    await backend.store_result(id := new_id(), record, "FAILURE")
    with pytest.raises(TaskFailed) as caught:
        await AsyncResult(id)
    assert caught.value.exc_type == name


async def test_propagate_false_returns_the_exception(backend: Backend) -> None:
    await fail(backend, id := new_id())
    assert isinstance(await AsyncResult[Any](id).get(propagate=False), ValueError)


async def test_a_task_timeout_is_not_a_timeout_of_the_wait(backend: Backend) -> None:
    await fail(backend, id := new_id(), TimeoutError("inner"))
    with pytest.raises(TimeoutError, match="inner") as caught:
        await AsyncResult(id).get(timeout=20)
    assert not isinstance(caught.value, ResultTimeout)


async def test_retry_keeps_waiting(backend: Backend) -> None:
    handle = AsyncResult[int](id := new_id())
    waiting = asyncio.ensure_future(handle.get())
    await waits_for(backend, 1)
    await backend.mark_as_retry(id, ValueError("again"))
    assert await handle.state() == "RETRY"
    assert isinstance(await handle.result(), ValueError)
    await backend.mark_as_done(id, 1)
    assert await waiting == 1


# -- reading without waiting ----------------------------------------------------------------------------------------


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
        with pytest.raises(NotReady, match="await"):
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


# -- parents --------------------------------------------------------------------------------------------------------


async def test_a_failing_parent_ends_the_wait(backend: Backend) -> None:
    grandparent = AsyncResult[Any]("grandparent")
    handle = AsyncResult[Any]("child", parent=AsyncResult("parent", parent=grandparent))
    waiting = asyncio.ensure_future(handle.get())
    await waits_for(backend, 3)
    await backend.mark_as_done("parent", 1)
    await fail(backend, "grandparent", KeyError("above"))
    with pytest.raises(KeyError, match="above"):
        await waiting
    await until(lambda: backend.stats().pending == 0)


async def test_a_failed_parent_comes_before_what_the_task_says_of_it(backend: Backend) -> None:
    """As the body of a chord does, whose record tells of the failure in other words."""
    await fail(backend, "parent", KeyError("the cause"))
    await fail(backend, "child", RuntimeError("a dependency failed"))
    for timeout in (None, 20, 0):
        with pytest.raises(KeyError, match="the cause"):
            await AsyncResult("child", parent=AsyncResult("parent")).get(timeout)
    with pytest.raises(RuntimeError, match="a dependency failed"):
        await AsyncResult("child", parent=AsyncResult("parent")).get(follow_parents=False)


async def test_parents_can_be_left_alone(backend: Backend) -> None:
    await fail(backend, "parent")
    handle = AsyncResult[int]("child", parent=AsyncResult("parent"))
    waiting = asyncio.ensure_future(handle.get(follow_parents=False))
    await waits_for(backend, 1)
    await backend.mark_as_done("child", 1)
    assert await waiting == 1


# -- states as they come --------------------------------------------------------------------------------------------


async def test_updates_begin_with_a_snapshot_and_end_with_the_final_record(backend: Backend) -> None:
    handle = AsyncResult[Any](id := new_id())
    seen: list[tuple[str, Any]] = []
    async with handle.updates(timeout=10) as updates:
        async for meta in updates:
            seen.append((meta.status, meta.result))
            if len(seen) == 1:
                await backend.mark_as_started(id, pid=1)
            elif meta.status == "STARTED":
                await backend.store_result(id, {"current": 1}, "PROGRESS")
            elif meta.status == "PROGRESS":
                await backend.mark_as_done(id, "end")
    assert seen == [("PENDING", None), ("STARTED", {"pid": 1}), ("PROGRESS", {"current": 1}), ("SUCCESS", "end")]
    assert handle.value == "end"
    assert [meta.status async for meta in handle.updates()] == ["SUCCESS"]


async def test_a_stream_begins_with_the_state_that_another_one_has_been_given(backend: Backend) -> None:
    """Of a new handle, and of one that followed the task before and missed a state."""
    first, again = AsyncResult[Any](id := new_id()), AsyncResult[Any](id)
    async with first.updates(timeout=30) as updates:
        assert (await anext(updates)).status == "PENDING"
        await backend.mark_as_started(id, pid=1)
        async with again.updates(timeout=30) as left:
            while (await anext(left)).status != "STARTED":
                pass
        while (await anext(updates)).status != "STARTED":
            pass
        await backend.store_result(id, {"current": 1}, "PROGRESS")
        while (await anext(updates)).status != "PROGRESS":
            pass
        for handle in (AsyncResult[Any](id), again):
            async with handle.updates(timeout=30) as later:
                assert (await anext(later)).status == "PROGRESS"


@pytest.mark.not_over(*POLLED, reason="of states that follow fast, the latest is seen")
async def test_a_slow_reader_loses_the_oldest_never_the_last(backend: Backend) -> None:
    updates = AsyncResult[Any](id := new_id()).updates(timeout=10, maxsize=3)
    assert (await anext(updates)).status == "PENDING"
    await waits_for(backend, 1)
    for n in range(10):
        await backend.store_result(id, n, "PROGRESS")
    await backend.mark_as_done(id, "end")
    await until(lambda: updates.dropped == 8)
    assert [meta.result async for meta in updates] == [8, 9, "end"]


async def test_leaving_a_stream_early_ends_its_subscription(backend: Backend) -> None:
    """By break and forgetting, by the end of its block, by cancellation."""
    async for _ in AsyncResult(new_id()).updates():
        break
    gc.collect()
    await until(lambda: backend.stats().pending == 0)
    async with AsyncResult(new_id()).updates() as updates:
        await anext(updates)
        assert backend.stats().pending == 1
    await until(lambda: backend.stats().pending == 0)
    waiting = asyncio.ensure_future(AsyncResult(new_id()).until("STARTED"))
    await waits_for(backend, 1)
    waiting.cancel()
    await asyncio.wait([waiting])
    await until(lambda: backend.stats().pending == 0)


async def test_a_stream_that_times_out(backend: Backend) -> None:
    with pytest.raises(ResultTimeout):
        async for _ in AsyncResult(new_id()).updates(timeout=0.02):
            pass
    await until(lambda: backend.stats().pending == 0)


async def test_a_stream_without_time_looks_once(backend: Backend) -> None:
    await backend.mark_as_started(id := new_id())
    seen = []
    with pytest.raises(ResultTimeout):
        async for meta in AsyncResult(id).updates(timeout=0):
            seen.append(meta.status)
    assert seen == ["STARTED"]
    assert (await AsyncResult(id).until("STARTED", timeout=0)).status == "STARTED"
    async with backend.track(id := new_id(), history=3) as task:
        await task.progress(1)
    kept = [meta.status async for meta in AsyncResult(id).updates(timeout=0, since="0")]
    assert kept == ["STARTED", "PROGRESS", "SUCCESS"]
    await until(lambda: backend.stats().pending == 0)


async def test_until(backend: Backend) -> None:
    handle = AsyncResult[Any](id := new_id())
    waiting = asyncio.ensure_future(handle.until("STARTED", timeout=10))
    await waits_for(backend, 1)
    await backend.mark_as_started(id, pid=5)
    assert (await waiting).result == {"pid": 5}
    await backend.mark_as_done(id, 1)
    assert (await handle.until("STARTED")).status == "SUCCESS", "a final state ends it all the same"


async def test_on_message_sees_this_task_only(backend: Backend) -> None:
    seen: list[str] = []
    waiting = asyncio.ensure_future(
        AsyncResult(id := new_id()).get(timeout=10, on_message=lambda meta: seen.append(meta.status))
    )
    other = asyncio.ensure_future(AsyncResult("other").get())
    await waits_for(backend, 2)
    await backend.mark_as_started(id)
    await backend.mark_as_done("other", 1)
    await backend.mark_as_done(id, 1)
    await asyncio.gather(waiting, other)
    assert seen == ["STARTED", "SUCCESS"]


async def test_callback_gets_id_and_value(backend: Backend) -> None:
    await backend.mark_as_done(id := new_id(), 1)
    seen: list[Any] = []
    handle = AsyncResult[int](id)
    for _ in range(2):  # also when the value is known already
        await handle.get(callback=lambda *given: seen.append(given))
    assert seen == [(id, 1)] * 2


# -- conversion -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Row(TypedDict):
    name: str


class Struct(msgspec.Struct):
    when: datetime


@pytest.mark.parametrize(
    ("type_", "stored", "value"),
    [
        (Point, {"x": 1, "y": 2}, Point(1, 2)),
        (list[Point], [{"x": 1, "y": 2}], [Point(1, 2)]),
        (Row, {"name": "n"}, {"name": "n"}),
        (Struct, {"when": datetime(2024, 1, 1, tzinfo=UTC)}, Struct(datetime(2024, 1, 1, tzinfo=UTC))),
        (Decimal, Decimal("1.5"), Decimal("1.5")),
        (int | None, None, None),
    ],
    ids=str,
)
async def test_values_are_converted(backend: Backend, type_: Any, stored: Any, value: Any) -> None:
    await backend.mark_as_done(id := new_id(), stored)
    handle = backend.result(id, type=type_)
    assert await handle == value
    assert handle.value is await handle, "converted once"


async def test_a_value_of_another_type_is_an_error_that_says_so(backend: Backend) -> None:
    await backend.mark_as_done(id := new_id(), {"x": 1, "y": "two"})
    with pytest.raises(ResultTypeError, match="y"):
        await backend.result(id, type=Point)


# -- callbacks and futures ------------------------------------------------------------------------------------------


async def test_then_fires_though_nobody_awaits(backend: Backend) -> None:
    values: list[Any] = []
    AsyncResult[int]("later").then(values.append)
    await waits_for(backend, 1)
    await backend.mark_as_done("later", 1)
    await until(lambda: values == [1])
    handle = AsyncResult[int]("later")
    await handle
    handle.then(values.append)
    assert values == [1], "never inside the caller's frame"
    await until(lambda: values == [1, 1])


async def test_then_chains_values_and_failures(backend: Backend) -> None:
    await backend.mark_as_done("ok", 3)
    await fail(backend, "bad")

    async def double(value: int) -> int:
        return value * 2

    assert await AsyncResult[int]("ok").then(double).then(lambda v: v + 1) == 7
    assert await AsyncResult[int]("bad").then(double, lambda error: str(error)) == "boom"
    assert await AsyncResult[int]("bad").catch(lambda error: type(error).__name__) == "ValueError"
    ended: list[str] = []
    with pytest.raises(ValueError, match="boom"):
        await AsyncResult[int]("bad").finally_(lambda: ended.append("yes"))
    assert ended == ["yes"]
    assert await AsyncResult[int]("ok").then(lambda v: AsyncResult[int]("ok")) == 3, "a handle returned is followed"


async def test_a_rejection_that_nobody_sees_is_reported(backend: Backend, loop_errors: list[dict[str, Any]]) -> None:
    await fail(backend, "bad")
    AsyncResult[int]("bad").then(lambda value: value)

    def reported() -> bool:
        gc.collect()
        return bool(loop_errors)

    await until(reported)
    assert isinstance(loop_errors[0]["exception"], ValueError)
    loop_errors.clear()


async def test_done_callbacks(backend: Backend) -> None:
    seen: list[Any] = []
    handle = AsyncResult[int]("cb")
    handle.add_done_callback(seen.append)
    handle.add_done_callback(seen.append)
    assert handle.remove_done_callback(seen.append) == 2
    handle.add_done_callback(lambda h: seen.append(h.value))
    await waits_for(backend, 1)
    await backend.mark_as_done("cb", 1)
    await until(lambda: seen == [1])


async def test_a_done_callback_that_raises_hurts_nobody(backend: Backend, loop_errors: list[dict[str, Any]]) -> None:
    handle = AsyncResult[int]("cb")
    handle.add_done_callback(lambda _: 1 / 0)
    waiting = asyncio.ensure_future(handle.get())
    await waits_for(backend, 1)
    await backend.mark_as_done("cb", 1)
    assert await waiting == 1
    await until(lambda: bool(loop_errors))
    assert isinstance(loop_errors[0]["exception"], ZeroDivisionError)
    loop_errors.clear()


async def test_futures(backend: Backend) -> None:
    future, given_up = AsyncResult[int]("f").as_future(), AsyncResult[int]("never").as_future()
    concurrent = AsyncResult[int]("f").as_concurrent_future()
    await waits_for(backend, 2)
    given_up.cancel()
    waiting = asyncio.get_running_loop().run_in_executor(None, concurrent.result, 10)
    await backend.mark_as_done("f", 1)
    assert await future == 1 and await waiting == 1
    await until(lambda: backend.stats().pending == 0)


# -- forms ----------------------------------------------------------------------------------------------------------


async def test_equality_hash_copies(backend: Backend) -> None:
    handle = AsyncResult[int]("a", parent=AsyncResult("p"))
    assert handle == AsyncResult("a") == "a" and handle != AsyncResult("b") and hash(handle) == hash("a")
    await backend.mark_as_done("a", 1)
    await handle
    for twin in (copy.copy(handle), copy.deepcopy(handle)):
        assert twin == handle and twin.value == 1 and twin.parent == handle.parent
    loaded = pickle.loads(pickle.dumps(handle))
    assert loaded == handle and loaded.parent == "p" and loaded.backend is backend
    assert str(handle) == "a" and "a" in repr(handle)
    assert handle.as_tuple() == (("a", (("p", None), None)), None) and handle.as_list() == ["a", "p"]


# -- closing --------------------------------------------------------------------------------------------------------


async def test_closing_ends_every_wait(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend()
    handle = backend.result("x")
    waiting: list[Awaitable[Any]] = [
        asyncio.ensure_future(handle.get()),
        asyncio.ensure_future(anext(updates := handle.updates())),
        handle.as_future(),
        handle.then(lambda value: value),
    ]
    assert (await waiting[1]).status == "PENDING"
    waiting[1] = asyncio.ensure_future(anext(updates))
    await waits_for(backend, 1)
    await backend.aclose()
    for wait in waiting:
        with pytest.raises(BackendClosed):
            await wait
    with pytest.raises(BackendClosed):
        await handle.get()
    async with backend:  # entered again, it lives again
        await backend.mark_as_done("x", 1)
        assert await handle.get() == 1


@pytest.mark.not_over("rpc", reason="connect(app) gives one that cannot reply; see test_celery_rpc")
def test_one_backend_under_two_loops(backend_url: str) -> None:
    """Two successive asyncio.run with the same object, without closing it in between."""
    from asyncresult import connect

    backend = connect(backend_url)

    async def store() -> None:
        await backend.mark_as_done("x", 1)
        assert await backend.result("x") == 1

    async def read() -> Any:
        return await backend.result("x").get(timeout=20)

    asyncio.run(store())
    assert asyncio.run(read()) == 1
    asyncio.run(backend.aclose())


async def test_a_handle_of_another_loop_is_refused_loudly(backend: Backend) -> None:
    handle = AsyncResult[int]("x", backend=backend)
    waiting = asyncio.ensure_future(handle.get())
    await waits_for(backend, 1)

    def elsewhere() -> None:
        async def get() -> None:
            with pytest.raises(RuntimeError, match="another event loop"):
                await handle.get(timeout=1)

        asyncio.run(get())

    await asyncio.get_running_loop().run_in_executor(None, elsewhere)
    waiting.cancel()
    await asyncio.wait([waiting])


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
