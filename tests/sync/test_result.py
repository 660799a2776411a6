"""One handle of the blocking face: waiting, properties, forms, callbacks, trees."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import signal
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import asyncresult
from asyncresult import BackendClosed, DependencyGraph, NotReady, ResultTimeout, _portal
from asyncresult.sync import (
    AsyncResult,
    Backend,
    EagerResult,
    GroupResult,
    ResultSet,
    connect,
    current_backend,
    result_from_tuple,
)
from tests.sync.waiting import FOREVER, when_waiting
from tests.tools.processes import wait_until


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

    def test_callbacks_keep_no_value(self, backend: Backend) -> None:
        """It goes with the handle, not with the next collection."""
        backend.mark_as_done("t", 1)
        gc.disable()
        try:
            result = AsyncResult("t")
            alive = weakref.ref(result._async())
            assert result.get(on_message=lambda record: None) == 1
            del result
            wait_until(lambda: alive() is None, "nobody holds it")
        finally:
            gc.enable()

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
