"""Joins over many results: how they end, and what they leave behind."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

import asyncresult
from asyncresult import (
    AsyncResult,
    Backend,
    BackendClosed,
    BackendUnavailable,
    EagerResult,
    GroupResult,
    ResultDecodeError,
    ResultSet,
    ResultTimeout,
    gather,
    wait,
)
from asyncresult._handles import joins
from asyncresult._handles.joins import READ_FIRST
from asyncresult._storage.rounds import READ_CHUNK
from asyncresult._storage.store import engine_of
from tests.backends.waiting import until, waits_for


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with asyncresult.connect("memory://") as backend:
        yield backend


def nobody_waits(backend: Backend) -> bool:
    return backend.stats().pending == backend.stats().subscribed == 0


async def test_a_member_known_to_have_failed_ends_the_join_at_once(backend: Backend) -> None:
    """Before anybody is asked about the others, and they are not subscribed for it."""
    await backend.mark_as_failure("failed", ValueError("known"))
    failed = AsyncResult("failed")
    await failed.meta()
    with pytest.raises(ValueError, match="known"):
        async with asyncio.timeout(5):
            await ResultSet([failed, AsyncResult("never")]).get()
    assert nobody_waits(backend)


async def test_the_callback_is_called_for_members_that_are_known(backend: Backend) -> None:
    await backend.mark_as_done("known", 1)
    known = AsyncResult("known")
    await known
    called: list[tuple[str, Any]] = []
    join = asyncio.ensure_future(
        ResultSet([known, AsyncResult("other")]).get(callback=lambda id, value: called.append((id, value)))
    )
    await waits_for(backend, 1)
    assert called == [("known", 1)]
    await backend.mark_as_done("other", 2)
    assert await join == [1, 2]
    assert called == [("known", 1), ("other", 2)]


async def test_closing_is_no_failure_of_a_task() -> None:
    async with asyncresult.connect("memory://") as backend:
        waiting = asyncio.ensure_future(backend.results(["failed", "never"]).first_success())
        await waits_for(backend, 2)
        await backend.mark_as_failure("failed", ValueError("no"))
        await backend.aclose()
        with pytest.raises(BackendClosed):
            await waiting


@pytest.mark.parametrize("raised", [ValueError("no"), asyncio.CancelledError(), StopIteration(1)])
async def test_a_callback_that_raises_ends_its_own_join_only(backend: Backend, raised: BaseException) -> None:
    def callback(id: str, value: object) -> None:
        raise raised

    elsewhere = asyncio.ensure_future(AsyncResult("t").get())
    same_key = asyncio.ensure_future(ResultSet([AsyncResult("t"), AsyncResult("u")]).get())
    join = asyncio.ensure_future(ResultSet([AsyncResult("t")]).get(callback=callback))
    await waits_for(backend, 2)
    await backend.mark_as_done("t", 1)
    await backend.mark_as_done("u", 2)
    assert await elsewhere == 1 and await same_key == [1, 2]
    await asyncio.wait([join])
    if isinstance(raised, asyncio.CancelledError):
        assert join.cancelled()
    else:
        assert isinstance(join.exception(), ValueError | RuntimeError)


@pytest.mark.parametrize("count", [2, READ_FIRST, READ_CHUNK + 1, 3 * READ_CHUNK])
@pytest.mark.parametrize("ticks", range(5))
async def test_closing_the_backend_ends_a_join_of_any_size(count: int, ticks: int) -> None:
    """In each phase of it; stored results, so that one chunk is read behind the other."""
    async with asyncresult.connect("memory://") as backend:
        ids = [f"t{n}" for n in range(count)]
        await asyncio.gather(*(backend.mark_as_done(id, 1) for id in ids[:-1]))
        join = asyncio.ensure_future(backend.results(ids).get())
        for _ in range(ticks):
            await asyncio.sleep(0)
        await backend.aclose()
        with pytest.raises(BackendClosed):
            async with asyncio.timeout(5):
                await join


@pytest.mark.parametrize("count", [1, READ_FIRST])
async def test_a_join_that_cannot_begin_waits_for_nobody(backend: Backend, count: int) -> None:
    async with asyncresult.connect("memory://closed") as closed:
        pass
    results = ResultSet([*backend.results([f"t{n}" for n in range(count)]), closed.result("x")])
    with pytest.raises(BackendClosed):
        await results
    with pytest.raises(BackendClosed):
        results.as_completed()
    with pytest.raises(BackendClosed):
        results.then(print)
    with pytest.raises(TypeError):
        backend.results(["a", "b"]).then("not callable")  # type: ignore[call-overload]
    await until(lambda: nobody_waits(backend))


@pytest.mark.parametrize("failing", [0, 1])
async def test_a_read_that_fails_leaves_the_rest_to_the_table(
    backend: Backend, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which reads again for as long as it takes: an outage does not end a wait."""
    ids = [f"t{n}" for n in range(2 * READ_CHUNK)]
    await asyncio.gather(*(backend.mark_as_done(id, 1) for id in ids))
    engine = engine_of(backend)
    read_many = engine.read_many
    reads: list[int] = []

    def fails_once(keys: Sequence[bytes]) -> asyncio.Future[list[bytes | None]]:
        answer = read_many(keys)
        reads.append(len(keys))
        if len(reads) == failing + 1:
            answer = engine.loop.create_future()
            answer.set_exception(BackendUnavailable("down"))
        return answer

    monkeypatch.setattr(engine, "read_many", fails_once)
    async with asyncio.timeout(20):
        assert await backend.results(ids) == [1] * len(ids)
    assert len(reads) == failing + 1


