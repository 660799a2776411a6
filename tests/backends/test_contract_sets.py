"""The contract of streams of completion, of sets, groups and trees, over every backend."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import asyncresult
from asyncresult import (
    AsyncResult,
    Backend,
    CycleError,
    EagerResult,
    GroupResult,
    NotReady,
    ResultDecodeError,
    ResultSet,
    ResultTimeout,
    TaskRevoked,
    result_from_tuple,
)
from asyncresult._storage.store import engine_of

from .conftest import POLLED, ROWS, whole_records
from .contract import fail, ids, store
from .waiting import until, waits_for

# -- streams of completion ------------------------------------------------------------------------------------------


async def test_as_completed_gives_the_first_before_the_last_ends(backend: Backend) -> None:
    seen: list[str] = []
    results = backend.results(ids(3))
    async with results.as_completed(timeout=10) as completed:
        await waits_for(backend, 3)
        for n in (2, 0, 1):
            await backend.mark_as_done(f"t{n}", n)
            handle = await anext(completed)
            assert handle.value == n
            seen.append(handle.id)
    assert seen == ["t2", "t0", "t1"]


async def test_add_while_iterating(backend: Backend) -> None:
    await store(backend, 3)
    results = backend.results(["t0"])
    seen = []
    async for handle in results.as_completed():
        seen.append(handle.value)
        if handle.id == "t0":
            results.update([backend.result("t1"), backend.result("t2")])
    assert sorted(seen) == [0, 1, 2]


async def test_as_completed_gives_failures_as_handles(backend: Backend) -> None:
    await fail(backend, "bad")
    async for handle in asyncresult.as_completed([backend.result("bad")]):
        assert isinstance(handle.exception, ValueError)


async def test_leaving_as_completed_early(backend: Backend) -> None:
    await store(backend, 1)
    await (known := backend.result("t0"))
    with pytest.raises(ResultTimeout, match="1 of 2"):
        async for _ in asyncresult.as_completed([known, backend.result("never")], timeout=0.05):
            pass
    async for _ in backend.results(["t0", "never"]).as_completed():
        break
    gc.collect()
    await until(lambda: backend.stats().pending == 0)


async def test_wait(backend: Backend) -> None:
    handles = [backend.result(id) for id in ids(3)]
    await backend.mark_as_done("t1", 1)
    done, pending = await asyncresult.wait(handles, return_when=asyncresult.FIRST_COMPLETED)
    assert (done, pending) == ({"t1"}, {"t0", "t2"})
    done, pending = await asyncresult.wait(handles, timeout=0.02)
    assert (done, pending) == ({"t1"}, {"t0", "t2"}), "a timeout is no error here"
    await fail(backend, "t0")
    done, pending = await asyncresult.wait(handles, return_when=asyncresult.FIRST_EXCEPTION)
    assert pending == {"t2"}
    assert (await asyncresult.wait(handles, count=2))[0] == {"t0", "t1"}
    await backend.mark_as_done("t2", 2)
    assert await asyncresult.wait(handles) == ({"t0", "t1", "t2"}, set())
    with pytest.raises(ValueError, match="return_when"):
        await asyncresult.wait(handles, return_when="SOME")  # type: ignore[arg-type]


async def test_first_success(backend: Backend) -> None:
    await fail(backend, "t0", ValueError("zero"))
    await backend.mark_as_done("t1", 1)
    assert await backend.results(ids(3)).first_success(timeout=20) == 1
    await fail(backend, "t2", ValueError("two"))
    with pytest.raises(ExceptionGroup) as caught:
        await backend.results(["t0", "t2"]).first_success()
    assert sorted(str(error) for error in caught.value.exceptions) == ["two", "zero"]
    with pytest.raises(ValueError, match="no results"):
        await ResultSet([]).first_success()
    await until(lambda: backend.stats().pending == 0)


@pytest.mark.not_over(*POLLED, reason="of states that follow fast, the latest is seen")
async def test_updates_of_a_set(backend: Backend) -> None:
    await backend.mark_as_done("t0", 0)
    seen: list[tuple[str, str]] = []
    async with backend.results(ids(3)).updates(timeout=10) as updates:
        async for handle, meta in updates:
            seen.append((handle.id, meta.status))
            if len(seen) == 3:
                await waits_for(backend, 2)  # what is published before is not promised
                await backend.mark_as_started("t1")
                await backend.mark_as_done("t1", 1)
                await fail(backend, "t2")
    assert sorted(seen[:3]) == [("t0", "SUCCESS"), ("t1", "PENDING"), ("t2", "PENDING")]
    assert [s for s in seen[3:] if s[0] == "t1"] == [("t1", "STARTED"), ("t1", "SUCCESS")]
    assert seen.count(("t2", "FAILURE")) == 1 and len(seen) == 6
    assert backend.stats().pending == 0


# -- predicates -----------------------------------------------------------------------------------------------------


async def test_counts_and_predicates_never_raise_what_a_task_raised(backend: Backend) -> None:
    results = backend.results(ids(3))
    assert await results.waiting() and not await results.ready()
    await store(backend, 2)
    await fail(backend, "t2")
    assert await results.ready() and not await results.waiting()
    assert await results.failed() and not await results.successful()
    assert await results.completed_count() == 2
    with pytest.raises(ValueError, match="boom"):
        await results.maybe_throw()
    seen: list[Any] = []
    await results.maybe_throw(callback=lambda id, value: seen.append(id), propagate=False)
    assert seen == ids(3)
    assert await ResultSet([]).ready() and await ResultSet([]).successful()


async def test_forget(backend: Backend) -> None:
    await store(backend, 2)
    results = backend.results(ids(2))
    await results
    await results.forget()
    assert not any([await backend.result(id).exists() for id in ids(2)])
    assert not results[0].done()


# -- a set is a sequence --------------------------------------------------------------------------------------------


async def test_members(backend: Backend) -> None:
    results = backend.results(ids(2))
    results.add(AsyncResult("t1"))
    results.add(AsyncResult("t2"))
    assert len(results) == 3 and results[2].id == "t2" and list(results[:2]) == ids(2)
    assert "t1" in results and AsyncResult("t2") in results
    results.discard("nope")
    results.discard("t0")
    results.remove(AsyncResult("t1"))
    assert [handle.id for handle in results] == ["t2"]
    with pytest.raises(KeyError):
        results.remove("t1")
    results.clear()
    assert not results and results.supports_native_join is None
    assert backend.results(ids(2)) == backend.results(ids(2)) != backend.results(ids(3))
    with pytest.raises(TypeError, match="expected a result, not"):
        ResultSet(["t0"])


async def test_then_on_a_set(backend: Backend) -> None:
    promise = backend.results(ids(3)).then(sum)
    await waits_for(backend, 3)
    await store(backend, 3)
    assert await promise == 3
    assert await ResultSet[int]([]).then(len) == 0
    await fail(backend, "bad")
    assert await backend.results(["t0", "bad", "never"]).catch(str) == "boom"
    await until(lambda: backend.stats().pending == 0)


# -- groups ---------------------------------------------------------------------------------------------------------


@whole_records
async def test_groups_are_saved_and_restored_with_parents(
    backend: Backend, make_backend: Callable[..., Backend]
) -> None:
    inner = GroupResult("inner", [AsyncResult("b")])
    group = GroupResult[Any]("outer", [AsyncResult("a"), inner], parent=AsyncResult("above"))
    assert await group.save() is group
    restored = await GroupResult.restore("outer", make_backend())
    assert restored == group and restored is not None
    assert restored.parent == AsyncResult("above") and isinstance(restored.results[1], GroupResult)
    assert restored.as_tuple() == group.as_tuple()
    await group.delete()
    assert await GroupResult.restore("outer") is None


@pytest.mark.not_over(*ROWS, reason="rows of an SQL table cannot be any bytes")
async def test_a_broken_group(backend: Backend) -> None:
    await engine_of(backend).put(backend.group_key("bad"), b'{"result": 3}', None)
    with pytest.raises(ResultDecodeError):
        await GroupResult.restore("bad")


@whole_records
async def test_a_saved_group_that_says_it_is_another_is_refused(backend: Backend) -> None:
    """Else its delete() would delete the other, and its save() replace it."""
    other = await GroupResult("other", [AsyncResult("a")]).save()
    codec = backend.codec
    forged: dict[str, tuple[Any, str]] = {
        "forged": (other.as_tuple(), "what is saved as group forged is another one, "),
        "no-group": ([[{"id": "no-group"}, None], []], "the saved group no-group is not in Celery's form: "),
    }
    for id, (form, words) in forged.items():
        await engine_of(backend).put(backend.group_key(id), codec.encode_group(form), None)
        with pytest.raises(ResultDecodeError, match=words):
            await GroupResult.restore(id)
    assert await GroupResult.restore("other") == other


def test_forms_of_a_group() -> None:
    group = GroupResult[Any]("g", [AsyncResult("a"), AsyncResult("b")], parent=AsyncResult("p"))
    assert group == "g" and hash(group) == hash("g") and group.children == ["a", "b"]
    assert bool(GroupResult("empty")) and len(GroupResult().id) == 36
    assert group.as_list() == ["g", "a", "b", "p"]
    assert AsyncResult("body", parent=group).as_list() == ["body", "g", "a", "b", "p"]
    for twin in (copy.copy(group), pickle.loads(pickle.dumps(group))):
        assert twin == group and twin.parent == "p"
    assert str(group) == "g" and "a, b" in repr(group)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ((("a", None), None), AsyncResult("a")),
        ([["a", [["p", None], None]], None], AsyncResult("a", parent=AsyncResult("p"))),
        (["a", None], AsyncResult("a")),
        ([["g", None], [[["a", None], None]]], GroupResult("g", [AsyncResult("a")])),
        ([["g", [["p", None], None]], []], GroupResult("g", [], parent=AsyncResult("p"))),
        (AsyncResult("a"), AsyncResult("a")),
    ],
)
def test_result_from_tuple(form: Any, expected: Any) -> None:
    made = result_from_tuple(form)
    assert made == expected and made.parent == expected.parent
    assert result_from_tuple(made.as_tuple()) == expected


@pytest.mark.parametrize("form", [None, "a", 3, [], ["a"], [["a"], None], [[1, None], None], [["a", None], 3]])
def test_what_is_no_tuple_form(form: Any) -> None:
    with pytest.raises(ValueError, match="tuple form"):
        result_from_tuple(form)


# -- trees ----------------------------------------------------------------------------------------------------------


async def plant(backend: Backend, tree: dict[str, list[str]]) -> None:
    """Store SUCCESS for each node, with its children."""
    for id, children in tree.items():

        class Request:
            pass

        request = Request()
        request.children = [AsyncResult[Any](child) for child in children]  # type: ignore[attr-defined]
        await backend.mark_as_done(id, f"value of {id}", request=request)


@whole_records
async def test_walks_over_a_tree(backend: Backend) -> None:
    await plant(backend, {"root": ["left", "right"], "left": ["leaf"], "right": ["right"], "leaf": []})
    root = AsyncResult[str]("root")
    order = [(node.id, value) async for node, value in root.collect()]
    assert order == [(id, f"value of {id}") for id in ("root", "left", "right", "leaf")]
    assert await root.get_leaf() == "value of leaf"
    assert [(parent and parent.id, node.id) async for parent, node in root.iterdeps()] == [
        (None, "root"),
        ("root", "left"),
        ("root", "right"),
        ("left", "leaf"),
    ]
    graph = await root.graph()
    assert len(graph) == 4 and '"root" -> "left"' in graph.to_dot()
    assert [node.id for node in graph.topsort()].index("leaf") < [node.id for node in graph.topsort()].index("root")


@whole_records
async def test_a_tree_that_is_not_complete(backend: Backend) -> None:
    await plant(backend, {"root": ["running"]})
    root = AsyncResult[str]("root")
    with pytest.raises(NotReady, match="running"):
        await root.build_graph()
    assert len(await root.build_graph(intermediate=True)) == 2
    with pytest.raises(ResultTimeout):
        await root.get_leaf(timeout=0.05)


@whole_records
async def test_a_cycle_among_children_is_walked_once(backend: Backend) -> None:
    await plant(backend, {"a": ["b", "c"], "b": ["a"], "c": []})
    assert [node.id async for node, _ in AsyncResult[str]("a").collect()] == ["a", "b", "c"]
    graph = await AsyncResult[str]("a").build_graph()
    with pytest.raises(CycleError):
        graph.topsort()


async def test_a_set_without_time_looks_once(backend: Backend) -> None:
    await store(backend, 2)
    done, waiting = await backend.results(ids(3)).wait(timeout=0)
    assert (sorted(handle.id for handle in done), [handle.id for handle in waiting]) == (["t0", "t1"], ["t2"])
    assert await backend.results(["t2", "t1"]).first_success(timeout=0) == 1
    seen: list[Any] = []
    with pytest.raises(ResultTimeout):
        async for handle in backend.results(ids(3)).as_completed(timeout=0):
            seen.append(handle.value)
    assert sorted(seen) == [0, 1]
    states = []
    with pytest.raises(ResultTimeout):
        async for handle, meta in backend.results(ids(3)).updates(timeout=0):
            states.append((handle.id, meta.status))
    assert sorted(states) == [("t0", "SUCCESS"), ("t1", "SUCCESS"), ("t2", "PENDING")]
    with pytest.raises(ResultTimeout):
        await backend.results(ids(3)).get(timeout=0)
    with pytest.raises(ValueError, match="NaN"):
        await backend.results(ids(3)).get(timeout=float("nan"))
    await until(lambda: backend.stats().pending == 0)


# -- results that are known already ---------------------------------------------------------------------------------


async def test_eager_results() -> None:
    done = EagerResult[int]("e", 42, "SUCCESS", name="app.add")
    assert done.done() and done.value == 42 and await done == 42 and await done.get(timeout=0) == 42
    assert (await done.state(), await done.ready(), await done.exists(), await done.name()) == (
        "SUCCESS",
        True,
        True,
        "app.add",
    )
    failed = EagerResult[int]("f", ValueError("boom"), "FAILURE", "Traceback …")
    assert isinstance(failed.exception, ValueError) and await failed.traceback() == "Traceback …"
    with pytest.raises(ValueError, match="boom"):
        await failed
    assert await failed.catch(str) == "boom"
    assert isinstance(await failed.get(propagate=False), ValueError)
    assert await EagerResult[Any]("r", None, "RETRY") is None
    assert await ResultSet([done, EagerResult("g", 1)]) == [42, 1]
    for twin in (copy.copy(done), pickle.loads(pickle.dumps(done))):
        assert twin == done and twin.value == 42
    await done.revoke()
    assert await done.state() == "REVOKED"
    with pytest.raises(TaskRevoked):
        await done
    with pytest.raises(TypeError):
        EagerResult("x", "not an exception", "FAILURE")
