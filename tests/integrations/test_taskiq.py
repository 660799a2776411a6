"""taskiq: results that are pushed, tasks that are awaited, progress; its howto with a real worker."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from taskiq import AsyncBroker, InMemoryBroker, TaskiqDepends, TaskiqResult, async_shared_broker
from taskiq.depends.progress_tracker import ProgressTracker, TaskProgress
from taskiq.exceptions import ResultGetError, ResultIsReadyError, TaskiqResultTimeoutError

import asyncresult
from asyncresult import AsyncResult, ResultDecodeError, ResultTypeError, TaskFailed, current_backend
from asyncresult.integrations import taskiq as integration
from asyncresult.integrations.taskiq import ResultBackend, ResultIsMissing, Task, handle, install
from tests.matrix import taskiq_suites
from tests.test_howto import ENV, write_code
from tests.tools.processes import Child
from tests.tools.servers import RedisServer


@dataclass
class Picture:
    name: str
    width: int


class Model(BaseModel):
    name: str


@pytest.fixture(params=["memory", "redis"])
async def broker(request: pytest.FixtureRequest) -> AsyncGenerator[InMemoryBroker]:
    url = "memory://" if request.param == "memory" else request.getfixturevalue("redis_url")
    made = install(InMemoryBroker().with_result_backend(ResultBackend(url)), track_started=True)
    await made.startup()
    yield made
    await made.shutdown()


def results_of(broker: AsyncBroker) -> ResultBackend[Any]:
    assert isinstance(broker.result_backend, ResultBackend)
    return broker.result_backend


async def test_a_task_is_awaited(broker: InMemoryBroker) -> None:
    @broker.task
    async def add(x: int, y: int) -> int:
        return x + y

    task: Any = await add.kiq(2, 3)
    assert isinstance(task, Task)
    assert await task == 5
    assert await AsyncResult(task.task_id) == 5  # the broker's backend is the current one
    assert await handle(task) == 5
    tasks: list[Any] = [await add.kiq(i, 1) for i in range(3)]
    assert await asyncresult.gather(*tasks) == (1, 2, 3)
    result = await task.wait_result(timeout=20)
    assert (result.is_err, result.return_value, result.error) == (False, 5, None)
    assert (await task.get_result()).return_value == 5


async def test_values_are_of_the_annotated_type(broker: InMemoryBroker) -> None:
    @broker.task
    async def picture() -> Picture:
        return Picture("cat", 3)

    @broker.task
    async def model() -> Model:
        return Model(name="x")

    @broker.task
    async def wrong() -> int:
        return "no number"  # type: ignore[return-value]

    first: Any = await picture.kiq()
    assert await first == Picture("cat", 3)
    second: Any = await model.kiq()
    assert await asyncresult.gather(second) == (Model(name="x"),)
    assert (await second.wait_result()).return_value == Model(name="x")
    third: Any = await wrong.kiq()
    with pytest.raises(ResultTypeError):
        await third
    assert (await third.wait_result()).return_value == "no number"  # taskiq says so in its log only


async def test_a_failure(broker: InMemoryBroker) -> None:
    @broker.task
    async def divide(x: int, y: int) -> float:
        return x / y

    task: Any = await divide.kiq(1, 0)
    with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
        await task
    assert "in divide" in str(caught.value.__cause__)
    result = await task.wait_result()
    assert result.is_err
    assert isinstance(result.error, ZeroDivisionError)
    assert result.return_value is None


async def test_a_value_that_cannot_be_stored_fails_the_task(broker: InMemoryBroker) -> None:
    @broker.task
    async def strange() -> object:
        return object()

    task: Any = await strange.kiq()
    with pytest.raises(TaskFailed, match="ResultEncodeError: result cannot be stored as json"):
        await task


async def test_a_result_that_an_outage_holds_up(redis_server: RedisServer) -> None:
    results: ResultBackend[Any] = ResultBackend(redis_server.url(), retry=0)
    broker = install(InMemoryBroker(await_inplace=True).with_result_backend(results))
    await broker.startup()

    @broker.task
    async def work() -> str:
        redis_server.kill()
        return "done"

    task: Any = await work.kiq()
    redis_server.start()
    assert await task.handle.get(timeout=20) == "done"
    await broker.shutdown()


async def test_what_taskiq_wants_to_know_besides(broker: InMemoryBroker) -> None:
    results = results_of(broker)
    given: TaskiqResult[Any] = TaskiqResult(
        is_err=True, log="text", return_value=11, execution_time=1.5, labels={"queue": "fast"}, error=ValueError("no")
    )
    await results.set_result("1", given)
    found = await results.get_result("1", with_logs=True)
    assert (found.log, found.return_value, found.execution_time, found.labels) == ("text", 11, 1.5, {"queue": "fast"})
    assert str(found.error) == "no"
    assert (await results.get_result("1")).log is None
    with pytest.raises(ResultIsMissing):
        await results.get_result("2")


async def test_records_of_others_are_read(broker: InMemoryBroker) -> None:
    """Celery's, say, and one in which taskiq's field is nonsense."""
    results = results_of(broker)
    await results.backend.mark_as_done("1", 7)
    assert (await results.get_result("1")).return_value == 7

    for time in ("long", 10**400):  # the latter is no float

        class Nonsense:
            own_fields: Any = {"taskiq": {"log": 1, "execution_time": time, "labels": []}}

        await results.backend.store_result("2", 8, "SUCCESS", request=Nonsense())
        assert await results.get_result("2", with_logs=True) == TaskiqResult(
            is_err=False, return_value=8, execution_time=0.0
        )
        await results.backend.forget("2")


async def test_results_that_are_not_kept(redis_url: str) -> None:
    broker = install(InMemoryBroker().with_result_backend(ResultBackend(redis_url, keep_results=False)))

    @broker.task
    async def one() -> int:
        return 1

    await broker.startup()
    task: Any = await one.kiq()
    assert await task == 1
    assert (await task.wait_result()).return_value == 1
    with pytest.raises(ResultGetError):
        await task.get_result()
    await broker.shutdown()


async def test_progress(broker: InMemoryBroker) -> None:
    go_on = asyncio.Event()

    @broker.task
    async def work(progress: ProgressTracker[Any] = TaskiqDepends()) -> str:  # noqa: B008
        await go_on.wait()
        await progress.set_progress("RESIZING", {"current": 1})
        await progress.set_progress("SUCCESS", {"current": 2})  # it is not over
        return "done"

    task: Any = await work.kiq()
    assert (await task.handle.until("STARTED", timeout=20)).result["hostname"]
    async with task.handle.updates(timeout=20) as updates:
        seen = [await anext(updates)]
        go_on.set()
        seen += [meta async for meta in updates]
    assert [(meta.status, meta.result) for meta in seen if meta.status != "STARTED"] == [
        ("RESIZING", {"current": 1}),
        ("PROGRESS", {"current": 2}),
        ("SUCCESS", "done"),
    ]
    assert await task.get_progress() == TaskProgress(state="SUCCESS", meta={"current": 2})


@pytest.mark.parametrize("kept", [5, ["secret"], {"meta": "secret"}, {"state": ["secret"]}])
async def test_what_is_no_progress_is_an_error_that_quotes_nothing(broker: InMemoryBroker, kept: Any) -> None:
    results = results_of(broker)
    await results.backend.put_beside("t", integration.NAME, kept)
    with pytest.raises(ResultDecodeError, match="progress of task t is none") as caught:
        await results.get_progress("t")
    assert "secret" not in str(caught.value)


async def test_a_wait_that_takes_too_long(broker: InMemoryBroker) -> None:
    task: Task[Any] = Task("nobody", results_of(broker))
    with pytest.raises(TaskiqResultTimeoutError):
        await task.wait_result(timeout=0.05)
    waiting = asyncio.create_task(task.wait_result())
    while results_of(broker).backend.stats().pending == 0:
        await asyncio.sleep(0)
    await results_of(broker).backend.aclose()
    with pytest.raises(ResultIsReadyError):
        await waiting


async def test_pushed_and_not_polled(broker: InMemoryBroker) -> None:
    """While it waits it asks for nothing: one subscription, and the reads around its beginning."""
    backend = results_of(broker).backend
    reads: list[str] = []

    async def looked(task_id: str) -> Any:
        reads.append(task_id)

    backend.get_meta = looked  # type: ignore[method-assign]
    waiting = asyncio.create_task(Task[Any]("1", results_of(broker)).wait_result(check_interval=0.001))
    while backend.stats().subscribed == 0:
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    await backend.mark_as_done("1", 7)
    assert (await waiting).return_value == 7
    assert reads == []


async def test_tasks_from_before_and_shared_ones(broker: InMemoryBroker) -> None:
    plain = InMemoryBroker().with_result_backend(results_of(broker))

    @plain.task
    async def one() -> int:
        return 1

    assert not isinstance(await one.kiq(), Task)
    assert install(install(plain)) is plain
    assert isinstance(await one.kiq(), Task)
    assert isinstance(await one.kicker().with_labels(a=1).kiq(), Task)

    shared_class = async_shared_broker.decorator_class
    try:
        install(async_shared_broker)

        @async_shared_broker.task
        async def shared() -> int:
            return 2

        async_shared_broker.default_broker(broker)
        task: Any = await shared.kiq()
        assert await task == 2
    finally:
        async_shared_broker.decorator_class = shared_class
        async_shared_broker.default_broker(None)  # type: ignore[arg-type]


async def test_other_result_backends_are_taskiqs_business() -> None:
    broker = install(InMemoryBroker())

    @broker.task
    async def one() -> int:
        return 1

    task: Any = await one.kiq()
    assert (await task.wait_result()).return_value == 1
    with pytest.raises(TypeError, match="with_result_backend"):
        await task
    with pytest.raises(ValueError, match="with_result_backend"):
        integration.connect(broker)


async def test_connecting_a_broker(redis_url: str) -> None:
    broker = InMemoryBroker().with_result_backend(ResultBackend(redis_url, expires=100))
    connect: Callable[..., Any] = integration.connect
    if entry_points(group="asyncresult.integrations", name="taskiq"):  # else it was installed before there was one
        connect = asyncresult.connect
    async with connect(broker) as backend:
        assert backend is current_backend() is results_of(broker).backend
        await broker.startup()
        await broker.shutdown()
        assert not backend.closed
    assert backend.closed
    with pytest.raises(ValueError, match="ResultBackend"):
        connect(broker, expires=1)


def test_the_howto(redis_server: RedisServer, tmp_path: Path) -> None:
    """With a worker of taskiq's."""
    write_code("taskiq.md", tmp_path)
    env = {**ENV, "REDIS_URL": redis_server.url()}
    worker = Child(
        [sys.executable, "-m", "taskiq", "worker", "tasks:broker", "--workers", "1"],
        log=tmp_path / "log",
        env=env,
        cwd=tmp_path,
    )
    try:
        done = subprocess.run(
            [sys.executable, "main.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
        )
    finally:
        worker.stop()
    assert done.stdout.splitlines() == [
        "5",
        "(2, 4)",
        "division by zero",
        "SUCCESS 2",
        "False 9",
    ], done.stderr + worker.output()


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["taskiq", "taskiq_redis"])
def test_their_own_tests_pass(suite: str, tmp_path: Path) -> None:
    """With our result backend. Fetched, never copied; ``TASKIQ_REDIS_SOURCE`` may name a checkout."""
    checkout = os.environ.get(f"{suite.upper()}_SOURCE")
    try:
        source = Path(checkout) if checkout else getattr(taskiq_suites, f"fetch_{suite}")(tmp_path)
    except taskiq_suites.Missing as missing:
        pytest.skip(str(missing))
    assert "passed" in getattr(taskiq_suites, f"run_{suite}")(source)
