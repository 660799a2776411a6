"""Code that was written for ``celery.result``, with nothing but the import changed, against a stock worker.

Every test of the first class runs twice: with Celery's module, which shows that the code is right, and with ours.
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import celery.exceptions
import pytest
from celery import Celery, _state, chain, group

import asyncresult
from asyncresult import _portal, sync
from tests.backends import stores
from tests.sync.celery_project import make_project
from tests.tools.celery_app import close_app
from tests.tools.celery_worker import CeleryWorker
from tests.tools.processes import wait_until
from tests.tools.servers import RedisServer

pytestmark = [
    pytest.mark.celery,
    # How Celery saves a group, with redis-py 8.
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),
]

FOREVER = 20.0  # seconds: more than any of these tasks takes


@pytest.fixture(scope="module")
def worker() -> Generator[CeleryWorker]:
    """A stock one, with processes: it can be terminated, and forks."""
    with (
        RedisServer() as server,
        CeleryWorker(
            broker=server.url(1),
            backend=server.url(0),
            app="tests.sync.celery_project:app",
            pool="prefork",
            concurrency=2,
        ) as running,
    ):
        yield running


@pytest.fixture
def app(worker: CeleryWorker, no_leaks: None) -> Generator[Celery]:
    """The client's side, as the current app of this thread."""
    made = make_project(**worker.config)
    before = _state._tls.current_app
    made.set_current()
    yield made
    _state._set_current_app(before)
    _portal.stop()
    close_app(made)


@pytest.fixture(params=["celery.result", "asyncresult.sync"])
def results(request: pytest.FixtureRequest, app: Celery) -> ModuleType:
    return importlib.import_module(request.param)


