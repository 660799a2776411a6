"""Tasks that give handles: every state, every canvas, against real workers."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import anyio
import celery
import celery.result
import pytest
from celery import Celery, chain, chord, group
from celery.exceptions import ChordError
from celery.result import AsyncResult as CelerysResult
from celery.result import ResultBase

import asyncresult
from asyncresult import AsyncResult, EagerResult, GroupResult, TaskFailed
from asyncresult.integrations.celery import from_celery
from tests.integrations.celery_project import client, in_thread
from tests.tools.celery_app import TYPED_VALUES
from tests.tools.servers import running_servers

pytestmark = pytest.mark.celery


def task(app: Celery, name: str) -> Any:
    return app.tasks[f"project.{name}"]


async def test_adelay_gives_a_handle(app: Celery) -> None:
    async with asyncresult.connect(app):
        handle = await task(app, "add").adelay(2, 3)
        assert isinstance(handle, AsyncResult)
        assert isinstance(handle, ResultBase)
        assert await handle == 5
        assert await (await task(app, "add").adelay(2, y=4)) == 6
        assert await (await task(app, "add").aapply_async((2, 5), expires=60)) == 7


async def test_values_are_those_that_stock_celery_reads(app: Celery) -> None:
    """Through our handle and through Celery's own ``get()``, in the same run."""
    async with asyncresult.connect(app):
        handle = await app.tasks["tests.typed_values"].adelay()
        assert await handle.get(timeout=30) == TYPED_VALUES
        assert await in_thread(app, lambda: CelerysResult(handle.id, app=app).get(timeout=30)) == TYPED_VALUES


async def test_every_state(app: Celery) -> None:
    tests = {name.removeprefix("tests."): app.tasks[name] for name in app.tasks if name.startswith("tests.")}
    async with asyncresult.connect(app):
        failed = await tests["fail"].adelay("chained")
        with pytest.raises(ValueError, match="the effect") as caught:
            await failed.get(timeout=30)
        assert "the cause" in str(caught.value.__cause__)
        progress = await tests["progress"].adelay(3)
        states = [meta.status async for meta in progress.updates(timeout=30)]
        assert states[-1] == "SUCCESS"
        assert set(states) <= {"PENDING", "STARTED", "PROGRESS", "SUCCESS"}
        retried = await tests["retry"].adelay(1)
        assert await retried.get(timeout=30) == 1


async def test_an_exception_class_that_is_not_here(plugin_app: Celery) -> None:
    async with asyncresult.connect(plugin_app):
        with pytest.raises(TaskFailed, match="you cannot have this class"):
            await (await plugin_app.tasks["tests.fail"].adelay("unimportable")).get(timeout=30)
        if celery.VERSION >= (5, 7):  # before, nothing was stored
            with pytest.raises(TaskFailed, match="unwanted"):
                await (await plugin_app.tasks["tests.reject"].adelay()).get(timeout=30)


async def test_ignored_result(app: Celery) -> None:
    """The handle knows that nothing will come, and gives None at once."""
    handle = app.tasks["tests.ignore_result"].delay()
    assert handle.ignored
    assert await handle is None
    async with asyncresult.connect(app):
        assert await (await app.tasks["tests.add"].aapply_async((1, 2), ignore_result=True)) is None


async def test_extended_fields(plugin_app: Celery) -> None:
    async with asyncresult.connect(plugin_app):
        handle = await task(plugin_app, "add").adelay(2, y=3)
        assert await handle == 5
        assert (await handle.name(), await handle.args(), await handle.kwargs()) == ("project.add", [2], {"y": 3})
        assert await handle.queue() == "celery"


async def test_expiry_prefix_and_compression_are_the_apps(plugin_app: Celery) -> None:
    """What we write ourselves goes where the app's workers write, and lives as long."""
    redis = plugin_app.backend.client
    async with asyncresult.connect(plugin_app) as backend:
        for state, value, lifetime in (("SUCCESS", 1, 600), ("FAILURE", ValueError("no"), 1200)):
            id = str(uuid.uuid4())
            await backend.store_result(id, value, state)
            expected = lifetime if celery.VERSION >= (5, 7) else 600
            assert redis.ttl(f"shop_celery-task-meta-{id}") in range(expected - 20, expected + 1)
            assert CelerysResult(id, app=plugin_app).state == state


