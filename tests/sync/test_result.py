"""The blocking face: one handle, sets, groups, streams, executors; threads, forks and the end of the process."""

from __future__ import annotations

import asyncio
import copy
import inspect
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import asyncresult
from asyncresult import (
    BackendClosed,
    DependencyGraph,
    NotReady,
    ResultTimeout,
    TaskRevoked,
    _portal,
    sync,
)
from asyncresult.sync import (
    AsyncResult,
    Backend,
    EagerResult,
    Executor,
    GroupResult,
    ResultSet,
    as_completed,
    connect,
    current_backend,
    gather,
    result_from_tuple,
)
from tests.tools.processes import wait_until
from tests.tools.servers import RedisServer

ROOT = Path(__file__).parents[1]
FOREVER = 20.0  # seconds: more than any of these waits takes


@pytest.fixture(autouse=True)
def portal(no_leaks: None) -> Generator[None]:
    yield
    _portal.stop()


@pytest.fixture(autouse=True)
def no_celery_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process without Celery: another test's app would be the default backend."""
    if (state := sys.modules.get("celery._state")) is not None:
        monkeypatch.setattr(state, "default_app", None)
        monkeypatch.setattr(state._tls, "current_app", None)


@pytest.fixture(params=["memory", "redis"])
def backend(request: pytest.FixtureRequest, portal: None) -> Generator[Backend]:
    url = "memory://" if request.param == "memory" else request.getfixturevalue("redis_url")
    with connect(url) as entered:
        yield entered


@pytest.fixture
def memory(portal: None) -> Generator[Backend]:
    with connect("memory://") as entered:
        yield entered


def when_waiting(backend: Backend, act: Callable[[], object], count: int = 1) -> threading.Thread:
    """A thread that acts when ``count`` tasks are waited for."""

    def run() -> None:
        wait_until(lambda: backend.stats().subscribed >= count, "somebody waits", interval=0.001)
        act()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