class TestOnlyTheImportChanged:
    def test_first_steps(self, results: ModuleType, app: Celery) -> None:
        result = results.AsyncResult(app.tasks["add"].delay(4, 4).id)
        assert result.get(timeout=FOREVER) == 8
        assert result.ready()
        assert result.successful()
        assert (result.state, result.status, result.result, result.info, result.traceback) == (
            "SUCCESS",
            "SUCCESS",
            8,
            8,
            None,
        )
        assert (result.name, list(result.args), result.kwargs, result.queue) == ("add", [4, 4], {}, "celery")
        assert result.date_done.tzinfo is not None
        result.forget()
        assert result.state == "PENDING"

    def test_a_task_that_failed(self, results: ModuleType, app: Celery) -> None:
        result = results.AsyncResult(app.tasks["boom"].delay().id)
        with pytest.raises(ValueError, match="boom"):
            result.get(timeout=FOREVER)
        error = result.get(propagate=False)
        assert isinstance(error, ValueError)
        assert result.failed()
        assert result.state in ("FAILURE", "SUCCESS")
        assert "ValueError: boom" in result.traceback
        with pytest.raises(ValueError, match="boom"):
            result.maybe_throw()

    def test_a_time_limit_of_the_caller(self, results: ModuleType) -> None:
        unknown = results.AsyncResult(str(uuid.uuid4()))
        assert unknown.state == "PENDING"
        with pytest.raises(celery.exceptions.TimeoutError):
            unknown.get(timeout=0.01)
        with pytest.raises(unknown.TimeoutError):
            unknown.get(timeout=0)
        unknown.forget()

    def test_progress_by_messages(self, results: ModuleType, app: Celery) -> None:
        """The task is sent while it is waited for, so that no message can come too early. In database 0: elsewhere
        states are read, and of some that follow each other at once the last is seen."""
        id = str(uuid.uuid4())
        bodies: list[Any] = []
        sent: list[Any] = []

        def send() -> None:
            if not sent:
                sent.append(app.tasks["report"].apply_async((1, 1), task_id=id))

        result = results.AsyncResult(id)
        assert result.get(on_message=bodies.append, on_interval=send, interval=0.01, timeout=FOREVER) == 2
        assert [body["result"] for body in bodies if body["status"] == "PROGRESS"] == [
            {"progress": 50},
            {"progress": 90},
        ]
        assert {"task_id", "status", "result", "traceback", "children"} <= set(bodies[0])

    def test_a_chain(self, results: ModuleType, app: Celery) -> None:
        add = app.tasks["add"]
        sent = chain(add.s(2, 2), add.s(4), add.s(8))()
        result = results.result_from_tuple(sent.as_tuple())
        assert result.get(timeout=FOREVER) == 16
        assert result.parent.get() == 8
        assert result.parent.parent.get() == 4
        assert result.parent.parent.parent is None
        assert len(result.as_list()) == 3
        first = result.parent.parent
        assert [value for _, value in first.collect()] == [4, 8, 16]
        assert first.get_leaf() == 16
        assert first.children == [result.parent]
        assert len(first.graph) == 3

    def test_a_group(self, results: ModuleType, app: Celery) -> None:
        sent = group(app.tasks["add"].s(number, number) for number in range(10))()
        result = results.GroupResult(sent.id, [results.AsyncResult(member.id) for member in sent])
        assert result.join(timeout=FOREVER) == result.get() == list(range(0, 20, 2))
        assert result.ready()
        assert result.successful()
        assert not result.failed()
        assert not result.waiting()
        assert result.completed_count() == len(result) == 10
        assert [member.get() for member in result][:3] == [0, 2, 4]
        result.save()
        restored = results.GroupResult.restore(result.id)
        assert restored == result
        assert restored.get() == result.get()
        result.delete()
        assert results.GroupResult.restore(result.id) is None

    def test_a_group_with_a_failure(self, results: ModuleType, app: Celery) -> None:
        sent = group(app.tasks["boom"].s(), app.tasks["add"].s(1, 1))()
        result = results.ResultSet([results.AsyncResult(member.id) for member in sent])
        with pytest.raises(ValueError, match="boom"):
            result.get(timeout=FOREVER)
        error, value = result.get(propagate=False, timeout=FOREVER)
        assert (repr(error), value) == ("ValueError('boom')", 2)

    def test_a_set_of_what_delay_returns(self, results: ModuleType, app: Celery) -> None:
        result = results.ResultSet([])
        for number in range(3):
            result.add(app.tasks["add"].delay(number, 1))
        assert result.join(timeout=FOREVER) == [1, 2, 3]

    def test_collect(self, results: ModuleType, app: Celery) -> None:
        result = results.AsyncResult(app.tasks["fan"].delay(5).id)
        leaves = [value for child, value in result.collect(timeout=FOREVER) if not child.children]
        assert leaves == [0, 1, 4, 9, 16]

    def test_a_callback(self, results: ModuleType, app: Celery) -> None:
        called: list[Any] = []
        result = results.AsyncResult(app.tasks["add"].delay(2, 2).id)
        result.then(lambda ended: called.append((ended.id, ended.result)))
        result.get(timeout=FOREVER)
        wait_until(lambda: called == [(result.id, 4)], "the callback was called")

    def test_revoked(self, results: ModuleType, app: Celery) -> None:
        result = results.AsyncResult(app.tasks["slow"].delay(60).id)
        wait_until(lambda: result.state == "STARTED", "the task has started")
        result.revoke(terminate=True)
        with pytest.raises(celery.exceptions.TaskRevokedError, match="terminated"):
            result.get(timeout=FOREVER)
        assert isinstance(result.result, celery.exceptions.TaskRevokedError)
        assert (result.state, result.failed()) == ("REVOKED", False)

    def test_what_is_not_complete(self, results: ModuleType) -> None:
        with pytest.raises(celery.exceptions.IncompleteStream):
            list(results.AsyncResult(str(uuid.uuid4())).iterdeps())

    def test_waiting_inside_a_task(self, results: ModuleType, app: Celery) -> None:
        known = app.tasks["add"].delay(1, 1)
        known.get(timeout=FOREVER)
        ask = app.tasks["ask"]

        def answer(how: str) -> Any:
            sent = ask.delay(results.__name__, known.id, how)
            return results.AsyncResult(sent.id).get(timeout=FOREVER)

        with pytest.raises(RuntimeError, match=r"Never call result\.get\(\) within a task!"):
            answer("simply")
        assert answer("option") == 2
        assert answer("block") == [2]

    def test_denied_here(self, results: ModuleType, app: Celery) -> None:
        result = results.AsyncResult(app.tasks["add"].delay(1, 1).id)
        with results.denied_join_result():
            with pytest.raises(RuntimeError, match="within a task"):
                result.get()
            with pytest.raises(RuntimeError, match="within a task"):
                results.ResultSet([result]).join()
            with pytest.raises(RuntimeError, match="within a task"):
                results.assert_will_not_block()
            with results.allow_join_result():
                assert result.get(timeout=FOREVER) == 2
        results.assert_will_not_block()

    def test_eager(self, results: ModuleType) -> None:
        result = results.EagerResult("t", 5, "SUCCESS")
        assert (result.get(), result.state, result.ready()) == (5, "SUCCESS", True)
        result.revoke()
        with pytest.raises(celery.exceptions.TaskRevokedError):
            result.get()

    def test_which_app(self, results: ModuleType, app: Celery) -> None:
        sent = app.tasks["add"].delay(1, 1)
        _state._set_current_app(None)
        assert results.AsyncResult(sent.id, app=app).get(timeout=FOREVER) == 2
        assert results.AsyncResult(sent.id, backend=app.backend).get(timeout=FOREVER) == 2
        assert results.result_from_tuple(sent.as_tuple(), app=app).get(timeout=FOREVER) == 2
        assert results.AsyncResult(sent.id, app=app).app is app


