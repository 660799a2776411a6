"""Celery's results as handles, and back."""

from __future__ import annotations

import copy
from collections.abc import Generator
from typing import Any

import pytest
from celery import Celery
from celery.result import EagerResult as CelerysEager
from celery.result import ResultBase, result_from_tuple

import asyncresult
from asyncresult import AsyncResult, EagerResult, GroupResult, NotReady, ResultSet, TaskFailed
from asyncresult.integrations.celery import CeleryAsyncResult, from_celery, to_celery
from tests.integrations.celery_project import client, make_project


@pytest.fixture
def app() -> Generator[Celery]:
    # The plug-in: to make a GroupResult with Celery's own backend subscribes to its members at once.
    with client(broker_url="memory://", result_backend="asyncresult+redis://127.0.0.1:1/0") as made:
        yield made


def tree(app: Celery) -> Any:
    """A chord's body, behind a group of two, behind a task; the body continued."""
    first = app.AsyncResult("first")
    header = app.GroupResult("header", [app.AsyncResult("a"), app.AsyncResult("b")], parent=first)
    return app.AsyncResult("last", parent=app.AsyncResult("body", parent=header))


def test_there_and_back(app: Celery) -> None:
    theirs = tree(app)
    ours = AsyncResult.from_celery(theirs)
    assert isinstance(ours, AsyncResult)
    assert isinstance(ours.parent.parent, GroupResult)  # type: ignore[union-attr]
    assert ours.as_tuple() == theirs.as_tuple()
    assert ours.to_celery(app).as_tuple() == theirs.as_tuple()
    assert ours.backend is asyncresult.connect(app)
    assert ours == theirs
    assert theirs == ours
    group = AsyncResult.from_celery(theirs.parent.parent)
    assert isinstance(group, GroupResult)
    assert group.to_celery(app) == theirs.parent.parent
    joined = from_celery(app.ResultSet([theirs, app.AsyncResult("x")]))
    assert type(joined) is ResultSet
    assert [member.id for member in to_celery(joined, app)] == ["last", "x"]


def test_ignored_results(app: Celery) -> None:
    theirs = app.AsyncResult("x")
    theirs.ignored = True
    ours = from_celery(theirs)
    assert ours.ignored
    assert to_celery(ours, app).ignored


async def test_eager_results(app: Celery) -> None:
    done = CelerysEager("done", 5, "SUCCESS", name="add")
    done.parent = CelerysEager("before", 4, "SUCCESS")
    failed = CelerysEager("failed", ValueError("no"), "FAILURE", traceback="Traceback …")
    stopped = CelerysEager("stopped", SystemExit(3), "FAILURE")
    ours = from_celery(done)
    assert isinstance(ours, EagerResult)
    assert await ours == 5
    assert ours.parent is not None
    assert await ours.parent == 4
    assert await ours.name() == "add"
    with pytest.raises(ValueError, match="no"):
        await from_celery(failed)
    with pytest.raises(TaskFailed) as caught:
        await from_celery(stopped)
    assert (caught.value.exc_type, caught.value.exc_module) == ("SystemExit", "builtins")
    back = to_celery(ours, app)
    assert (back.get(), back.parent.get(), back.name) == (5, 4, "add")
    assert isinstance(to_celery(from_celery(failed), app).result, ValueError)


def test_what_is_no_result() -> None:
    handle = AsyncResult("x")
    assert from_celery(handle) is handle
    with pytest.raises(TypeError, match="not str"):
        from_celery("x")
    with pytest.raises(TypeError):
        AsyncResult.from_celery("x")


def test_what_celery_makes_of_a_handle(app: Celery) -> None:
    handle = from_celery(tree(app))
    assert isinstance(handle, ResultBase)
    assert result_from_tuple(handle) is handle
    assert app.backend.prepare_value(handle) == handle.as_tuple()
    assert app.backend.prepare_value(handle.parent.parent) == handle.parent.parent.as_tuple()
    assert app.AsyncResult("child", parent=handle).as_tuple()[0][1] == handle.as_tuple()


def test_a_set_of_celerys_refuses_handles(app: Celery) -> None:
    """It would wait with methods that block, and take coroutines for answers."""
    with pytest.raises(TypeError, match=r"to_celery\(app\)"):
        app.ResultSet([from_celery(app.AsyncResult("x"))])


def test_copies_keep_the_app(app: Celery) -> None:
    handle = from_celery(app.AsyncResult("x"))
    assert isinstance(handle, CeleryAsyncResult)
    for twin in (copy.copy(handle), copy.deepcopy(handle)):
        assert twin.backend is asyncresult.connect(app)
    with pytest.raises(NotReady):
        _ = handle.value


def test_a_handle_of_an_app_that_cannot_be_connected() -> None:
    """It can be sent, and says why it cannot be awaited."""
    app = make_project(broker_url="memory://", result_backend="disabled://")
    handle = app.tasks["project.add"].delay(1, 1).handle
    with pytest.raises(ValueError, match="disabled"):
        _ = handle.backend
    app.close()
