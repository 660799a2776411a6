"""The Executor: what is accepted ends in a truthful state, whatever happens.

Over memory, one server, and one store that is polled: what it stores it stores by ``track()``, whose tests run over
more of them.
"""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from asyncresult import (
    AsyncResult,
    Backend,
    Executor,
    ResultSet,
    TaskFailed,
    TaskRevoked,
    current_task,
    value_of,
)

from .conftest import ROWS, MakeBackend, open_store
from .waiting import until


@pytest.fixture(params=["memory", "redis", "sqlite"])
def backend_url(request: pytest.FixtureRequest) -> Any:
    return open_store(request.param, request)


no_parents = pytest.mark.not_over(*ROWS, reason="no table has a column for parents and groups")


async def add(x: int, y: int) -> int:
    return x + y


async def fail() -> int:
    raise ValueError("boom")


async def never() -> None:
    pytest.fail("it ran")


async def forever() -> None:
    await asyncio.Event().wait()


def multiply(x: int, y: int) -> int:
    return x * y


def multiply_by_itself(x: int) -> int:
    return x * x


async def status_of(handle: AsyncResult[Any]) -> tuple[str, Any]:
    """State and, of an exception, its arguments."""
    meta = await handle.backend.get_meta(handle.id)
    return meta.status, meta.result["exc_message"] if meta.status != "SUCCESS" and meta.result else meta.result


async def test_a_coroutine_function_and_a_function(backend: Backend) -> None:
    async with Executor() as executor:
        one, other = executor.submit(add, 1, y=2), executor.submit(multiply, 3, 4)
        assert not one.done()
        assert [await one.get(timeout=20), await other.get(timeout=20)] == [3, 12]


async def test_any_process_can_await_it(backend: Backend, make_backend: MakeBackend) -> None:
    async with Executor(backend) as executor:
        executor.options(task_id="t").submit(add, 1, 2)
        assert await make_backend().result("t").get(timeout=20) == 3


async def test_what_is_called_and_gives_a_coroutine(backend: Backend) -> None:
    class Adder:
        async def __call__(self, x: int) -> int:
            return x + 1

    async with Executor() as executor:
        assert await executor.submit(lambda: add(1, 2)).get(timeout=20) == 3
        assert await executor.submit(Adder(), 1).get(timeout=20) == 2


async def test_failure(backend: Backend) -> None:
    async with Executor() as executor:
        handle = executor.submit(fail)
        with pytest.raises(ValueError, match="boom"):
            await handle.get(timeout=20)
    text = await handle.traceback()
    assert text is not None
    assert text.startswith(f'Traceback (most recent call last):\n  File "{__file__}"'), "the executor's own frames"
    assert await handle.name() == f"{__name__}.fail"


async def test_leaving_waits(backend: Backend) -> None:
    async with Executor(concurrency=2) as executor:
        handles = [executor.submit(add, i, 1) for i in range(10)]
    assert [await status_of(handle) for handle in handles] == [("SUCCESS", i + 1) for i in range(10)]


async def test_cancel_pending(backend: Backend) -> None:
    """What runs is waited for; what did not run is revoked, and says so."""
    go = asyncio.Event()
    async with Executor(concurrency=1, cancel_pending=True) as executor:
        running = executor.submit(go.wait)
        waiting = executor.submit(add, 1, 2)
        await running.until("STARTED", timeout=20)
        asyncio.get_running_loop().call_later(0.01, go.set)
    assert await status_of(running) == ("SUCCESS", True)
    assert await status_of(waiting) == ("REVOKED", ["cancelled"])


async def test_nothing_is_left_listening(backend: Backend) -> None:
    async with Executor() as executor:
        executor.map(lambda x: x, range(5))
    await until(lambda: backend.stats().pending == 0)


async def test_a_failing_block_cancels_all(backend: Backend) -> None:
    with pytest.raises(LookupError):
        async with Executor(concurrency=1) as executor:
            handles = [executor.submit(forever) for _ in range(3)]
            await handles[0].until("STARTED", timeout=20)
            raise LookupError
    assert [await status_of(handle) for handle in handles] == [("REVOKED", ["cancelled"])] * 3


async def test_cancelled_while_it_waits(backend: Backend) -> None:
    handles: list[AsyncResult[None]] = []

    async def serve() -> None:
        async with Executor(concurrency=1) as executor:
            handles.extend(executor.submit(forever) for _ in range(3))

    serving = asyncio.create_task(serve())
    await until(lambda: handles)
    await handles[0].until("STARTED", timeout=20)
    serving.cancel()
    await asyncio.wait([serving])
    assert serving.cancelled()
    left = [task for task in asyncio.all_tasks() if task.get_name().startswith("asyncresult task")]
    assert left == [], "it waits for what it cancels"
    assert [await status_of(handle) for handle in handles] == [("REVOKED", ["cancelled"])] * 3


