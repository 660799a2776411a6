"""Both directions with stock Celery: it reads what we write, and we read what its worker writes."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest

celery = pytest.importorskip("celery")

from celery.result import AsyncResult as StockResult  # noqa: E402 - after the skip
from celery.result import GroupResult as StockGroup  # noqa: E402

import asyncresult  # noqa: E402
from asyncresult import AsyncResult, GroupResult, TaskFailed, TaskRevoked, connect, result_from_tuple  # noqa: E402
from tests.tools import celery_app as tasks  # noqa: E402
from tests.tools.celery_worker import CeleryWorker  # noqa: E402

pytestmark = [
    pytest.mark.celery,
    pytest.mark.allow_leaks("sockets", "subscriptions", "threads"),  # stock Celery's own
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),  # Celery under redis-py 8
]


# -- stock Celery reads what we write -------------------------------------------------------------------------------


@pytest.fixture
def stock(redis_url: str) -> Iterator[Any]:
    """A Celery client whose results are in the test's server."""
    app = tasks.make_app(broker_url=redis_url, result_backend=redis_url)
    yield app
    tasks.close_app(app)


def read(app: Any, id: str) -> StockResult:
    return StockResult(id, app=app)


@pytest.mark.parametrize("value", [*tasks.TYPED_VALUES.values(), None, [1, [2]], {"a": {"b": 1.5}}, "", 0], ids=repr)
async def test_stock_celery_reads_values(redis_url: str, stock: Any, value: Any) -> None:
    async with connect(redis_url) as backend:
        await backend.mark_as_done("x", value)
    result = read(stock, "x")
    assert result.state == "SUCCESS" and result.ready() and result.successful()
    assert result.get(timeout=20) == value and type(result.result) is type(value)
    assert result.date_done.tzinfo is not None and result.children is None


async def test_stock_celery_reads_nan(redis_url: str, stock: Any) -> None:
    async with connect(redis_url) as backend:
        await backend.mark_as_done("x", float("nan"))
    assert math.isnan(read(stock, "x").get(timeout=20))


@pytest.mark.parametrize(
    "error",
    [ValueError("boom"), KeyError("k", 1), OSError(2, "No such file"), tasks.CustomError("custom", 7)],
    ids=repr,
)
async def test_stock_celery_reads_failures(redis_url: str, stock: Any, error: Exception) -> None:
    async with connect(redis_url) as backend:
        await backend.mark_as_failure("x", error, traceback="Traceback …\n")
    result = read(stock, "x")
    assert result.failed() and result.traceback == "Traceback …\n"
    assert type(result.result) is type(error) and result.result.args == error.args
    with pytest.raises(type(error)):
        result.get(timeout=20)


async def test_stock_celery_reads_every_state(redis_url: str, stock: Any) -> None:
    async with connect(redis_url) as backend:
        assert read(stock, "none").state == "PENDING"
        await backend.mark_as_started("x", pid=1, hostname="h")
        assert (read(stock, "x").state, read(stock, "x").info) == ("STARTED", {"pid": 1, "hostname": "h"})
        await backend.store_result("x", {"current": 1}, "PROGRESS")
        assert (read(stock, "x").state, read(stock, "x").info) == ("PROGRESS", {"current": 1})
        await backend.mark_as_retry("x", ValueError("again"), traceback="tb")
        assert read(stock, "x").state == "RETRY" and read(stock, "x").result.args == ("again",)
        await backend.mark_as_revoked("x", "terminated")
        with pytest.raises(celery.exceptions.TaskRevokedError, match="terminated"):
            read(stock, "x").get(timeout=20)


async def test_stock_celery_is_woken_by_what_we_publish(redis_url: str, stock: Any) -> None:
    result = read(stock, "x")
    got: list[Any] = []
    waiting = threading.Thread(target=lambda: got.append(result.get(timeout=20)))
    waiting.start()
    async with connect(redis_url) as backend:
        await backend.mark_as_done("x", "pushed")
    await asyncio.to_thread(waiting.join)
    assert got == ["pushed"]


async def test_stock_celery_reads_children_groups_and_extended_fields(redis_url: str, stock: Any) -> None:
    class Request:
        task, args, kwargs, hostname, retries = "app.add", [1], {"k": 2}, "w@h", 3
        delivery_info = {"routing_key": "q"}
        group, parent_id = "g", "p"
        children = [AsyncResult[Any]("child"), GroupResult[Any]("grp", [AsyncResult[Any]("m")])]

    async with connect(redis_url, result_extended=True) as backend:
        await backend.mark_as_done("x", 1, request=Request())
        await GroupResult[Any]("saved", [backend.result("a"), backend.result("b")]).save()
    result = read(stock, "x")
    child, group = result.children
    assert child.id == "child" and isinstance(group, StockGroup) and group.results[0].id == "m"
    assert (result.name, result.args, result.kwargs) == ("app.add", [1], {"k": 2})
    assert (result.worker, result.retries, result.queue) == ("w@h", 3, "q")
    saved = StockGroup.restore("saved", app=stock)
    assert [member.id for member in saved] == ["a", "b"]


