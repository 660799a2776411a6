"""Adoption: blocking code of an app stays as it is, and what it gets can be awaited."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Generator
from typing import Any

import celery
import pytest
from celery import Celery, shared_task
from celery.backends.redis import RedisBackend
from celery.contrib.abortable import AbortableAsyncResult, AbortableTask
from celery.result import AsyncResult as CelerysResult
from celery.result import EagerResult as CelerysEagerResult

import asyncresult
from asyncresult import AsyncResult, Promise, ResultSet, TaskFailed
from asyncresult.integrations.celery import AwaitableResult, Task, install
from tests.integrations.celery_project import Order, Receipt, Report, in_thread
from tests.tools.celery_app import close_app, make_app
from tests.tools.celery_worker import CeleryWorker

pytestmark = pytest.mark.celery


def nothing() -> None: ...


@pytest.fixture
def plain_app(celery_worker: CeleryWorker) -> Generator[Celery]:
    """An app that knows nothing of asyncresult."""
    app = make_app(**celery_worker.config)
    try:
        yield app
    finally:
        if (sender := getattr(app, "_asyncresult_sender", None)) is not None:
            sender.client.connection_pool.disconnect()
        close_app(app)


async def test_delay_gives_celerys_own_result_which_can_be_awaited(app: Celery) -> None:
    add = app.tasks["project.add"]
    async with asyncresult.connect(app):
        result = add.delay(2, 3)
        assert type(result) is app.AsyncResult
        assert isinstance(result, (CelerysResult, AwaitableResult))
        assert result.backend is app.backend
        assert await result == 5
        assert result.handle.done()  # the one that was awaited
        assert isinstance(result.handle, AsyncResult)
        assert await add.apply_async((2, 4), countdown=0) == 6
        assert await add.s(3, 4).delay() == 7
        assert await app.send_task("project.add", (4, 4)) == 8


async def test_its_blocking_face_is_unchanged(app: Celery) -> None:
    """In the threads of a framework, say; on the loop's thread, too, it does what it did."""
    add, boom = app.tasks["project.add"], app.tasks["project.boom"]

    def blocking() -> Any:
        result, failing = add.delay(2, 3), boom.delay()
        assert type(result.backend) is type(app.backend)
        value = result.get(timeout=10)
        assert isinstance(failing.get(timeout=10, propagate=False), ValueError)
        return value, result.state, result.ready(), result.successful(), failing.failed(), failing.status

    assert await in_thread(app, blocking) == (5, "SUCCESS", True, True, True, "FAILURE")
    async with asyncresult.connect(app):
        result = add.delay(2, 3)
        assert await result == 5
        assert (result.state, result.result, result.failed()) == ("SUCCESS", 5, False)
        assert app.AsyncResult(result.id) == result


async def test_whatever_joins_handles_takes_it(app: Celery) -> None:
    add = app.tasks["project.add"]
    async with asyncresult.connect(app) as backend:
        assert await asyncio.gather(add.delay(1, 1), add.delay(2, 2)) == [2, 4]
        assert await ResultSet([add.delay(1, 1), (await add.adelay(2, 2))]) == [2, 4]
        assert await asyncresult.gather(add.delay(1, 1), add.delay(2, 2)) == (2, 4)
        assert {handle.value async for handle in asyncresult.as_completed([add.delay(1, 1)])} == {2}
        done, pending = await asyncresult.wait([add.delay(1, 1), add.delay(2, 2)])
        assert (len(done), len(pending)) == (2, 0)
        assert await Promise.all([add.delay(1, 1), 7]) == [2, 7]
        first = backend.result((await add.adelay(1, 1)).id)
        assert await first.then(lambda value: add.delay(value, 10)) == 12  # the value, not the result
        members: ResultSet[Any] = ResultSet([])
        members.add(add.delay(5, 5))
        assert await members == [10]
        with pytest.raises(LookupError):
            async with asyncresult.scope(on_error="detach") as tasks:
                adopted = tasks.adopt(add.delay(1, 1))
                assert type(adopted) is app.AsyncResult
                raise LookupError
    with pytest.raises(TypeError, match="expected a result, not"):
        ResultSet([5])


def test_a_result_is_pickled_and_copied_as_celery_does(app: Celery) -> None:
    asyncresult.connect(app)
    result = app.AsyncResult("some-id")
    _ = result.handle
    assert "_asyncresult" not in repr(result.__reduce__())
    app.set_current()
    assert pickle.loads(pickle.dumps(result)).id == "some-id"