class TestGet:
    def test_a_known_value(self, backend: Backend) -> None:
        backend.mark_as_done("t", [1, 2])
        assert AsyncResult("t").get(timeout=FOREVER) == [1, 2]

    def test_a_value_that_comes(self, backend: Backend) -> None:
        writer = when_waiting(backend, lambda: backend.mark_as_done("t", 42))
        assert AsyncResult("t").wait(FOREVER) == 42
        writer.join()

    def test_a_failure(self, backend: Backend) -> None:
        backend.mark_as_failure("t", ValueError("no"))
        result = AsyncResult("t")
        with pytest.raises(ValueError, match="no"):
            result.get()
        assert isinstance(result.get(propagate=False), ValueError)
        assert result.failed()
        assert not result.successful()

    def test_time_is_up(self, backend: Backend) -> None:
        result = AsyncResult("t")
        for timeout in (0, 0.01):
            with pytest.raises(result.TimeoutError) as caught:
                result.get(timeout=timeout)
            assert caught.value.timeout == timeout
        wait_until(lambda: backend.stats().pending == 0, "nobody waits any more")

    def test_ctrl_c(self, backend: Backend) -> None:
        interrupter = when_waiting(backend, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            AsyncResult("t").get()
        interrupter.join()
        wait_until(lambda: backend.stats().pending == 0, "nobody waits any more")

    def test_a_parent_that_failed(self, memory: Backend) -> None:
        memory.mark_as_failure("above", KeyError("gone"))
        below = AsyncResult("below", parent=AsyncResult("above"))
        with pytest.raises(KeyError):
            below.get(timeout=FOREVER)
        with pytest.raises(ResultTimeout):
            below.get(timeout=0.01, follow_parents=False)
        memory.mark_as_failure("below", RuntimeError("because of above"))
        for known in (below, AsyncResult("below", parent=AsyncResult("above"))):
            assert known.state == "FAILURE"
            for get in (known.get, ResultSet([known]).get):
                with pytest.raises(KeyError):
                    get()
            with pytest.raises(RuntimeError):
                known.get(follow_parents=False)

    def test_ignored(self) -> None:
        result = AsyncResult("t")
        result.ignored = True
        assert result.get() is None

    def test_callbacks_are_called_in_this_thread(self, backend: Backend) -> None:
        """Also those that wait for something themselves."""
        calls: list[tuple[str, Any, int]] = []

        def note(kind: str) -> Callable[..., None]:
            return lambda *args: calls.append((kind, args, threading.get_ident()))

        def write() -> None:
            backend.store_result("t", {"done": 1}, "PROGRESS")
            wait_until(lambda: {"message", "tick"} <= {kind for kind, *_ in calls}, "a message and a tick")
            backend.mark_as_done("t", AsyncResult("t").state)

        writer = when_waiting(backend, write)
        value = AsyncResult("t").get(
            callback=note("value"), on_message=note("message"), on_interval=note("tick"), interval=0.001
        )
        writer.join()
        assert value == "PROGRESS"
        assert {thread for *_, thread in calls} == {threading.get_ident()}
        messages = [args[0] for kind, args, _ in calls if kind == "message"]
        assert [(message["task_id"], message["status"], message["result"]) for message in messages] == [
            ("t", "PROGRESS", {"done": 1}),
            ("t", "SUCCESS", "PROGRESS"),
        ]
        assert calls[-1][:2] == ("value", ("t", "PROGRESS"))

    def test_what_a_callback_raises_ends_the_wait(self, memory: Backend) -> None:
        def give_up() -> None:
            raise LookupError("enough")

        with pytest.raises(LookupError, match="enough"):
            AsyncResult("t").get(on_interval=give_up, interval=0.001, on_message=print)
        wait_until(lambda: memory.stats().pending == 0, "nobody waits any more")

    def test_a_message_of_a_failure_holds_the_exception(self, memory: Backend) -> None:
        messages: list[dict[str, Any]] = []
        writer = when_waiting(memory, lambda: memory.mark_as_failure("t", ValueError("no")))
        AsyncResult("t").get(propagate=False, on_message=messages.append)
        writer.join()
        assert isinstance(messages[-1]["result"], ValueError)

    def test_accepted_without_effect(self, memory: Backend) -> None:
        memory.mark_as_done("t", 1)
        assert AsyncResult("t", task_name="tests.add").get(no_ack=False, EXCEPTION_STATES=(), PROPAGATE_STATES=()) == 1

    def test_a_type(self, memory: Backend) -> None:
        memory.mark_as_done("t", ["1"])
        with pytest.raises(asyncresult.ResultTypeError):
            AsyncResult("t", type=list[int]).get()

    async def test_refused_where_a_loop_runs(self) -> None:
        """At once, and naming the way to go."""
        with pytest.raises(RuntimeError, match=r"AsyncResult\.get\(\) would block.*[Aa]wait asyncresult's own"):
            AsyncResult("t").get()
        with pytest.raises(RuntimeError, match=r"AsyncResult\.get\(\) would block"):
            AsyncResult("t").get(on_interval=print)
        with pytest.raises(RuntimeError, match=r"AsyncResult\.meta\(\) would block"):
            _ = AsyncResult("t").state
        with pytest.raises(RuntimeError, match=r"ResultSet\.get\(\) would block"):
            ResultSet([AsyncResult("t")]).get()

    async def test_threads_of_an_async_program(self) -> None:
        async with asyncresult.connect("memory://") as entered:
            await entered.mark_as_done("t", 1)
            assert await asyncio.to_thread(AsyncResult("t").get) == 1


class TestProperties:
    def test_of_an_unknown_task(self, backend: Backend) -> None:
        result = AsyncResult("t")
        assert (result.state, result.status, result.result, result.info) == ("PENDING", "PENDING", None, None)
        assert not result.ready()
        assert not result.exists()
        assert not result.done()
        assert result.children is None
        with pytest.raises(NotReady):
            _ = result.value

    def test_of_a_task_that_ended(self, redis_url: str, portal: None) -> None:
        class Request:
            task, args, kwargs, hostname, retries = "tests.add", [2, 3], {"x": 1}, "worker@host", 1
            delivery_info = {"routing_key": "fast"}
            children = [asyncresult.AsyncResult("child")]

        with connect(redis_url, result_extended=True) as backend:
            backend.store_result("t", 5, "SUCCESS", request=Request())
            result = AsyncResult("t")
            assert result.exists()
            assert result.ready()
            assert (result.name, result.args, result.kwargs) == ("tests.add", [2, 3], {"x": 1})
            assert (result.worker, result.queue, result.retries) == ("worker@host", "fast", 1)
            assert result.children == [AsyncResult("child")]
            assert result.date_done is not None
            assert result.traceback is None
            assert (result.value, result.exception) == (5, None)

    def test_what_is_known_is_read_from_memory(self, memory: Backend) -> None:
        result = AsyncResult("t")
        memory.mark_as_done("t", 1)
        assert result.ready()
        memory.close()
        _portal.stop()
        assert (result.state, result.result, result.get(), result.value) == ("SUCCESS", 1, 1, 1)
        assert "asyncresult" not in {thread.name for thread in threading.enumerate()}

    def test_children_of_a_task_that_runs(self, memory: Backend) -> None:
        class Request:
            children = [asyncresult.GroupResult("g", [asyncresult.AsyncResult("a")])]

        memory.store_result("t", None, "PROGRESS", request=Request())
        assert AsyncResult("t").children == [GroupResult("g", [AsyncResult("a")])]

    def test_another_id(self, memory: Backend) -> None:
        memory.mark_as_done("a", 1)
        result = AsyncResult("a")
        assert result.get() == 1
        result.task_id = "b"
        assert (result.id, result.state) == ("b", "PENDING")

    def test_parent(self) -> None:
        above = GroupResult("g", [AsyncResult("a"), AsyncResult("b")])
        result = AsyncResult("t", parent=above)
        assert result.parent == above
        assert result.as_list() == ["t", "g", "a", "b"]
        result.parent = None
        assert result.parent is None

    def test_forget(self, backend: Backend) -> None:
        backend.mark_as_done("t", 1)
        result = AsyncResult("t")
        assert result.get() == 1
        result.forget()
        assert result.state == "PENDING"

    def test_maybe_throw(self, memory: Backend) -> None:
        result = AsyncResult("t")
        assert result.maybe_throw() is None
        memory.mark_as_failure("t", ValueError("no"))
        with pytest.raises(ValueError, match="no"):
            result.maybe_throw()
        seen: list[Any] = []
        error = result.maybe_reraise(propagate=False, callback=lambda *args: seen.append(args))
        assert isinstance(error, ValueError)
        assert seen[0][0] == "t"

    def test_maybe_throw_of_a_value_that_is_an_exception(self) -> None:
        value = ValueError("returned, not raised")
        assert EagerResult("t", value).maybe_throw() is value

    def test_throw(self) -> None:
        with pytest.raises(KeyError, match="k"):
            AsyncResult("t").throw(KeyError("k"), None)

    def test_revoking_without_a_way_to_anyone(self, memory: Backend) -> None:
        with pytest.raises(asyncresult.BackendError, match="can be reached"):
            AsyncResult("t").revoke(connection=None, terminate=True)
        with pytest.raises(asyncresult.BackendError, match="can be reached"):
            AsyncResult("t").revoke_by_stamped_headers({"header": "value"})


class TestForms:
    def test_equality_is_by_id(self) -> None:
        assert AsyncResult("t") == AsyncResult("t") == "t"
        assert AsyncResult("t") != AsyncResult("u")
        assert {AsyncResult("t"), "t"} == {"t"}
        assert (str(AsyncResult("t")), repr(AsyncResult("t"))) == ("t", "<AsyncResult: t>")

    @pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda original: pickle.loads(pickle.dumps(original))])
    @pytest.mark.parametrize(
        "original",
        [
            AsyncResult("t", parent=AsyncResult("p"), type=int),
            EagerResult("t", 1),
            ResultSet([AsyncResult("t")]),
            GroupResult("g", [AsyncResult("t")], AsyncResult("p")),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_copies(self, original: Any, twin: Callable[[Any], Any]) -> None:
        made = twin(original)
        assert type(made) is type(original)
        assert made == original
        assert made.parent == original.parent

    def test_tuples(self) -> None:
        group = GroupResult("g", [AsyncResult("a"), AsyncResult("b")], AsyncResult("p"))
        assert result_from_tuple(group.as_tuple()) == group
        result = AsyncResult("t", parent=group)
        again = result_from_tuple(result.as_tuple())
        assert again == result
        assert again.parent == group
        assert result_from_tuple(again) is again
        with pytest.raises(ValueError, match="tuple form"):
            result_from_tuple(7)

    def test_an_impossible_id(self) -> None:
        with pytest.raises(ValueError, match="empty"):
            AsyncResult(None)  # type: ignore[call-overload]
        with pytest.raises(TypeError):
            AsyncResult(7)  # type: ignore[call-overload]

    def test_no_backend(self) -> None:
        with pytest.raises(RuntimeError, match="no backend"):
            AsyncResult("t").get()
        with pytest.raises(RuntimeError, match="no backend"):
            current_backend()


class TestThen:
    def test_on_the_facade_s_thread(self, backend: Backend) -> None:
        def look(result: AsyncResult[Any]) -> Any:
            return result.get(), result.state, threading.current_thread().name

        future = AsyncResult("t").then(look)
        backend.mark_as_done("t", 42)
        assert future.result(FOREVER) == (42, "SUCCESS", "asyncresult")

    def test_in_an_executor_callbacks_may_block(self, memory: Backend) -> None:
        memory.mark_as_done("t", 1)
        memory.mark_as_done("u", 2)
        with ThreadPoolExecutor(1, "mine") as pool:
            future = AsyncResult("t").then(
                lambda _: (AsyncResult("u").get(), threading.current_thread().name), executor=pool
            )
            assert future.result(FOREVER) == (2, "mine_0")

    def test_a_failure_without_on_error(self, memory: Backend) -> None:
        memory.mark_as_failure("t", ValueError("no"))
        assert AsyncResult("t").then(lambda result: repr(result.result)).result(FOREVER) == "ValueError('no')"

    def test_a_failure_with_on_error(self, memory: Backend) -> None:
        memory.mark_as_failure("t", ValueError("no"))
        assert AsyncResult("t").then(lambda result: "called", repr).result(FOREVER) == "ValueError('no')"

    def test_a_callback_that_raises(self, memory: Backend, caplog: pytest.LogCaptureFixture) -> None:
        memory.mark_as_done("t", 1)

        def broken(result: Any) -> None:
            raise LookupError("in the callback")

        assert AsyncResult("t").then(broken, repr).result(FOREVER) == "LookupError('in the callback')"
        assert caplog.text == ""
        with pytest.raises(LookupError):
            AsyncResult("t").then(broken).result(FOREVER)
        assert "in the callback" in caplog.text

    def test_one_that_blocks_on_the_loop_is_refused(self, memory: Backend) -> None:
        memory.mark_as_done("t", 1)
        with pytest.raises(RuntimeError, match="would block the event loop"):
            AsyncResult("t").then(lambda _: AsyncResult("u").get()).result(FOREVER)

    def test_one_that_starts_the_next(self, memory: Backend) -> None:
        memory.mark_as_done("t", 1)
        memory.mark_as_done("u", 2)
        inner = AsyncResult("t").then(lambda _: AsyncResult("u").then(lambda result: result.result))
        assert inner.result(FOREVER).result(FOREVER) == 2

    def test_weak(self, memory: Backend) -> None:
        class Listener:
            def heard(self, result: Any) -> Any:
                return result.result

        kept, dropped = Listener(), Listener()
        futures = [AsyncResult("t").then(listener.heard, weak=True) for listener in (kept, dropped)]
        del dropped
        memory.mark_as_done("t", 1)
        assert [future.result(FOREVER) for future in futures] == [1, None]

    def test_of_a_set_when_all_are_over(self, memory: Backend) -> None:
        results = ResultSet([AsyncResult("t"), AsyncResult("u")])
        future = results.then(lambda ended: (ended is results, ended.get(propagate=False)))
        failing = results.then(lambda _: "called", repr)
        memory.mark_as_failure("t", ValueError("no"))
        assert not future.done()
        memory.mark_as_done("u", 2)
        same, (error, value) = future.result(FOREVER)
        assert same
        assert (repr(error), value) == ("ValueError('no')", 2)
        assert failing.result(FOREVER) == "ValueError('no')"

    def test_a_backend_that_closes(self, memory: Backend) -> None:
        futures = [AsyncResult("t").then(print), AsyncResult("t").then(print, repr)]
        wait_until(lambda: memory.stats().pending, "the callbacks wait")
        memory.close()
        with pytest.raises(BackendClosed):
            futures[0].result(FOREVER)
        assert "BackendClosed" in futures[1].result(FOREVER)

    @pytest.mark.parametrize("arguments", [(None,), (7,), (print, 7)])
    def test_no_callback(self, arguments: Any) -> None:
        with pytest.raises(TypeError, match="callable"):
            AsyncResult("t").then(*arguments)

    def test_as_concurrent_future(self, memory: Backend) -> None:
        future = AsyncResult("t").as_concurrent_future()
        memory.mark_as_done("t", 1)
        assert future.result(FOREVER) == 1


class TestStreams:
    def test_updates(self, backend: Backend) -> None:
        seen = []
        with AsyncResult("t").updates(timeout=FOREVER) as updates:
            for meta in updates:
                seen.append((meta.status, meta.result))
                if meta.status == "PENDING":
                    backend.store_result("t", 50, "PROGRESS")
                elif meta.status == "PROGRESS":
                    backend.mark_as_done("t", "done")
        assert seen == [("PENDING", None), ("PROGRESS", 50), ("SUCCESS", "done")]

    def test_leaving_early(self, backend: Backend) -> None:
        with AsyncResult("t").updates() as updates:
            assert next(updates).status == "PENDING"
            assert backend.stats().pending == 1
        assert backend.stats().pending == 0
        with pytest.raises(StopIteration):
            next(updates)

    def test_time_is_up(self, memory: Backend) -> None:
        with pytest.raises(ResultTimeout):
            list(AsyncResult("t").updates(timeout=0.01))

    def test_until(self, memory: Backend) -> None:
        writer = when_waiting(memory, lambda: memory.mark_as_started("t"))
        assert AsyncResult("t").until("STARTED", timeout=FOREVER).status == "STARTED"
        writer.join()

    def test_as_completed(self, backend: Backend) -> None:
        results = [AsyncResult(id) for id in "abc"]
        backend.mark_as_done("b", 2)
        seen = []
        for result in as_completed(results, timeout=FOREVER):
            seen.append((result, result.value))
            if result == "b":
                backend.mark_as_done("c", 3)
            elif result == "c":
                backend.mark_as_done("a", 1)
        assert seen == [("b", 2), ("c", 3), ("a", 1)]
        assert all(any(result is given for given in results) for result, _ in seen)

    def test_iter_native(self, memory: Backend) -> None:
        memory.mark_as_done("a", 1)
        memory.mark_as_failure("b", ValueError("no"))
        records = dict(ResultSet([AsyncResult("a"), AsyncResult("b")]).iter_native(timeout=FOREVER))
        assert (records["a"]["result"], repr(records["b"]["result"])) == (1, "ValueError('no')")

    def test_updates_of_a_set(self, memory: Backend) -> None:
        memory.mark_as_done("a", 1)
        memory.mark_as_done("b", 2)
        results = ResultSet([AsyncResult("a"), AsyncResult("b")])
        assert {(result.id, meta.result) for result, meta in results.updates(timeout=FOREVER)} == {("a", 1), ("b", 2)}


class TestTrees:
    @pytest.fixture
    def tree(self, memory: Backend) -> AsyncResult[Any]:
        def request(*children: Any) -> Any:
            return type("Request", (), {"children": children})()

        leaf, group = asyncresult.AsyncResult("leaf"), asyncresult.GroupResult("g", [asyncresult.AsyncResult("m")])
        memory.store_result("root", 1, "SUCCESS", request=request(group, leaf))
        memory.mark_as_done("m", 2)
        memory.mark_as_done("leaf", 3)
        return AsyncResult("root")

    def test_collect(self, tree: AsyncResult[Any]) -> None:
        pairs = list(tree.collect(timeout=FOREVER, propagate=False))
        assert [(str(node), value) for node, value in pairs] == [("root", 1), ("g", [2]), ("leaf", 3), ("m", 2)]
        assert pairs[0][0] is tree
        assert tree.get_leaf() == 2

    def test_collect_has_one_budget(self, tree: AsyncResult[Any], memory: Backend) -> None:
        memory.forget("leaf", "m")
        with pytest.raises(ResultTimeout):
            list(tree.collect(timeout=0.02))

    def test_iterdeps(self, tree: AsyncResult[Any], memory: Backend) -> None:
        assert [(parent and str(parent), str(node)) for parent, node in tree.iterdeps()] == [
            (None, "root"),
            ("root", "g"),
            ("root", "leaf"),
            ("g", "m"),
        ]
        memory.forget("leaf")
        with pytest.raises(NotReady):
            list(AsyncResult("root").iterdeps())
        assert len(list(AsyncResult("root").iterdeps(intermediate=True))) == 4

    def test_graph(self, tree: AsyncResult[Any]) -> None:
        graph = tree.graph
        assert isinstance(graph, DependencyGraph)
        assert graph is tree.graph
        assert [str(node) for node in graph[tree]] == ["g", "leaf"]
        assert all(isinstance(node, (AsyncResult, GroupResult)) for node in graph)


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


class TestEager:
    def test_value(self) -> None:
        result = EagerResult("t", 5, "SUCCESS", None, "tests.add")
        assert (result.get(), result.state, result.result, result.name) == (5, "SUCCESS", 5, "tests.add")
        assert result.ready()
        assert result.successful()
        assert not result.supports_native_join
        assert list(result.collect()) == [(result, 5)]
        assert result.then(lambda ended: ended.result).result(FOREVER) == 5

    def test_failure_and_revocation(self) -> None:
        result = EagerResult("t", ValueError("no"), "FAILURE")
        with pytest.raises(ValueError, match="no"):
            result.get(disable_sync_subtasks=False)
        result.revoke()
        assert result.state == "REVOKED"
        with pytest.raises(TaskRevoked):
            result.get()

    def test_retry(self) -> None:
        result = EagerResult("t", ValueError("again"), "RETRY")
        assert result.ready()
        assert result.get() is None


class TestExecutor:
    def test_submit_and_map(self, backend: Backend) -> None:
        async def double(number: int) -> int:
            return 2 * number

        def where(number: int) -> str:
            return f"{number} in {threading.current_thread().name}"

        with Executor(backend, max_pending=2) as executor:
            assert executor.backend == backend
            doubled = executor.submit(double, executor.submit(double, 2))  # type: ignore[call-overload]
            assert (doubled.get(timeout=FOREVER), doubled.parent.get()) == (8, 4)
            assert executor.map(double, [1, 2]).get(timeout=FOREVER) == [2, 4]
            assert "MainThread" not in executor.options(name="named").submit(where, 1).get(timeout=FOREVER)
            # More than may wait: submitting waits for room.
            assert gather(*[executor.submit(double, n) for n in range(20)]) == tuple(range(0, 40, 2))
        assert (executor.pending, executor.running) == (0, 0)

    def test_a_block_that_fails_cancels(self, memory: Backend) -> None:
        with pytest.raises(LookupError), Executor(memory) as executor:
            result = executor.submit(asyncio.sleep, 60)
            result.until("STARTED", timeout=FOREVER)
            raise LookupError
        with pytest.raises(TaskRevoked):
            result.get(timeout=FOREVER)

    def test_revoke(self, memory: Backend) -> None:
        with Executor(memory) as executor:
            result = executor.submit(asyncio.sleep, 60)
            result.until("STARTED", timeout=FOREVER)
            result.revoke(terminate=True)
            with pytest.raises(TaskRevoked):
                result.get(timeout=FOREVER)


class TestBackend:
    def test_records(self, backend: Backend) -> None:
        assert backend.mark_as_started("t", pid=7)
        assert backend.mark_as_retry("t", ValueError("again"))
        assert backend.get_meta("t").status == "RETRY"
        assert backend.mark_as_revoked("t")
        assert [meta.status for meta in backend.get_many(["t", "u"])] == ["REVOKED", "PENDING"]
        assert backend.forget("t", "u") == 1
        assert backend.results(["a", "b"]) == ResultSet([backend.result("a"), AsyncResult("b")])

    def test_closing_ends_waits(self, backend: Backend) -> None:
        closer = when_waiting(backend, backend.close)
        with pytest.raises(BackendClosed):
            AsyncResult("t").get(timeout=FOREVER)
        closer.join()
        assert backend.closed

    def test_the_innermost_block_of_a_thread(self, memory: Backend) -> None:
        """A block that another thread entered later is the current one for threads that have none."""
        entered, leave = threading.Event(), threading.Event()

        def other() -> None:
            with connect("memory://other") as backend:
                assert current_backend() == backend
                entered.set()
                leave.wait(FOREVER)

        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(other)
            assert entered.wait(FOREVER)
            try:
                assert current_backend() == memory
            finally:
                leave.set()
            ended.result(FOREVER)

    def test_the_address_has_no_secret(self) -> None:
        backend = connect("redis://:hidden@localhost/3")
        assert "hidden" not in repr(backend) + str(backend)
        assert str(backend) in repr(backend)


class TestThreads:
    @pytest.mark.parametrize("waits", [20, pytest.param(1000, marks=pytest.mark.slow)])
    def test_each_gets_its_own_value(self, redis_server: RedisServer, waits: int) -> None:
        """64 threads wait for one result after the other, over at most two connections."""
        threads = 64
        writer = f"""
import json, redis
client = redis.Redis.from_url({redis_server.url()!r})
for wait in range({waits}):
    pipeline = client.pipeline(transaction=False)
    for thread in range({threads}):
        key = f"celery-task-meta-{{thread}}-{{wait}}"
        record = json.dumps({{"status": "SUCCESS", "result": [thread, wait], "task_id": key[17:]}})
        pipeline.set(key, record).publish(key, record)
    pipeline.execute()
"""
        started = threading.Barrier(threads + 1)
        wrong: list[Any] = []

        def work(thread: int) -> None:
            started.wait()
            for wait in range(waits):
                value = AsyncResult(f"{thread}-{wait}").get(timeout=60)
                if value != [thread, wait]:
                    wrong.append((thread, wait, value))

        with connect(redis_server.url(), client_name="facade") as backend, ThreadPoolExecutor(threads) as pool:
            done = [pool.submit(work, thread) for thread in range(threads)]
            started.wait()
            wait_until(lambda: backend.stats().pending == threads, "all threads wait")
            subprocess.run([sys.executable, "-c", writer], check=True, timeout=60)
            for future in done:
                future.result(60)
            names = [client["name"] for client in redis_server.clients()]
            assert names.count("facade") <= 2
            assert backend.stats().pending == 0
        assert wrong == []


def run_script(script: str, url: str) -> str:
    """What a script prints, run as strictly as Python can; it must end well and complain of nothing."""
    ended = subprocess.run(
        # From Python 3.12 on, a fork in a process with threads is warned of in general.
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-X", "dev", "-c", script],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ASYNCRESULT_URL": url},
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


class TestProcess:
    @pytest.mark.parametrize("close", ["backend.close()", ""], ids=["closed", "not closed"])
    def test_exit_leaves_nothing(self, redis_url: str, close: str) -> None:
        """Waits, callbacks, streams and connections that are still there when the interpreter ends."""
        script = f"""
import threading
from asyncresult.sync import AsyncResult, current_backend
backend = current_backend()
backend.mark_as_done("t", 1)
print(AsyncResult("t").get())
AsyncResult("never").then(print)
updates = AsyncResult("never").updates()
print(next(updates).status)
threading.Thread(target=AsyncResult("never").get, daemon=True).start()
{close}
"""
        if close:
            script = script.replace("threading.Thread", "0 and threading.Thread").replace(
                ".then(print)", ".then(print, str)"
            )
        assert run_script(script, redis_url) == "1\nPENDING\n"

    def test_fork_in_the_middle_of_use(self, redis_url: str) -> None:
        """Handles that were made, and waited for, before the fork work on both sides."""
        script = """
import os, sys, threading
from asyncresult.sync import AsyncResult, ResultSet, connect
with connect() as backend:
    backend.mark_as_done("known", 1)
    known, coming = AsyncResult("known"), AsyncResult("coming")
    known.get()
    waiting = coming.then(lambda result: result.result)
    try:
        coming.get(timeout=0.01)
    except coming.TimeoutError:
        pass
    if (child := os.fork()) == 0:
        backend.mark_as_done("from the child", os.getpid())
        assert known.get() == 1
        assert ResultSet([known, coming]).get(timeout=20) == [1, "for both"]
        backend.close()
        sys.exit(7)
    assert AsyncResult("from the child").get(timeout=20) == child
    backend.mark_as_done("coming", "for both")
    assert waiting.result(20) == coming.get(timeout=20) == "for both"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    # The end of the child did no harm to the connections: heard at once, over the same.
    later = AsyncResult("later").then(lambda result: result.result)
    backend.mark_as_done("later", 1)
    assert later.result(20) == 1  # sooner than a sweep
    print(backend.stats().reconnects)
"""
        assert run_script(script, redis_url) == "0\n"

    def test_a_pool_of_processes(self, redis_url: str) -> None:
        script = """
import multiprocessing
from asyncresult.sync import AsyncResult, current_backend
def double(id):
    return 2 * AsyncResult(id).get(timeout=20)
current_backend().mark_as_done("t", 21)
assert AsyncResult("t").get() == 21
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(double, ["t"] * 4))
"""
        assert run_script(script, redis_url) == "[42, 42, 42, 42]\n"

    def test_what_importing_brings(self) -> None:
        script = """
import sys
import asyncresult
print(sorted({"anyio", "redis", "celery"} & set(sys.modules)))
import asyncresult.sync
print(sorted({"redis", "celery"} & set(sys.modules)))
"""
        assert run_script(script, "memory://") == "[]\n[]\n"


def test_every_public_name_has_a_docstring() -> None:
    for name in sync.__all__:
        thing = getattr(sync, name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        assert thing.__doc__, name
        for member, value in vars(thing).items() if inspect.isclass(thing) else ():
            if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                assert inspect.getdoc(value), f"{name}.{member}"