CANVASES: dict[str, Any] = {
    "signature": lambda add, total: add.s(2, 3),
    "chain": lambda add, total: chain(add.s(1, 1), add.s(2), add.s(3)),
    "group": lambda add, total: group(add.s(i, i) for i in range(5)),
    "chord": lambda add, total: chord([add.s(i, i) for i in range(4)], total.s()),
    "nested chord": lambda add, total: chord([chord([add.s(1, 1), add.s(2, 2)], total.s()), add.s(3, 3)], total.s()),
    "chain with a group": lambda add, total: chain(add.s(1, 1), group(add.s(1), add.s(2)), total.s(), add.s(100)),
    "group of chains": lambda add, total: group(chain(add.s(i, i), add.s(10)) for i in range(3)),
    "chain into a group": lambda add, total: chain(add.s(1, 1), group(add.s(1), add.s(2))),
    "nested group": lambda add, total: group(add.s(1, 1), group(add.s(2, 2), add.s(3, 3))),
    "map": lambda add, total: total.map([[1, 2], [3, 4]]),
    "starmap": lambda add, total: add.starmap([(1, 2), (3, 4)]),
    "chunks": lambda add, total: add.chunks([(i, i) for i in range(5)], 2),
}


@pytest.mark.allow_leaks("subscriptions")  # of the stock worker: it subscribes to the groups that it sends
@pytest.mark.parametrize("name", CANVASES)
async def test_a_canvas_gives_what_stock_celery_gets(name: str, app: Celery) -> None:
    """Sent twice: once through us, once as Celery does it, read with Celery's get()."""

    def canvas() -> Any:
        return CANVASES[name](task(app, "add"), task(app, "total"))

    async with asyncresult.connect(app):
        handle = await canvas().aapply_async()
        assert isinstance(handle, (AsyncResult, GroupResult))
        value = await handle.get(timeout=20)

        def stock() -> Any:
            result = canvas().apply_async()
            theirs = result.to_celery(app) if isinstance(result, AsyncResult) else result
            return theirs.get(timeout=20), _shape(theirs)

        assert (value, _shape(handle)) == await in_thread(app, stock)


def _shape(result: Any) -> Any:
    """What hangs together how, without ids: parents and members."""
    parent = _shape(result.parent) if result.parent is not None else None
    members = [_shape(member) for member in result.results] if hasattr(result, "results") else None
    return parent, members


async def test_a_canvas_sent_with_delay_can_be_awaited_too(app: Celery) -> None:
    """It gives Celery's own results: they await like ours, and block like Celery's."""
    add = task(app, "add")
    async with asyncresult.connect(app):
        assert await (add.s(1, 1) | add.s(2)).delay() == 4
        assert await group(add.s(1, 1), add.s(2, 2)).delay() == [2, 4]
        assert await app.send_task("project.add", (4, 4)) == 8


async def test_a_failing_chain_and_chord(app: Celery) -> None:
    add, boom, total = task(app, "add"), task(app, "boom"), task(app, "total")
    async with asyncresult.connect(app):
        failing = await chain(add.s(1, 1), boom.s(), add.s(1)).adelay()
        with pytest.raises(ValueError, match="boom"):
            await failing.get(timeout=20)
        body = await chord([add.s(1, 1), boom.s()], total.s()).adelay()
        with pytest.raises(ChordError, match="raised ValueError"):
            await body.get(timeout=20, follow_parents=False)
        with pytest.raises(ValueError, match="boom"):  # the header is the body's parent
            await (await chord([add.s(1, 1), boom.s()], total.s()).adelay()).get(timeout=20)


async def test_links_and_errbacks(app: Celery) -> None:
    add, boom, note = task(app, "add"), task(app, "boom"), task(app, "note")
    async with asyncresult.connect(app) as backend:
        linked, erred = str(uuid.uuid4()), str(uuid.uuid4())
        await add.aapply_async((1, 1), link=note.s(key=linked))
        await boom.aapply_async((), link_error=note.si(key=erred))
        assert await backend.result(linked).get(timeout=20) == 1
        assert await backend.result(erred).get(timeout=20) == 0