async def test_only_so_many_run_and_wait(backend: Backend) -> None:
    go = asyncio.Event()
    async with Executor(concurrency=2, max_pending=3) as executor:
        handles = [executor.submit(go.wait) for _ in range(3)]
        await handles[1].until("STARTED", timeout=20)
        assert (executor.running, executor.pending) == (2, 1)
        handles += [executor.submit(go.wait) for _ in range(2)]
        with pytest.raises(asyncio.QueueFull, match="wait_for_capacity"):
            executor.submit(add, 1, 2)
        with pytest.raises(asyncio.QueueFull):
            executor.map(lambda x: x, range(3))
        assert await handles[2].state() == "PENDING"
        waiting = asyncio.create_task(executor.wait_for_capacity())
        await asyncio.sleep(0)
        assert not waiting.done()
        go.set()
        await waiting
        await executor.submit(add, 1, 2).get(timeout=20)
        with pytest.raises(ValueError, match="max_pending is 3"):
            await executor.wait_for_capacity(4)


async def test_a_map_of_more_than_may_wait_is_accepted_whole(backend: Backend) -> None:
    most = 0

    async def double(number: int) -> int:
        nonlocal most
        most = max(most, executor.running)
        return 2 * number

    async with Executor(concurrency=2, max_pending=3) as executor:
        group = executor.map(double, range(20))
        with pytest.raises(asyncio.QueueFull):
            executor.map(double, [1])
        await executor.wait_for_capacity()
        again = executor.map(double, [20, 21])
        assert await group.get(timeout=20) == list(range(0, 40, 2))
        assert await again.get(timeout=20) == [40, 42]
    assert most <= 2


async def test_submit_outside_of_the_block(backend: Backend) -> None:
    executor = Executor()
    with pytest.raises(RuntimeError, match="async with"):
        executor.submit(add, 1, 2)
    async with executor:
        pass
    with pytest.raises(RuntimeError, match="async with"):
        executor.submit(add, 1, 2)


async def test_submit_on_another_loop(backend: Backend) -> None:
    """It would make the tasks of both fail. What to do instead is said."""

    def submit() -> None:
        with pytest.raises(RuntimeError, match=r"from_thread\.run_sync"):
            executor.submit(add, 1, 2)
        with pytest.raises(RuntimeError, match=r"from_thread\.run_sync"):
            executor.map(asyncio.sleep, [1])

    async def elsewhere() -> None:
        submit()
        with pytest.raises(RuntimeError, match=r"from_thread\.run_sync"):
            await executor.wait_for_capacity()

    async with Executor() as executor:
        await asyncio.to_thread(submit)
        await asyncio.to_thread(lambda: asyncio.run(elsewhere()))

        def as_it_says() -> AsyncResult[int]:
            return anyio.from_thread.run_sync(executor.submit, add, 1, 2)

        assert executor.pending == 0
        handle = await anyio.to_thread.run_sync(as_it_says)
        assert await handle.get(timeout=20) == 3


async def test_the_same_id_twice(backend: Backend) -> None:
    async with Executor() as executor:
        options = executor.options(task_id="t")
        options.submit(add, 1, 2)
        with pytest.raises(ValueError, match="already"):
            options.submit(add, 1, 2)


@no_parents
async def test_tasks_that_submit_tasks(backend: Backend) -> None:
    """Parent and children are recorded; a block that waits takes them too."""

    async def slowly(value: int) -> int:
        await asyncio.sleep(0.05)
        return value

    async def outer() -> str:
        return executor.submit(slowly, 3).id

    async with Executor() as executor:
        handle = executor.submit(outer)
    assert executor.running == 0
    inner = AsyncResult[int](await handle.get(timeout=20))
    assert await status_of(inner) == ("SUCCESS", 3)
    assert (await inner.meta()).parent_id == handle.id
    children = await handle.children()
    assert children == [inner]


