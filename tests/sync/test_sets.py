"""Sets and groups of the blocking face."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import asyncresult
from asyncresult import BackendError, ResultTimeout, sync
from asyncresult.sync import (
    AsyncResult,
    Backend,
    GroupResult,
    ResultSet,
    connect,
    current_backend,
    denied_join_result,
    gather,
)
from asyncresult.sync.base import blocking
from tests.sync.waiting import FOREVER, when_waiting
from tests.tools.processes import wait_until


class TestSets:
    def test_join(self, backend: Backend) -> None:
        backend.mark_as_done("a", 1)
        inner = GroupResult("g", [AsyncResult("b"), AsyncResult("c")])
        results = ResultSet([AsyncResult("a"), inner])
        writer = when_waiting(backend, lambda: [backend.mark_as_done(id, id) for id in "bc"], 2)
        assert results.join(timeout=FOREVER) == [1, ["b", "c"]]
        writer.join()
        assert results.join_native() == results.get() == [1, ["b", "c"]]

    def test_the_first_failure(self, memory: Backend) -> None:
        memory.mark_as_failure("b", ValueError("no"))
        results = ResultSet([AsyncResult("a"), AsyncResult("b")])
        with pytest.raises(ValueError, match="no"):
            results.get(timeout=FOREVER)
        memory.mark_as_done("a", 1)
        assert [repr(value) for value in results.get(propagate=False)] == ["1", "ValueError('no')"]
        assert [repr(value) for value in results.get(return_exceptions=True)] == ["1", "ValueError('no')"]

    def test_time_is_up(self, memory: Backend) -> None:
        memory.mark_as_done("a", 1)
        with pytest.raises(ResultTimeout, match="1 of 2"):
            ResultSet([AsyncResult("a"), AsyncResult("b")]).get(timeout=0.01)

    def test_callbacks_are_called_in_this_thread(self, backend: Backend) -> None:
        calls: list[tuple[str, Any, int]] = []

        def note(kind: str) -> Callable[..., None]:
            return lambda *args: calls.append((kind, args, threading.get_ident()))

        def write() -> None:
            wait_until(lambda: calls, "on_interval was called")
            backend.mark_as_done("b", 2)
            backend.mark_as_done("a", 1)

        writer = when_waiting(backend, write, 2)
        values = ResultSet([AsyncResult("a"), AsyncResult("b")]).get(
            callback=note("value"), on_message=note("message"), on_interval=note("tick"), interval=0.001
        )
        writer.join()
        assert values == [1, 2]
        assert {thread for *_, thread in calls} == {threading.get_ident()}
        assert [args for kind, args, _ in calls if kind == "value"] == [("b", 2), ("a", 1)]
        assert [args[0]["result"] for kind, args, _ in calls if kind == "message"] == [2, 1]

    def test_one_look(self, backend: Backend) -> None:
        results = ResultSet([AsyncResult(id) for id in "abc"])
        assert results.waiting()
        backend.mark_as_done("a", 1)
        backend.mark_as_done("b", 2)
        assert results.completed_count() == 2
        backend.mark_as_failure("c", ValueError("no"))
        assert results.ready()
        assert results.failed()
        assert not results.successful()
        with pytest.raises(ValueError, match="no"):
            results.maybe_throw()
        seen: list[Any] = []
        results.maybe_reraise(propagate=False, callback=lambda *args: seen.append(args))
        assert [id for id, _ in seen] == ["a", "b", "c"]
        results.forget()
        assert not AsyncResult("a").exists()

    def test_members(self) -> None:
        a, b = AsyncResult("a"), AsyncResult("b")
        results: ResultSet[Any] = ResultSet([a])
        results.add(b)
        results.add(AsyncResult("b"))
        results.update([a, AsyncResult("c")])
        assert [str(result) for result in results] == ["a", "b", "c"]
        assert (results[0], results[1:], len(results)) == (a, [b, "c"], 3)
        results.remove("a")
        results.discard("a")
        with pytest.raises(KeyError):
            results.remove("a")
        assert "b" in results
        results.clear()
        assert results.get() == []
        with pytest.raises(TypeError):
            ResultSet([7])

    def test_wait(self, memory: Backend) -> None:
        a, b = AsyncResult("a"), AsyncResult("b")
        memory.mark_as_done("a", 1)
        assert sync.wait([a, b], return_when=sync.FIRST_COMPLETED) == ({a}, {b})
        assert ResultSet([a, b]).wait(timeout=0.01) == ({a}, {b})
        assert sync.wait([a, AsyncResult("a"), b], count=1) == ({a}, {b})

    def test_first_success_and_gather(self, memory: Backend) -> None:
        memory.mark_as_failure("a", ValueError("no"))
        memory.mark_as_done("b", 2)
        assert ResultSet([AsyncResult("a"), AsyncResult("b")]).first_success() == 2
        assert gather(AsyncResult("b"), AsyncResult("b"), timeout=FOREVER) == (2, 2)

    def test_a_saved_group(self, backend: Backend) -> None:
        group = GroupResult("g", [AsyncResult("a"), AsyncResult("b")], AsyncResult("p"))
        assert group.save() is group
        again = GroupResult.restore("g")
        assert again == group
        assert again.children == group.results
        group.delete(backend=backend)
        assert GroupResult.restore("g", backend) is None

    @pytest.mark.parametrize("face", [asyncresult, sync])
    def test_equal_groups_have_the_same_id_members_and_parent(self, face: Any) -> None:
        def group(id: str = "g", member: str = "a", parent: str = "p") -> Any:
            return face.GroupResult(id, [face.AsyncResult(member)], parent=face.AsyncResult(parent))

        assert group() == group() == "g"
        for other in (group(id="h"), group(member="b"), group(parent="q")):
            assert group() != other

    def test_forms(self) -> None:
        group = GroupResult("g", [AsyncResult("a")])
        assert (str(group), repr(group), bool(GroupResult("g"))) == ("g", "<GroupResult: g [a]>", True)
        assert group.as_list() == ["g", "a"]
        assert (group == "g", group == ResultSet([AsyncResult("a")]), hash(group)) == (True, True, hash("g"))
        assert group.supports_native_join
        assert ResultSet([]).supports_native_join is None

    def test_backends(self, memory: Backend) -> None:
        with connect("memory://other") as other:
            theirs = AsyncResult("a", backend=memory)
            other.mark_as_done("a", "other")
            memory.mark_as_done("a", "memory")
            assert theirs.backend == ResultSet([theirs]).backend == memory
            assert AsyncResult("a").backend == ResultSet([]).backend == current_backend() == other
            assert gather(theirs, AsyncResult("a"), AsyncResult("a", memory._backend)) == ("memory", "other", "memory")


class TestMembers:
    def test_the_app_is_that_of_the_first_member(self, memory: Backend) -> None:
        app = object()
        results = ResultSet([AsyncResult("a"), AsyncResult("b")])
        assert results.app is None
        results.app = app
        assert results.app is app
        assert ResultSet([]).app is None

    def test_taking_out(self, memory: Backend) -> None:
        results = ResultSet([AsyncResult("a"), AsyncResult("b")])
        results.discard("a")
        results.discard("a")
        assert repr(results) == "<ResultSet: [b]>"
        with pytest.raises(KeyError):
            results.remove("a")

    def test_inside_a_task_it_has_to_be_allowed(self, memory: Backend) -> None:
        pytest.importorskip("celery._state")
        memory.mark_as_done("a", 1)
        with denied_join_result():
            with pytest.raises(RuntimeError, match="within a task"):
                ResultSet([AsyncResult("a")]).get()
            assert ResultSet([AsyncResult("a")]).get(disable_sync_subtasks=False) == [1]

    def test_without_celery_nobody_is_inside_a_task(self, memory: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("asyncresult.sync.celery.loaded", lambda module, name: None)
        memory.mark_as_done("a", 1)
        with denied_join_result():
            assert ResultSet([AsyncResult("a")]).get() == [1]

    def test_records_of_members_as_they_end(self, memory: Backend) -> None:
        memory.mark_as_done("a", 1)
        seen: list[Any] = []
        found = dict(ResultSet([AsyncResult("a")]).iter_native(on_message=seen.append))
        assert found["a"]["result"] == 1
        assert [record["task_id"] for record in seen] == ["a"]

    def test_the_blocking_face_of_an_async_set(self, memory: Backend) -> None:
        inner = asyncresult.ResultSet([asyncresult.AsyncResult("a")])
        made = blocking(asyncresult.ResultSet([inner, asyncresult.AsyncResult("b")]))
        assert made == ResultSet([ResultSet([AsyncResult("a")]), AsyncResult("b")])
        with pytest.raises(TypeError, match="there is no blocking int"):
            blocking(5)

    def test_nobody_can_be_reached_who_revokes(self, memory: Backend) -> None:
        with pytest.raises(BackendError, match="nobody who runs tasks can be reached"):
            ResultSet([AsyncResult("a")]).revoke(wait=True, timeout=0.01)

    def test_a_failure_ends_a_join_whose_messages_are_wanted(self, memory: Backend) -> None:
        memory.mark_as_failure("a", ValueError("no"))
        seen: list[Any] = []
        with pytest.raises(ValueError, match="no"):
            ResultSet([AsyncResult("a"), AsyncResult("b")]).get(timeout=FOREVER, on_message=seen.append)
        assert "FAILURE" in [record["status"] for record in seen]

    def test_states_of_a_task(self, memory: Backend) -> None:
        memory.mark_as_done("a", 1)
        result = AsyncResult[Any]("a")
        with result.updates(timeout=FOREVER) as updates:
            assert [meta.status for meta in updates] == ["SUCCESS"]
            assert (updates.dropped, updates.last_id) == (0, None)
        assert result.get() == 1
        assert result.snapshot is not None
        assert result.snapshot.status == "SUCCESS"
