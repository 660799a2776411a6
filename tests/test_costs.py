"""What a result costs, counted: a guard against slow creep that no noisy machine can trip.

The counts are the same in each run: Python calls, callbacks of the loop, commands and bytes on the wire,
bytes allocated. They are compared with those recorded in costs.json, for the versions of Python that stand
there. Whoever changes one on purpose records it anew: ``RECORD_COSTS=1 python3 dev test tests/test_costs.py``.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import coverage
import hiredis
import pytest
from celery import Celery

import asyncresult
from asyncresult import AsyncResult, Backend, ResultSet, _portal, sync
from asyncresult._redis.wire import Wire
from asyncresult._storage.store import engine_of
from tests.tools.servers import RedisServer

N = 1000
ALLOWED = 0.10
RECORD = Path(__file__).with_name("costs.json")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

IDS = [f"00000001-0000-4000-8000-{index:012x}" for index in range(N)]

Compare = Callable[[str, float], None]


@pytest.fixture(scope="module")
def compare() -> Compare:
    """Compare a cost of one result with the recorded one; or record it."""
    recorded: dict[str, dict[str, float]] = json.loads(RECORD.read_text(encoding="utf-8"))
    recording = "RECORD_COSTS" in os.environ
    if coverage.Coverage.current() is not None:
        pytest.skip("coverage is measured, which has costs of its own")
    if PYTHON not in recorded and not recording:
        pytest.skip(f"no costs are recorded for Python {PYTHON}")

    def compare(name: str, each: float) -> None:
        if recording:
            recorded.setdefault(PYTHON, {})[name] = round(each, 3)
            RECORD.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            return
        expected = recorded[PYTHON][name]
        assert each <= expected * (1 + ALLOWED), f"{name}: {each:.3f} for each result, {expected} is recorded"
        assert each >= expected * (1 - ALLOWED), f"{name} got better, {each:.3f} from {expected}: record it"

    return compare


@pytest.fixture
async def memory() -> AsyncIterator[Backend]:
    async with asyncresult.connect("memory://") as backend:
        yield backend


def record(id: str) -> bytes:
    """A record as Celery writes it, of always the same length."""
    return json.dumps(
        {"status": "SUCCESS", "result": {"n": 1}, "traceback": None, "children": [], "date_done": None, "task_id": id}
    ).encode()


class Counting:
    """Counts the Python functions called, and the callbacks given to the loop, in its block."""

    calls = 0
    callbacks = 0

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def __enter__(self) -> Counting:
        loop = asyncio.get_running_loop()
        call_soon = loop.call_soon

        def counted(*arguments: Any, **options: Any) -> asyncio.Handle:
            self.callbacks += 1
            return call_soon(*arguments, **options)

        self._patch.setattr(loop, "call_soon", counted)
        sys.setprofile(self._called)
        return self

    def _called(self, frame: object, event: str, argument: object) -> None:
        self.calls += event == "call"

    def __exit__(self, *exc_info: object) -> None:
        sys.setprofile(None)
        self._patch.undo()


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Counting]:
    return lambda: Counting(monkeypatch)


async def some_ticks() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def warm(backend: Backend) -> None:
    """Have both connections stand."""
    await backend.mark_as_done("warm", 1)
    await AsyncResult("warm", backend=backend)


def announced(backend: Backend) -> bytes:
    """The messages of all results."""
    messages = [(b"message", backend.task_key(id), record(id)) for id in IDS]
    return b"".join(hiredis.pack_command(message) for message in messages)  # type: ignore[arg-type]


def arrive(backend: Backend, data: bytes) -> None:
    """What the connection does with what one read from the socket gave."""
    messages, _ = Wire().receive(data)
    engine_of(backend).waiters.pushed_many(messages)


async def join(backend: Backend) -> list[Any]:
    return await ResultSet([AsyncResult(id, backend=backend) for id in IDS])


async def gather(backend: Backend) -> list[Any]:
    return await asyncio.gather(*[AsyncResult(id, backend=backend) for id in IDS])


@pytest.mark.parametrize("way", [join, gather])
async def test_calls_and_callbacks(
    way: Callable[[Backend], Any], memory: Backend, counting: Callable[[], Counting], compare: Compare
) -> None:
    """To wait, and to be woken. A join wakes once, however many it waits for."""
    with counting() as waiting:
        task = asyncio.ensure_future(way(memory))
        await some_ticks()
    data = announced(memory)
    with counting() as arriving:
        arrive(memory, data)
        values = await task
    assert values == [{"n": 1}] * N
    compare(f"{way.__name__}: Python calls to wait", waiting.calls / N)
    compare(f"{way.__name__}: Python calls to be woken", arriving.calls / N)
    if way is join:
        assert arriving.callbacks < 10
    else:
        compare("gather: callbacks of the loop", arriving.callbacks / N)


def by_nothing(backend: Backend) -> Callable[[], None]:
    return lambda: None


def by_prometheus(backend: Backend) -> Callable[[], None]:
    stop: Callable[[], None] = pytest.importorskip("asyncresult.integrations.prometheus").collector(backend).close
    return stop


def by_opentelemetry(backend: Backend) -> Callable[[], None]:
    stop: Callable[[], None] = pytest.importorskip("asyncresult.integrations.otel").instrument(backend).uninstrument
    return stop


async def calls_of_a_join(counting: Callable[[], Counting], measure: Callable[[Backend], Callable[[], None]]) -> int:
    async with asyncresult.connect("memory://") as backend:
        stop = measure(backend)
        data = announced(backend)
        with counting() as joining:
            task = asyncio.ensure_future(join(backend))
            await some_ticks()
            arrive(backend, data)
            await task
        stop()
    return joining.calls


@pytest.mark.parametrize("measure", [by_prometheus, by_opentelemetry])
async def test_metrics_cost_nothing_for_each_member(
    measure: Callable[[Backend], Callable[[], None]], counting: Callable[[], Counting]
) -> None:
    """A collector sees the end of a join, and a sample of its notifications: 2 % of a thousand members at most."""
    bare = await calls_of_a_join(counting, by_nothing)
    assert bare > 10 * N
    measured = await calls_of_a_join(counting, measure)
    assert measured <= 1.02 * bare


async def store_each(backend: Backend) -> None:
    for id in IDS:
        await backend.mark_as_done(id, {"n": 1})


async def store_at_once(backend: Backend) -> None:
    await asyncio.gather(*[backend.mark_as_done(id, {"n": 1}) for id in IDS])


async def store_many(backend: Backend) -> None:
    assert await backend.store_many([(id, {"n": 1}) for id in IDS]) == [True] * N


@pytest.mark.parametrize("way", [store_each, store_at_once, store_many])
async def test_calls_and_callbacks_of_a_store(
    way: Callable[[Backend], Any], redis_url: str, counting: Callable[[], Counting], compare: Compare
) -> None:
    """In Redis, from the call to the reply. One alone has three: the caller, the pump, the socket."""
    async with asyncresult.connect(redis_url) as backend:
        await warm(backend)
        with counting() as storing:
            await way(backend)
    compare(f"{way.__name__}: Python calls", storing.calls / N)
    if way is store_many:
        assert storing.callbacks < N / 20
    else:
        compare(f"{way.__name__}: callbacks of the loop", storing.callbacks / N)


def test_calls_of_a_store_through_the_blocking_face(redis_url: str, compare: Compare) -> None:
    """In the caller's thread; and turns of the loop's: the call, the pump, the socket, the answer."""
    calls = turns = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    def turn() -> None:
        nonlocal turns
        turns += 1
        run_once()

    with sync.connect(redis_url) as backend:
        backend.mark_as_done("warm", 1)
        loop: Any = _portal._the_portal().loop
        run_once, loop._run_once = loop._run_once, turn
        sys.setprofile(count)
        for id in IDS[:100]:
            backend.mark_as_done(id, {"n": 1})
        sys.setprofile(None)
    _portal.stop()
    compare("sync: Python calls of a store", calls / 100)
    assert 400 <= turns <= 440


async def test_calls_and_callbacks_of_a_state(
    memory: Backend, counting: Callable[[], Counting], compare: Compare
) -> None:
    """From the message to the reader, who is woken for each."""
    ids, states = IDS[:50], 20

    async def read(id: str) -> int:
        return len([meta async for meta in AsyncResult(id, backend=memory).updates()])

    tasks = [asyncio.ensure_future(read(id)) for id in ids]
    await some_ticks()
    pushed = engine_of(memory).waiters.pushed
    with counting() as following:
        for number in range(states):
            for id in ids:
                state = record(id) if number == states - 1 else b'{"status": "PROGRESS", "result": %d}' % number
                pushed(memory.task_key(id), state)
            await some_ticks()
        assert await asyncio.gather(*tasks) == [1 + states] * len(ids), "PENDING comes first"
    compare("updates: Python calls for a state", following.calls / len(ids) / states)
    compare("updates: callbacks of the loop for a state", following.callbacks / len(ids) / states)


def add(x: int) -> int:
    return x


@pytest.mark.celery
async def test_calls_of_a_send(redis_url: str, counting: Callable[[], Counting], compare: Compare) -> None:
    """By the text of the last message, over an asyncio connection."""
    app = Celery(
        "costs",
        broker=redis_url,
        backend=redis_url,
        task_cls="asyncresult.integrations.celery:Task",
        set_as_current=False,
    )
    task: Any = app.task(name="add", shared=False)(add)
    async with asyncresult.connect(app):
        for number in range(2):  # the first makes the connection, and the second the text
            await task.adelay(number)
        with counting() as sending:
            for number in range(100):
                await task.adelay(number)
    compare("sending: Python calls of a task", sending.calls / 100)
    compare("sending: callbacks of the loop", sending.callbacks / 100)


@pytest.mark.parametrize("way", [join, gather])
async def test_memory_of_a_waiting_handle(way: Callable[[Backend], Any], memory: Backend, compare: Compare) -> None:
    await memory.get_meta("warm")
    gc.collect()
    tracemalloc.start()
    try:
        task = asyncio.ensure_future(way(memory))
        await some_ticks()
        gc.collect()
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    compare(f"{way.__name__}: bytes of a waiting handle", used / N)
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("way", [join, gather])
async def test_commands_to_wait(way: Callable[[Backend], Any], redis_server: RedisServer, compare: Compare) -> None:
    """A thousand waits cost one SUBSCRIBE, and two reads of each key at most: one before or beside it, one after."""
    async with asyncresult.connect(redis_server.url()) as backend:
        await warm(backend)
        redis_server.reset()
        before = int(redis_server.info("stats")["total_net_input_bytes"])
        task = asyncio.ensure_future(way(backend))
        while backend.stats().subscribed < N or redis_server.commandstats().get("mget", 0) < 1:
            await asyncio.sleep(0.01)
        await backend.get_meta("behind the reads")
        bytes_sent = int(redis_server.info("stats")["total_net_input_bytes"]) - before
        commands = redis_server.commandstats()
        assert commands["subscribe"] == 1
        assert commands["mget"] <= 5  # acknowledgements may come in several pieces, and each is followed by a read
        task.cancel()
        await asyncio.wait([task])
    # Two reads of the same keys at most, the subscription, and what this test itself asked.
    assert bytes_sent / N <= 3 * (len("celery-task-meta-") + 36 + 8)


async def test_commands_of_stored_results(redis_server: RedisServer) -> None:
    """A thousand stored results cost one MGET; a thousand stores at once cost a fiftieth of a command each."""
    async with asyncresult.connect(redis_server.url()) as backend:
        await warm(backend)
        redis_server.reset()
        await asyncio.gather(*[backend.mark_as_done(id, {"n": 1}) for id in IDS])
        commands = redis_server.commandstats()
        assert commands["evalsha"] <= N / 10  # the reset made the server forget the script, too
        assert (commands["get"], commands["set"], commands["publish"]) == (N, N, N)
        assert [meta.result for meta in await backend.get_many(IDS)] == [{"n": 1}] * N
        assert redis_server.commandstats()["mget"] == 1


async def test_a_stored_bulk_is_not_subscribed(redis_server: RedisServer) -> None:
    """Reads find everything stored."""
    ids = [f"{number}-{id}" for number in range(3) for id in IDS]
    async with asyncresult.connect(redis_server.url()) as backend:
        await warm(backend)
        await asyncio.gather(*[backend.mark_as_done(id, {"n": 1}) for id in ids])
        redis_server.cli("CONFIG", "RESETSTAT")
        assert await ResultSet([AsyncResult(id, backend=backend) for id in ids]) == [{"n": 1}] * 3 * N
        commands = redis_server.commandstats()
        assert (commands.get("subscribe", 0), commands["mget"]) == (0, 3)