@pytest.mark.parametrize("prefix", ["word", "colon:"])
async def test_prefix_and_compression_are_understood_by_stock_celery(redis_url: str, prefix: str) -> None:
    settings: dict[str, Any] = {"result_backend_transport_options": {"global_keyprefix": prefix}}
    app = tasks.make_app(broker_url=redis_url, result_backend=redis_url, **settings)
    compression = "gzip" if hasattr(app.backend, "prepare_compression") else None
    async with connect(redis_url, key_prefix=prefix, compression=compression) as backend:
        await backend.mark_as_done("x", "value")
    assert read(app, "x").get(timeout=20) == "value"
    tasks.close_app(app)


# -- we read what a stock worker writes -----------------------------------------------------------------------------


async def test_results_of_a_stock_worker(celery_worker: CeleryWorker, celery_app: Any) -> None:
    def send(name: str, *args: Any) -> AsyncResult[Any]:
        return AsyncResult(celery_app.send_task(name, args).id)

    async with connect(celery_worker.backend):
        assert await send("tests.add", 2, 3).get(timeout=20) == 5
        values = await send("tests.typed_values").get(timeout=20)
        assert values == tasks.TYPED_VALUES
        with pytest.raises(ValueError, match="boom") as caught:
            await send("tests.fail").get(timeout=20)
        assert "raise ValueError" in str(caught.value.__cause__)
        with pytest.raises(tasks.CustomError) as custom:
            await send("tests.fail", "custom").get(timeout=20)
        assert custom.value.args == ("custom boom", 7)
        with pytest.raises(TaskFailed) as unknown:
            await send("tests.fail", "unimportable").get(timeout=20)
        assert unknown.value.exc_type == "UnimportableError"
        statuses = [meta.status async for meta in send("tests.progress", 3, 0.05).updates(timeout=20)]
        assert statuses[-1] == "SUCCESS" and "PROGRESS" in statuses
        assert await send("tests.retry", 2).get(timeout=20) == 2
        late = celery_app.send_task("tests.add", (1, 1), expires=-1)
        with pytest.raises(TaskRevoked, match="expired"):
            await AsyncResult(late.id).get(timeout=20)


async def test_canvas_of_a_stock_worker(celery_worker: CeleryWorker, celery_app: Any) -> None:
    """Chains, groups and nested groups, through handles made from Celery's own as_tuple()."""
    from celery import chain, chord, group

    def add(*args: int) -> Any:
        return celery_app.signature("tests.add", args=args)

    async with connect(celery_worker.backend):
        chained = result_from_tuple(chain(add(1, 2), add(3), add(4)).apply_async().as_tuple())
        assert await chained.get(timeout=20) == 10
        assert chained.parent is not None and await chained.parent.get(timeout=20) == 6
        last: Any = result_from_tuple([*chained.as_list()[-1:], None])
        leaf = await last.get_leaf(timeout=20)
        assert leaf == 10, "from the first of the chain down to the last"
        grouped = result_from_tuple(group(add(n, n) for n in range(5)).apply_async().as_tuple())
        assert isinstance(grouped, GroupResult) and await grouped.get(timeout=20) == [0, 2, 4, 6, 8]
        nested = group(add(1, 1), group(add(2, 2), add(3, 3))).apply_async()
        assert await result_from_tuple(nested.as_tuple()).get(timeout=20) == nested.get(timeout=20)
        body = chord([add(1, 1), add(2, 2)], celery_app.signature("tests.echo")).apply_async()
        assert await result_from_tuple(body.as_tuple()).get(timeout=20) == [2, 4]
        saved = group(add(1, 1)).apply_async().save()
        restored = await GroupResult.restore(saved.id)
        assert restored is not None and await restored.get(timeout=20) == [2]
        failing = chain(celery_app.signature("tests.fail"), add(1)).apply_async()
        with pytest.raises(ValueError, match="boom"):
            await result_from_tuple(failing.as_tuple()).get(timeout=20)
        spawner = AsyncResult[Any](celery_app.send_task("tests.spawn", (2,)).id)
        await spawner.get(timeout=20)
        children = await spawner.children()
        assert children is not None and len(children) == 3 and isinstance(children[2], GroupResult)
        assert await asyncresult.ResultSet(children).get(timeout=20) == [1, 2, [11, 21]]
        assert len(await spawner.build_graph(intermediate=True)) == 6