class TestMap:
    @no_parents
    async def test_order_and_group(self, backend: Backend) -> None:
        async def double(x: int) -> int:
            return 2 * x

        async with Executor(concurrency=3) as executor:
            group = executor.map(double, range(10))
            assert await group.get(timeout=20) == [2 * i for i in range(10)]
        assert {meta.group_id for meta in await backend.get_many([member.id for member in group])} == {group.id}

    async def test_one_id_for_several(self, backend: Backend) -> None:
        async with Executor() as executor:
            with pytest.raises(ValueError, match="'t' is the id of one task, and these are 2"):
                executor.options(task_id="t").map(multiply_by_itself, [1, 2])
            assert executor.pending == 0
            assert await executor.options(task_id="t").map(multiply_by_itself, [3]).get(timeout=20) == [9]

    async def test_of_nothing(self, backend: Backend) -> None:
        async with Executor() as executor:
            assert await executor.map(lambda x: x, list[int]()).get(timeout=20) == []


class TestHandlesAsArguments:
    @no_parents
    async def test_values_take_their_place(self, backend: Backend) -> None:
        async with Executor() as executor:
            first = executor.submit(add, 1, 2)
            second = executor.submit(add, value_of(first), y=value_of(executor.submit(multiply, 2, 5)))
            assert await second.get(timeout=20) == 13
            third = executor.submit(add, value_of(second), 1)
            assert third.parent is second
            assert await third.get(timeout=20) == 14
        assert (await third.meta()).parent_id == second.id

    async def test_a_set(self, backend: Backend) -> None:
        async def total(numbers: list[int]) -> int:
            return sum(numbers)

        async with Executor() as executor:
            group = executor.map(lambda x: x + 1, [1, 2, 3])
            handle = executor.submit(total, value_of(group))
            assert handle.parent is group
            assert await handle.get(timeout=20) == 9
            assert await executor.submit(total, value_of(ResultSet(group))).get(timeout=20) == 9

    async def test_a_task_of_somebody_else(self, backend: Backend) -> None:
        async with Executor() as executor:
            handle = executor.submit(add, value_of(AsyncResult[int]("other")), 1)
            await backend.mark_as_done("other", 41)
            assert await handle.get(timeout=20) == 42

    async def test_its_failure_is_the_cause(self, backend: Backend) -> None:
        async with Executor() as executor:
            first = executor.submit(fail)
            second = executor.submit(add, value_of(first), 1)
            with pytest.raises(ValueError, match="boom"):
                await second.get(timeout=20)
        with pytest.raises(TaskFailed, match=f"task {first.id}.*argument.*ValueError: boom"):
            await AsyncResult[int](second.id).get(timeout=20)
        text = await second.traceback()
        assert text is not None
        assert "in fail" in text

    async def test_a_slot_is_not_taken_meanwhile(self, backend: Backend) -> None:
        async with Executor(concurrency=1) as executor:
            handle = executor.submit(add, value_of(AsyncResult[int]("other")), 1)
            assert await executor.submit(add, 1, 2).get(timeout=20) == 3
            await backend.mark_as_done("other", 1)
        assert await handle.get(timeout=20) == 2


class TestRetries:
    async def test_until_it_succeeds(self, backend: Backend) -> None:
        attempts: list[int] = []

        async def flaky() -> str:
            task = current_task()
            assert task is not None
            attempts.append(task.request.retries)
            if len(attempts) < 3:
                raise ValueError(f"attempt {len(attempts)}")
            return "at last"

        async with Executor() as executor:
            handle = executor.options(task_id="t", retries=5, backoff=0.01, history=10).submit(flaky)
            assert await handle.get(timeout=20) == "at last"
        assert attempts == [0, 1, 2]
        told = [meta async for meta in handle.updates(since="0")]
        assert [meta.status for meta in told] == ["STARTED", "RETRY", "STARTED", "RETRY", "STARTED", "SUCCESS"]
        assert "attempt 1" in (told[1].traceback or "")
        assert told[-1].retries == 2

    async def test_no_more(self, backend: Backend) -> None:
        async with Executor() as executor:
            handle = executor.options(retries=2, backoff=0.001).submit(fail)
            with pytest.raises(ValueError, match="boom"):
                await handle.get(timeout=20)
        assert await handle.retries() == 2

    async def test_only_for_these(self, backend: Backend) -> None:
        async with Executor() as executor:
            handle = executor.options(retries=2, backoff=60, retry_on=(OSError, KeyError)).submit(fail)
            with pytest.raises(ValueError, match="boom"):
                await handle.get(timeout=20)

    async def test_revoked_between_two_attempts(self, backend: Backend) -> None:
        async with Executor() as executor:
            handle = executor.options(retries=1, backoff=600).submit(fail)
            await handle.until("RETRY", timeout=20)
            await handle.revoke()
            with pytest.raises(TaskRevoked):
                await handle.get(timeout=20)