@pytest.mark.parametrize("when", ["used before", "finalized", "not yet"])
async def test_install_reaches_every_task(when: str, plain_app: Celery) -> None:
    app = plain_app

    class Base(celery.Task):  # type: ignore[misc]
        flavour = "own"

    @shared_task(name=f"shared.{when}")
    def shared() -> None: ...

    early = app.task(nothing, shared=False, name="early", base=Base)
    if when == "used before":
        assert early.name == "early"  # evaluates it
    if when == "finalized":
        app.finalize()
    add = app.tasks["tests.add"] if when != "not yet" else None
    install(app)
    install(app)
    app.task(nothing, shared=False, name="late", base=Base)
    app.register_task(type("Registered", (Base,), {"name": "registered", "run": lambda self: None})())
    assert add is None or app.tasks["tests.add"] is add
    names = ["early", "late", "registered", f"shared.{when}", "tests.add"]
    assert [name for name in names if not hasattr(app.tasks[name], "adelay")] == []
    assert app.tasks["early"].flavour == app.tasks["late"].flavour == "own"
    async with asyncresult.connect(app):
        assert await app.tasks["tests.add"].delay(1, 1) == 2
        assert await (await app.tasks["tests.add"].adelay(2, 3)) == 5
        assert await app.send_task("tests.add", (1, 1)) == 2


async def test_what_is_no_result_passes_through(plain_app: Celery) -> None:
    class Locked(celery.Task):  # type: ignore[misc]
        abstract = True

        def apply_async(self, *args: Any, **options: Any) -> Any:
            return CelerysEagerResult(None, None, "REJECTED")

    class Later(celery.Task):  # type: ignore[misc]
        abstract = True

        def delay(self, *args: Any, **options: Any) -> Any:
            return None

        apply_async = delay

    install(plain_app)
    locked = plain_app.task(nothing, shared=False, name="locked", base=Locked)
    later = plain_app.task(nothing, shared=False, name="later", base=Later)
    for result in (locked.delay(), locked.apply_async(), await locked.adelay(), await locked.aapply_async()):
        assert type(result) is CelerysEagerResult
        assert (result.id, result.state, await result) == (None, "REJECTED", None)
    assert [later.delay(), later.apply_async(), await later.adelay(), await later.aapply_async()] == [None] * 4


async def test_an_abortable_task_keeps_its_result(app: Celery) -> None:
    """Its class of results names a backend, and no app."""

    class Abortable(Task[..., Any], AbortableTask):  # type: ignore[misc]
        abstract = True

    patient = app.register_task(type("patient", (Abortable,), {"name": "patient", "run": nothing})())
    async with asyncresult.connect(app) as backend:
        result = patient.AsyncResult("patient-1")
        assert type(result) is AbortableAsyncResult
        handle = AsyncResult.from_celery(result)
        assert handle.backend is backend
        await backend.store_result("patient-1", 4, "SUCCESS")
        assert await result == 4


async def test_values_of_the_annotated_type(app: Celery) -> None:
    async with asyncresult.connect(app):
        assert await app.tasks["project.pair"].delay(3) == (3, 3)
        assert await (await app.tasks["project.report"].adelay("x")) == Report("x", (1, 2))
        assert app.tasks["project.report"]("y") == Report("y", (1, 2))


@pytest.mark.skipif(celery.VERSION < (5, 6), reason="Celery 5.5 does not read annotations that are strings")
async def test_coroutines_take_and_return_pydantic_models(app: Celery) -> None:
    """Celery checks the arguments, and dumps what is returned; ``convert`` makes a model of that."""
    order = Order(items=["a", "b"]).model_dump()
    async with asyncresult.connect(app):
        assert await app.tasks["project.buy"].delay(order, times=2) == {"count": 4}
        assert await (await app.tasks["project.buy_as"].adelay(order)) == Receipt(count=2)
        with pytest.raises(TaskFailed, match="ValidationError"):
            await app.tasks["project.buy"].delay({"items": 5})
        assert app.tasks["project.buy"].apply((order,)).get() == {"count": 2}


async def test_a_coroutine_that_ends_cancelled_fails(app: Celery) -> None:
    async with asyncresult.connect(app) as backend:
        result = app.tasks["project.gives_up"].delay()
        meta = await backend.result(result.id).until("FAILURE", timeout=10)
        assert (meta.status, meta.result["exc_type"]) == ("FAILURE", "CancelledError")
        with pytest.raises(TaskFailed) as failed:
            await result
        assert failed.value.exc_type == "CancelledError"


async def test_a_result_is_waited_for_where_it_is_kept(app: Celery) -> None:
    """At another database of the server, and closed with the app's own; under keys of its own it is refused."""

    class Teams(RedisBackend):  # type: ignore[misc]
        task_keyprefix = "team-a-task-"

    url = app.backend.url.rpartition("/")[0] + "/5"
    async with asyncresult.connect(app) as own:
        handle = AsyncResult.from_celery(app.AsyncResult("elsewhere-1", backend=RedisBackend(app=app, url=url)))
        elsewhere = handle.backend
        assert elsewhere is not own
        await elsewhere.store_result("elsewhere-1", 5, "SUCCESS")
        assert await handle == 5
        assert await own.result("elsewhere-1").state() == "PENDING"
        again = AsyncResult.from_celery(app.AsyncResult("elsewhere-1", backend=RedisBackend(app=app, url=url)))
        assert again.backend is elsewhere
        with pytest.raises(ValueError, match=r"Teams has a task_keyprefix .*team-a-task-"):
            _ = AsyncResult.from_celery(app.AsyncResult("x", backend=Teams(app=app, url=url))).backend
    assert elsewhere.closed
