"""Who listens to a handle: what hurts one of them hurts no other, and what cannot be had says nothing of the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

import asyncresult
from asyncresult import AsyncResult, Backend, BackendClosed, BackendUnavailable, ResultSet, TaskMeta
from asyncresult._handles import streams
from asyncresult._handles.handle import _Follower, end_with, learn, listen, observe
from asyncresult.testing.memory import FakeRecords
from tests.backends.waiting import until, waits_for


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with asyncresult.connect("memory://") as backend:
        yield backend


class Seen:
    """An observer, which may be a broken one."""

    follows: ClassVar[bool] = True

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.states: list[str] = []
        self.reasons: list[Any] = []

    def put(self, meta: TaskMeta) -> None:
        self.states.append(meta.status)
        if self.error is not None:
            raise self.error

    def fail(self, reason: Any) -> None:
        self.reasons.append(reason)


@pytest.mark.allow_leaks("loop_errors")
async def test_a_listener_that_fails_is_reported_and_the_others_go_on(backend: Backend) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    handle, alone = AsyncResult("t"), AsyncResult("t")
    failing, seen = Seen(ZeroDivisionError()), Seen()
    observe(handle, failing)
    observe(handle, seen)
    ended: list[Any] = []
    listen(handle, broken)
    listen(handle, lambda handle, reason: ended.append(reason))
    listen(alone, broken)
    await waits_for(backend, 1)
    await backend.mark_as_done("t", 1)
    await until(lambda: ended)
    assert ended == [None]
    assert seen.states == failing.states == ["SUCCESS"]
    assert [context["message"] for context in reported] == ["a callback for the result of task t failed"] * 3


async def test_a_task_before_it_that_cannot_be_awaited_does_not_end_the_wait(backend: Backend) -> None:
    elsewhere = asyncresult.connect("memory://elsewhere")
    await elsewhere.aclose()
    child = AsyncResult("child", parent=AsyncResult("parent", backend=elsewhere))
    waiting = asyncio.ensure_future(child.get(timeout=20))
    await waits_for(backend, 1)
    await backend.mark_as_done("child", 1)
    assert await waiting == 1


async def test_the_end_of_the_backend_is_the_end_of_looking_at_the_parents() -> None:
    backend = asyncresult.connect("memory://")
    child = backend.result("child")
    child.parent = backend.result("parent")
    waiting = asyncio.ensure_future(child.get())
    await waits_for(backend, 2)
    await backend.aclose()
    with pytest.raises(BackendClosed):
        await waiting
    assert child._watchers is None


async def test_states_that_come_after_the_end_is_known(backend: Backend) -> None:
    """Those who follow them get the end; where even that is not known, what ended the wait."""
    handle, seen = AsyncResult("t"), Seen()
    follower = _Follower(handle, [seen])
    error = BackendUnavailable("away")
    follower._on_error(error)
    assert (seen.reasons, seen.states) == ([error], [])
    await backend.mark_as_done("t", 1)
    await handle
    follower._on_error(error)
    follower._on_record(TaskMeta(task_id="t", status="STARTED"))
    assert seen.states == ["SUCCESS", "STARTED"]
    handle._on_record(TaskMeta(task_id="t", status="FAILURE"))  # the first final record wins
    assert handle.value == 1


def test_its_id_has_the_name_that_celery_gives_it() -> None:
    assert AsyncResult("t").task_id == "t"


async def test_a_wait_that_nobody_has_cannot_be_ended(backend: Backend) -> None:
    assert not end_with(AsyncResult("t"), BackendUnavailable("away"))


async def test_a_result_that_was_forgotten_is_not_given_again(backend: Backend) -> None:
    """Neither the record, nor what was made of it."""
    handle = AsyncResult[int]("t", type=int)
    for value in (1, 2):
        await backend.mark_as_done("t", value)
        assert await handle == value
        await handle.forget()
    child = AsyncResult[int]("child", parent=AsyncResult("parent"))
    await backend.mark_as_failure("parent", KeyError("above"))
    await backend.mark_as_failure("child", ValueError("because of that"))
    with pytest.raises(KeyError, match="above"):
        await child
    await child.forget()
    await backend.mark_as_done("parent", 1)
    child.parent = AsyncResult("parent")
    await backend.mark_as_failure("child", ValueError("its own"))
    with pytest.raises(ValueError, match="its own"):
        await child


async def test_what_was_read_elsewhere_ends_a_wait(backend: Backend) -> None:
    handle = AsyncResult("t")
    waiting = asyncio.ensure_future(handle.get(timeout=20))
    await waits_for(backend, 1)
    handle._table.discard(backend.task_key("t"), handle)  # type: ignore[union-attr]  # it is under another key now
    assert learn(handle, TaskMeta(task_id="t", status="SUCCESS", result=5))
    assert await waiting == 5


def test_a_handle_of_a_loop_that_is_over_can_be_awaited_again() -> None:
    backend = asyncresult.connect("memory://")
    handle = backend.result("t")

    async def listens() -> None:
        listen(handle, lambda *_: pytest.fail("of a loop that is closed"))
        await asyncio.sleep(0)

    async def reads() -> Any:
        waiting = asyncio.ensure_future(handle.get(timeout=20))
        await waits_for(backend, 1)
        await backend.mark_as_done("t", 5)
        return await waiting

    asyncio.run(listens())
    assert asyncio.run(reads()) == 5
    asyncio.run(backend.aclose())


async def test_looking_once_while_the_store_is_away() -> None:
    records = FakeRecords()
    backend = asyncresult.connect("memory://")
    backend.driver.records = records  # type: ignore[attr-defined]
    records.set_down(True)
    with pytest.raises(BackendUnavailable):
        await backend.result("t").get(timeout=0)
    records.set_down(False)
    await backend.aclose()


async def test_what_a_callback_for_messages_raises_ends_the_wait_with_it(backend: Backend) -> None:
    class Stop(BaseException):
        pass

    def stop(meta: TaskMeta) -> None:
        raise Stop

    waiting = asyncio.ensure_future(AsyncResult("t").get(timeout=20, on_message=stop))
    await waits_for(backend, 1)
    await backend.mark_as_started("t")
    with pytest.raises(Stop):
        await waiting


# -- the states of a set --------------------------------------------------------------------------------------


async def test_a_set_begins_with_what_is_known(backend: Backend) -> None:
    await backend.mark_as_done("known", 1)
    known = AsyncResult("known")
    await known
    stream = ResultSet([known, AsyncResult("t")]).updates(timeout=20)
    assert stream.dropped == 0
    handle, meta = await anext(stream)
    assert (handle, meta.status) == (known, "SUCCESS")
    await backend.mark_as_done("t", 2)
    assert [(handle.id, meta.status) async for handle, meta in stream][-1] == ("t", "SUCCESS")


@pytest.mark.parametrize(
    ("maxsize", "dropped", "states"),
    [(10, 0, ["STARTED", "PROGRESS", "SUCCESS"]), (2, 3, ["PROGRESS", "SUCCESS"])],
)
async def test_the_same_state_of_a_member_comes_once_and_the_oldest_are_dropped(
    backend: Backend, maxsize: int, dropped: int, states: list[str]
) -> None:
    member = AsyncResult("t")
    stream = ResultSet([member]).updates(timeout=20, maxsize=maxsize)
    assert (await anext(stream))[1].status == "PENDING"
    assert stream._feed is not None
    for state in ("STARTED", "STARTED", "STARTED", "PROGRESS", "PROGRESS"):
        stream._feed.put((member, TaskMeta(task_id="t", status=state)))
    assert stream.dropped == dropped
    await backend.mark_as_done("t", 1)
    assert [meta.status async for _, meta in stream] == states


async def test_a_member_that_cannot_be_observed_ends_when_the_others_have(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first ones are observed at once, and what they raise is raised."""
    refused: dict[str, Exception] = {"b": BackendClosed("closed meanwhile"), "c": RuntimeError("another loop")}

    def refusing(handle: Any, tag: Any) -> None:
        if handle.id in refused:
            raise refused[handle.id]
        observe(handle, tag)

    monkeypatch.setattr(streams, "observe", refusing)
    monkeypatch.setattr(streams, "LOOKS_AT_ONCE", 1)
    await backend.mark_as_done("a", 1)
    for id, error in (("b", BackendClosed), ("c", asyncresult.AsyncResultError)):
        found: list[str] = []
        with pytest.raises(error, match=str(refused[id])):
            async for handle, _ in ResultSet([AsyncResult("a"), AsyncResult(id)]).updates(timeout=20):
                found.append(handle.id)
        assert found == ["a"]
    with pytest.raises(BackendClosed, match="closed meanwhile"):
        await anext(ResultSet([AsyncResult("b"), AsyncResult("never")]).updates(timeout=1))


async def test_a_member_that_cannot_be_read_any_more(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_record(handle: Any) -> Any:
        raise BackendClosed("closed meanwhile")

    monkeypatch.setattr(streams, "read_record", read_record)
    with pytest.raises(BackendClosed, match="closed meanwhile"):
        await anext(ResultSet([AsyncResult("t")]).updates())