class TestTimes:
    async def test_timeout(self, backend: Backend) -> None:
        async with Executor() as executor:
            handle = executor.options(timeout=0.01).submit(forever)
            with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
                await handle.get(timeout=20)
        assert await handle.failed()
        assert "in forever" in (await handle.traceback() or ""), "where it hung"

    async def test_a_timeout_of_its_own_is_its_own(self, backend: Backend) -> None:
        async def work() -> None:
            raise TimeoutError("of its own")

        async with Executor() as executor:
            with pytest.raises(TimeoutError, match="of its own"):
                await executor.options(timeout=60).submit(work).get(timeout=20)

    async def test_expires(self, backend: Backend) -> None:
        go = asyncio.Event()
        async with Executor(concurrency=1) as executor:
            executor.submit(go.wait)
            handle = executor.options(expires=0.01).submit(add, 1, 2)
            with pytest.raises(TaskRevoked, match="expired"):
                await handle.get(timeout=20)
            go.set()

    async def test_an_argument_that_timed_out_has_not_expired(self, backend: Backend) -> None:
        await backend.mark_as_failure("other", TimeoutError("slow"))
        async with Executor() as executor:
            handle = executor.options(expires=60).submit(add, value_of(AsyncResult[int]("other")), 1)
            with pytest.raises(TaskFailed, match="slow"):
                await handle.get(timeout=5, follow_parents=False)


class TestRevoke:
    async def test_running(self, backend: Backend, make_backend: MakeBackend) -> None:
        async with Executor(worker="w") as executor:
            handle = executor.submit(forever)
            await handle.until("STARTED", timeout=20)
            (reply,) = await make_backend().result(handle.id).revoke(wait=True, timeout=20)
            assert (reply.worker, reply.ok, reply.detail) == ("w", True, f"{handle.id}: revoked")
            with pytest.raises(TaskRevoked, match="revoked"):
                await handle.get(timeout=20)

    async def test_waiting(self, backend: Backend, make_backend: MakeBackend) -> None:
        """At once, not when its turn comes; and its place is free."""
        go = asyncio.Event()
        async with Executor(concurrency=1, max_pending=1) as executor:
            running = executor.submit(go.wait)
            await running.until("STARTED", timeout=20)
            handle = executor.submit(add, 1, 2)
            await make_backend().result(handle.id).revoke(wait=True, timeout=20)
            with pytest.raises(TaskRevoked):
                await handle.get(timeout=20)
            await executor.wait_for_capacity()
            go.set()

    async def test_before_it_is_submitted(self, backend: Backend) -> None:
        async with Executor() as executor:
            await executor.submit(add, 1, 2).get(timeout=20)
            await backend.result("t").revoke()
            handle = executor.options(task_id="t").submit(never)
            with pytest.raises(TaskRevoked):
                await handle.get(timeout=20)

    async def test_a_task_that_suppresses_it(self, backend: Backend) -> None:
        async def stubborn() -> str:
            try:
                await forever()
            except asyncio.CancelledError:
                pass
            return "finished first"

        async with Executor() as executor:
            handle = executor.submit(stubborn)
            await handle.until("STARTED", timeout=20)
            await handle.revoke()
            assert await handle.get(timeout=20) == "finished first"


def describe(x: object, y: object) -> str:
    return f"{x}, {y}"


async def test_arguments_are_recorded_when_wanted(make_backend: MakeBackend) -> None:
    async with make_backend(result_extended=True) as backend, Executor(backend) as executor:
        handle = executor.submit(describe, 1, y=asyncio)
        await handle.get(timeout=20)
        assert await handle.args() == [1]
        assert await handle.kwargs() == {"y": repr(asyncio)}


async def test_sys_exit_does_not_end_the_process(backend: Backend) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    async with Executor() as executor:
        handle: AsyncResult[None] = executor.submit(leave)
        with pytest.raises(TaskFailed) as raised:
            await handle.get(timeout=20)
        assert raised.value.exc_type == "SystemExit"
        assert await executor.submit(add, 1, 2).get(timeout=20) == 3


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"max_pending": 0}])
async def test_wrong_numbers(backend: Backend, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Executor(**wrong)  # type: ignore[arg-type]


async def test_a_failure_that_was_awaited_is_not_called_unseen(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """The wait ends by the published record, before the store of it is confirmed; the handle is gone by then."""
    async with Executor(backend) as executor:
        with pytest.raises(ZeroDivisionError):
            await executor.submit(divmod, 1, 0)
    assert caplog.records == []