async def test_groups_can_be_saved_by_one_and_restored_by_the_other(app: Celery) -> None:
    add = task(app, "add")
    async with asyncresult.connect(app) as backend:
        handle = await group(add.s(i, 1) for i in range(3)).adelay()
        await handle.save()
        theirs = await in_thread(app, lambda: app.GroupResult.restore(handle.id))
        assert theirs.id == handle.id
        assert asyncresult.AsyncResult.from_celery(theirs) == handle
        restored = await GroupResult.restore(handle.id, backend)
        assert restored is not None
        assert await restored.get(timeout=30) == [1, 2, 3]


async def test_a_task_may_return_a_handle(app: Celery) -> None:
    """Celery stores it as it stores its own results: their tuple form; and in the children."""
    async with asyncresult.connect(app):
        handle = await task(app, "returns_handle").adelay()
        (id, parent), members = await handle.get(timeout=30)
        assert (parent, members) == (None, None)
        children = await handle.children()
        assert [child.id for child in children] == [id]


@pytest.mark.parametrize("how", ["delay", "adelay", "signature"])
async def test_300_calls_leave_no_channel(how: str, app: Celery) -> None:
    """Stock Celery leaves one subscription per call, until its result is asked for."""
    add = task(app, "add")
    server = next(server for server in running_servers() if f":{server.port}/" in app.conf.broker_url)
    before = server.channels()  # some are the stock worker's own
    handles = []
    async with asyncresult.connect(app):
        for i in range(300):
            if how == "delay":
                handles.append(add.delay(i, 1))
            elif how == "adelay":
                handles.append(await add.adelay(i, 1))
            else:
                handles.append(await add.s(i, 1).adelay())
        assert set(server.channels()) <= set(before)
        assert await asyncresult.ResultSet(handles).get(timeout=60) == [i + 1 for i in range(300)]


async def test_sending_does_not_block_the_loop() -> None:
    """A broker that does not answer does not hold up the loop; and cancelling does not wait for it."""
    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda reader, writer: connections.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config: dict[str, Any] = {
        "broker_url": f"redis://127.0.0.1:{port}/0",
        "result_backend": f"redis://127.0.0.1:{port}/1",
        "broker_transport_options": {"max_retries": 1, "interval_start": 0, "interval_max": 0},
        "task_publish_retry": False,
    }
    ticks = 0
    with client(**config) as app:
        async with asyncresult.connect(app):
            sending = asyncio.create_task(task(app, "add").adelay(1, 1))
            for _ in range(20):
                await asyncio.sleep(0.005)
                ticks += 1
            assert not sending.done()
            sending.cancel()
            began = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await sending
            with anyio.move_on_after(0.05) as scope:  # as web frameworks cancel
                await task(app, "add").adelay(1, 1)
            assert scope.cancelled_caught
            assert time.monotonic() - began < 5  # the broker is silent for ever
        server.close()
        for connection in connections:  # the thread notices, and ends
            connection.close()


async def test_many_can_be_sent_at_once(app: Celery) -> None:
    add = task(app, "add")
    async with asyncresult.connect(app):
        handles = await asyncio.gather(*(add.adelay(i, 0) for i in range(100)))
        assert await asyncresult.gather(*handles, timeout=30) == tuple(range(100))


async def test_eager_tasks() -> None:
    config: dict[str, Any] = {"broker_url": "memory://", "result_backend": "redis://127.0.0.1:1/0"}
    with client(**config, task_always_eager=True) as app:
        handle = await task(app, "add").adelay(2, 3)
        assert isinstance(handle, EagerResult)
        assert await handle == 5
        assert from_celery(handle) is AsyncResult.from_celery(handle) is handle
        result = task(app, "add").delay(2, 3)
        assert type(result) is celery.result.EagerResult
        assert (await result, result.get()) == (5, 5)
        with pytest.raises(ValueError, match="boom"):
            await (await task(app, "boom").adelay())
        add = task(app, "add")
        assert await (await chain(add.s(1, 1), add.s(1)).adelay()) == 3
        assert await (await group(add.s(1, 1), add.s(2, 2)).adelay()) == [2, 4]