async def test_members_of_a_join_are_those_of_its_beginning(backend: Backend) -> None:
    results = backend.results(["a", "b"])
    join = asyncio.ensure_future(results.get())
    await waits_for(backend, 2)
    results.add(AsyncResult("never"))
    results.remove("a")
    await asyncio.gather(*(backend.mark_as_done(id, id) for id in "ab"))
    assert await join == ["a", "b"]


async def test_an_unreadable_member_costs_its_own_place_only(backend: Backend) -> None:
    await engine_of(backend).put(backend.task_key("bad"), b"garbage", None)
    await backend.mark_as_done("good", 1)
    await backend.mark_as_done("text", "no number")
    results = ResultSet[Any]([AsyncResult("bad"), AsyncResult("good"), AsyncResult("text", type=int)])
    for timeout in (None, 0):
        bad, good, text = await results.get(timeout, return_exceptions=True)
        assert isinstance(bad, ResultDecodeError) and good == 1 and isinstance(text, ResultDecodeError)
    assert await results.first_success() == 1
    for timeout in (None, 0):
        with pytest.raises(ResultDecodeError):
            await results.get(timeout)


# -- tasks before these -------------------------------------------------------------------------------------------


async def test_a_failed_task_before_ends_every_form_of_waiting(backend: Backend) -> None:
    """The group was never sent: its members never get a record. And what is nested in others is waited for alike."""

    def group() -> GroupResult[Any]:
        return GroupResult("g", backend.results(["x", "y"]), parent=AsyncResult("task", parent=AsyncResult("first")))

    def tail() -> AsyncResult[Any]:
        header = GroupResult("h", [AsyncResult("other"), AsyncResult("m", parent=AsyncResult("first"))])
        return AsyncResult("tail", parent=AsyncResult("body", parent=header))

    async def first_of(stream: Any) -> Any:
        return (await anext(stream)).value

    async def called(handle: AsyncResult[Any]) -> Any:
        future = asyncio.get_running_loop().create_future()
        handle.add_done_callback(future.set_result)
        return (await future).value

    forms = {
        "await a group": group().get(),
        "await a tail": tail().get(),
        "gather": gather(tail(), AsyncResult("never")),
        "a set of groups": ResultSet([group(), AsyncResult("never")]).get(),
        "many": ResultSet([*backend.results([f"t{n}" for n in range(READ_FIRST)]), group()]).get(),
        "then": group().then(list),
        "then of a tail": tail().then(print),
        "as_future": tail().as_future(),
        "done callback": called(tail()),
        "as_completed": first_of(group().as_completed()),
        "a set of one": first_of(ResultSet([tail()]).as_completed()),
        "updates": tail().until("SUCCESS"),
        "updates of a set": anext(ResultSet([tail()]).updates()),
    }
    waiting = {name: asyncio.ensure_future(form) for name, form in forms.items()}
    exceptions = asyncio.ensure_future(group().get(return_exceptions=True))
    single = asyncio.ensure_future(tail().get(propagate=False))
    every = asyncio.ensure_future(group().first_success())
    alone = asyncio.ensure_future(tail().get(follow_parents=False))
    await asyncio.sleep(0.05)
    assert [name for name, task in waiting.items() if task.done() and "updates" not in name] == []
    waiting["updates of a set"] = asyncio.ensure_future(_drain(ResultSet([tail()]).updates()))
    await asyncio.sleep(0.01)
    await backend.mark_as_failure("first", ValueError("boom"))
    async with asyncio.timeout(5):
        ends = await asyncio.gather(*waiting.values(), return_exceptions=True)
        assert {name: type(end) for name, end in zip(waiting, ends, strict=True)} == dict.fromkeys(waiting, ValueError)
        assert [type(value) for value in await exceptions] == [ValueError] * 2
        assert isinstance(await single, ValueError)
        with pytest.raises(ExceptionGroup):
            await every
    assert not alone.done()
    alone.cancel()
    waiting.clear()
    del ends, forms  # with their tracebacks they hold streams that were left
    # And late, when all of it is stored; also as a mere look.
    for look in (tail().get(), group().get(), tail().get(0), group().get(0), ResultSet([tail()]).get(0)):
        with pytest.raises(ValueError, match="boom"):
            await look
    done, pending = await wait([tail()], timeout=1)
    assert len(done) == 1 and not pending
    await until(lambda: nobody_waits(backend))