class TestBesideCelery:
    def test_errors_are_ours_and_celery_s(self, app: Celery) -> None:
        """And survive pickling as ours."""
        import pickle

        with pytest.raises(asyncresult.ResultTimeout) as caught:
            sync.AsyncResult("unknown").get(timeout=0)
        error = caught.value
        assert isinstance(error, celery.exceptions.TimeoutError)
        assert (type(error).__module__, type(error).__qualname__) == ("asyncresult.errors", "ResultTimeout")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is asyncresult.ResultTimeout
        assert (again.args, again.task_id, again.timeout) == (error.args, "unknown", 0)

    def test_the_current_app_comes_last(self, app: Celery) -> None:
        assert sync.current_backend() == sync.connect(app)
        with sync.connect("memory://") as entered:
            assert sync.current_backend() == sync.AsyncResult("t").backend == entered

    def test_after_a_block_that_has_closed_the_apps_backend(self, app: Celery) -> None:
        """As where a coroutine connects for a moment, and blocking code of the process goes on."""
        sent = app.tasks["add"].delay(1, 1)
        with sync.connect(app) as backend:
            assert backend.result(sent.id).get(timeout=FOREVER) == 2
        assert sync.AsyncResult(sent.id).get(timeout=FOREVER) == 2
        assert sync.AsyncResult(sent.id, app=app).get(timeout=FOREVER) == 2
        backend.close()

    def test_results_that_are_not_in_redis(self, tmp_path: Path, no_leaks: None) -> None:
        app = stores.app_storing_in(f"file://{tmp_path}")
        app.backend.store_result("t", 7, "SUCCESS")
        with sync.connect(app):
            assert sync.AsyncResult("t").get(timeout=FOREVER) == 7
        _portal.stop()

    def test_an_app_without_results(self) -> None:
        before = _state._tls.current_app
        empty = Celery("empty", set_as_current=False)
        empty.set_current()
        try:
            with pytest.raises(RuntimeError, match="no backend"):
                sync.current_backend()
            with pytest.raises(ValueError, match="no result_backend"):
                sync.AsyncResult("t", app=empty)
        finally:
            _state._set_current_app(before)

    def test_results_of_celery_are_taken(self, app: Celery) -> None:
        app.conf.task_always_eager = True
        eager = app.tasks["add"].delay(1, 1)
        group_result = sync.GroupResult("g", [eager, sync.AsyncResult("t")])
        assert isinstance(group_result[0], sync.EagerResult)
        assert group_result[0].get() == 2
        with pytest.raises(TypeError):
            sync.ResultSet([object()])
