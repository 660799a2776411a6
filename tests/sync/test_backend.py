"""The backend of the blocking face; threads, forks and the end of the process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from asyncresult import BackendClosed, Probe
from asyncresult.sync import AsyncResult, Backend, GroupResult, ResultSet, connect, current_backend
from tests.sync.waiting import FOREVER, when_waiting
from tests.tools.processes import wait_until
from tests.tools.servers import RedisServer

ROOT = Path(__file__).parents[2]


class TestBackend:
    def test_records(self, backend: Backend) -> None:
        assert backend.mark_as_started("t", pid=7)
        assert backend.mark_as_retry("t", ValueError("again"))
        assert backend.get_meta("t").status == "RETRY"
        assert backend.mark_as_revoked("t")
        assert [meta.status for meta in backend.get_many(["t", "u"])] == ["REVOKED", "PENDING"]
        assert backend.forget("t", "u") == 1
        assert backend.results(["a", "b"]) == ResultSet([backend.result("a"), AsyncResult("b")])

    def test_many_records(self, backend: Backend) -> None:
        assert backend.store_many([("a", 1), ("b", 2)]) == [True, True]
        assert backend.store_many([("a", 3)], "PROGRESS", expires=60) == [False]
        assert [meta.result for meta in backend.get_many(["a", "b"])] == [1, 2]

    def test_what_is_beside_records(self, backend: Backend) -> None:
        assert backend.ping() >= 0
        assert backend.health().ok
        backend.register("t", name="shop.order")
        assert AsyncResult[Any]("t").known()
        sent = AsyncResult[Any]("t").sent()
        assert sent is not None
        assert sent.name == "shop.order"
        assert backend.get_beside("t", "note") is None
        backend.put_beside("t", "note", {"a": 1}, expires=60)
        assert backend.get_beside("t", "note") == {"a": 1}
        assert {backend} == {current_backend()}

    def test_groups(self, backend: Backend) -> None:
        group = GroupResult("g", [AsyncResult("a"), AsyncResult("b")])
        assert backend.restore_group("g") is None
        backend.save_group(group)
        form = backend.restore_group("g")
        assert [member[0][0] for member in form[1]] == ["a", "b"]
        backend.delete_group("g")
        assert backend.restore_group("g") is None

    def test_probes(self, backend: Backend) -> None:
        class Stored(Probe):
            def __init__(self) -> None:
                self.states: list[str] = []

            def stored(self, seconds: float, state: str, kept: bool) -> None:
                self.states.append(state)

        probe = Stored()
        backend.add_probe(probe)
        backend.mark_as_done("a", 1)
        backend.remove_probe(probe)
        backend.mark_as_done("b", 1)
        assert probe.states == ["SUCCESS"]

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