async def _drain(stream: Any) -> None:
    async for _ in stream:
        pass


@pytest.mark.parametrize("ends", ["stored", "unreadable", "cancelled"])
async def test_a_task_that_is_over_waits_for_none_before_it(backend: Backend, ends: str) -> None:
    tail = AsyncResult[int]("tail", parent=AsyncResult("before"))
    waiting = [asyncio.ensure_future(tail.get()) for _ in range(2)]
    await waits_for(backend, 2)
    if ends == "stored":
        await backend.mark_as_done("tail", 1)
    elif ends == "unreadable":
        await engine_of(backend).put(backend.task_key("tail"), b"garbage", None)
    else:
        for one in waiting:
            one.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting, return_exceptions=True)
    await until(lambda: nobody_waits(backend))


async def test_members_that_were_not_begun_yet_end_with_the_task_before_them(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group was never sent, and its members are listened for in turns of the loop."""
    monkeypatch.setattr(joins, "AT_ONCE", 10)
    before = AsyncResult[int]("before")
    await backend.mark_as_failure("before", ValueError("first"))
    members = backend.results([str(number) for number in range(2 * READ_FIRST)])
    with pytest.raises(ValueError, match="first"):
        async with asyncio.timeout(5):
            await GroupResult("g", members, parent=before).get()
    await until(lambda: nobody_waits(backend))


async def test_the_first_of_several_failures_is_the_reason_early_and_late(backend: Backend) -> None:
    """Celery stores a ChordError for the body behind the failure of the header."""

    def tail() -> AsyncResult[Any]:
        header = GroupResult("h", backend.results(["one", "two"]))
        return AsyncResult("tail", parent=AsyncResult("body", parent=header))

    early = asyncio.ensure_future(tail().get())
    await waits_for(backend, 4)
    await backend.mark_as_failure("two", KeyError("two"))
    await backend.mark_as_failure("body", RuntimeError("because of two"))
    for waiting in (early, tail().get(), tail().get(0)):
        with pytest.raises(KeyError, match="two"):
            await waiting


async def test_a_member_that_has_its_own_record_keeps_it(backend: Backend) -> None:
    await backend.mark_as_failure("before", ValueError("tried again by hand"))
    await backend.mark_as_done("x", 1)
    assert await AsyncResult("x", parent=AsyncResult("before")) == 1
    assert await GroupResult("g", [AsyncResult("x")], parent=AsyncResult("before")) == [1]


# -- how it grows ------------------------------------------------------------------------------------------------


async def test_adding_and_awaiting_are_linear(backend: Backend) -> None:
    """Twenty thousand would take minutes if each had to be searched for among the others."""
    async with asyncio.timeout(20):
        results = ResultSet[Any]([])
        results.update(AsyncResult(f"t{n}") for n in range(20_000))
        results.add(AsyncResult("t7"))
        assert len(results) == 20_000
        handle = AsyncResult("one")
        waiting = [asyncio.ensure_future(handle.get()) for _ in range(20_000)]
        await waits_for(backend, 1)
        for task in waiting[:10_000]:
            task.cancel()
        await asyncio.sleep(0)
        await backend.mark_as_done("one", 1)
        assert await asyncio.gather(*waiting[10_000:]) == [1] * 10_000


async def test_taking_members_out_under_a_loop_is_linear(backend: Backend) -> None:
    """Thirty thousand would take most of a minute if all that are left were looked at for each."""
    async with asyncio.timeout(20):
        results = backend.results([f"t{n}" for n in range(30_000)])
        stream = results.as_completed()
        for handle in results.results.copy():
            results.remove(handle)
        await asyncio.sleep(0.01)
        assert [handle async for handle in stream] == []


async def test_a_set_whose_list_was_changed_directly_still_knows_its_members(backend: Backend) -> None:
    results = backend.results(["a"])
    results.add(AsyncResult("b"))
    results.results.append(AsyncResult("c"))
    results.add(AsyncResult("c"))
    results.discard("b")
    results.add(AsyncResult("b"))
    assert [handle.id for handle in results] == ["a", "c", "b"]


@pytest.mark.parametrize("form", ["a saved group", "children"])
async def test_many_handles_are_made_beside_the_loop(
    backend: Backend, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred thousand take half a second to make. Few are made at once: a thread costs more than they do."""
    makers: list[bool] = []
    revive = backend._revive

    def watched(form: Any) -> Any:
        makers.append(threading.current_thread() is threading.main_thread())
        return revive(form)

    monkeypatch.setattr(backend, "_revive", watched)
    for count in (10, 3000):
        forms = [[[f"t{n}", None], None] for n in range(count)]
        if form == "children":
            await backend.store_result(f"task{count}", None, "SUCCESS", request=_Sent(forms))
            made: Any = await AsyncResult(f"task{count}").children()
        else:
            await engine_of(backend).put(backend.group_key("g"), backend.codec.encode_group((("g", None), forms)), None)
            made = await GroupResult.restore("g")
        assert len(made) == count and made[-1].id == f"t{count - 1}"
        assert set(makers) == {count == 10}
        makers.clear()


class _Sent:
    """A request whose task has sent others."""

    def __init__(self, forms: list[Any]) -> None:
        self.children = [_Child(form) for form in forms]


class _Child:
    def __init__(self, form: Any) -> None:
        self.form = form

    def as_tuple(self) -> Any:
        return self.form


async def test_a_join_of_very_many_begins_and_ends_in_turns_of_the_loop(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joins, "AT_ONCE", 100)
    handles = [AsyncResult[int](str(number)) for number in range(5 * READ_CHUNK)]
    pending = [0]

    async def follow(aim: int) -> None:
        while pending[-1] != aim:
            await asyncio.sleep(0)
            pending.append(backend.stats().pending)

    async with asyncio.timeout(20):
        waiting = asyncio.ensure_future(ResultSet(handles).get())
        await follow(len(handles))
        waiting.cancel()
        await asyncio.wait([waiting])
        await follow(0)
    # Those of the first read, which tells that most are not stored, may come at once.
    assert max(abs(a - b) for a, b in itertools.pairwise(pending)) <= READ_CHUNK + 100
    some = [EagerResult(handle.id, number) for number, handle in enumerate(handles[:250])]
    assert await ResultSet(some).get() == list(range(250))


@pytest.mark.parametrize("turns", [1, 20, 40])
async def test_a_join_that_is_given_up_or_closed_while_it_begins(turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves nothing behind, and ends."""
    monkeypatch.setattr(joins, "AT_ONCE", 100)
    async with asyncio.timeout(20):
        for end in ("cancel", "aclose"):
            async with asyncresult.connect("memory://") as backend:
                handles = [AsyncResult[int](str(number)) for number in range(3 * READ_CHUNK)]
                waiting = asyncio.ensure_future(ResultSet(handles).get())
                for _ in range(turns):
                    await asyncio.sleep(0)
                if end == "cancel":
                    waiting.cancel()
                    await asyncio.wait([waiting])
                    while backend.stats().pending:
                        await asyncio.sleep(0)
                    for _ in range(100):
                        await asyncio.sleep(0)
                    assert not backend.stats().pending
                else:
                    await backend.aclose()
                    with pytest.raises(BackendClosed):
                        await waiting


async def test_a_member_of_very_many_that_somebody_waits_for_already(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joins, "AT_ONCE", 10)
    results = backend.results([str(number) for number in range(2 * READ_FIRST)])
    alone = asyncio.ensure_future(results[READ_FIRST].get())
    await waits_for(backend, 1)
    join = asyncio.ensure_future(results.get())
    await waits_for(backend, 2 * READ_FIRST)
    for handle in results:
        await backend.mark_as_done(handle.id, 1)
    async with asyncio.timeout(20):
        assert await join == [1] * 2 * READ_FIRST
    assert await alone == 1


async def test_a_message_feed_that_is_given_up_leaves_nothing(backend: Backend) -> None:
    for options in ({"on_message": print}, {"follow_parents": False}):
        with pytest.raises(ResultTimeout):
            await AsyncResult[None]("t").get(timeout=0.01, **options)
        assert not backend.stats().pending


async def test_a_look_calls_the_callback_with_the_failures_of_its_members(backend: Backend) -> None:
    await backend.mark_as_done("done", 1)
    await backend.mark_as_failure("failed", ValueError("no"))
    called: dict[str, Any] = {}
    await backend.results(["done", "failed"]).get(0, propagate=False, callback=called.__setitem__)
    assert called.keys() == {"done", "failed"}
    assert called["done"] == 1 and isinstance(called["failed"], ValueError)


@pytest.mark.parametrize(("count", "named"), [(3, "0, 1, 2"), (4, "0, 1, 2, …")])
async def test_a_join_that_takes_too_long_names_some_of_its_tasks(backend: Backend, count: int, named: str) -> None:
    for timeout in (0, 0.01):
        with pytest.raises(ResultTimeout) as caught:
            await backend.results([f"{n}" for n in range(count)]).get(timeout)
        assert str(caught.value) == f"{count} of {count} tasks did not end within {timeout} s: {named}"


async def test_a_failure_that_is_known_ends_what_comes_behind(backend: Backend) -> None:
    """Whether it was known before the wait or comes under it; with messages, none of which comes."""
    await backend.mark_as_failure("early", ValueError("early"))
    early, late = AsyncResult[Any]("early"), AsyncResult[Any]("late")
    await early.meta()
    waiting = {
        before.id: [
            asyncio.ensure_future(AsyncResult[Any](f"behind {before.id}", parent=before).get(on_message=on_message))
            for on_message in (None, print)
        ]
        for before in (early, late)
    }
    async with asyncio.timeout(5):
        ends = await asyncio.gather(*waiting["early"], return_exceptions=True)
        await waits_for(backend, 2)
        await backend.mark_as_failure("late", ValueError("late"))
        ends += await asyncio.gather(*waiting["late"], return_exceptions=True)
    assert [repr(end) for end in ends] == ["ValueError('early')"] * 2 + ["ValueError('late')"] * 2
    await until(lambda: nobody_waits(backend))
