"""``asyncresult+redis://``: Celery's own blocking calls, waiting on our connection."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import stat
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.backends.redis import RedisBackend
from celery.exceptions import ChordError, TimeoutError
from celery.result import AsyncResult, ResultSet

from asyncresult import ResultDecodeError, _portal
from asyncresult.integrations.celery import ResultBackend, SentinelResultBackend, result_backend
from tests.integrations.celery_project import client, in_thread
from tests.tools.celery_worker import CeleryWorker
from tests.tools.servers import RedisServer, running_servers

pytestmark = pytest.mark.celery


def server_of(app: Celery) -> RedisServer:
    return next(server for server in running_servers() if f":{server.port}/" in app.conf.broker_url)


def sent(app: Celery, name: str, *args: Any) -> AsyncResult:
    """Celery's own result of a task that was sent as Celery sends it."""
    return app.send_task(name, args)


def test_the_url_alone_switches_it_on_and_off(plugin_worker: CeleryWorker) -> None:
    for url, ours in ((plugin_worker.backend, True), (plugin_worker.backend.partition("+")[2], False)):
        with client(**{**plugin_worker.config, "result_backend": url}) as app:
            assert isinstance(app.backend, ResultBackend) is ours
            assert isinstance(app.backend, RedisBackend)
            assert sent(app, "project.add", 2, 3).get(timeout=10) == 5


def test_get_of_64_threads_shares_two_connections(plugin_app: Celery, plugin_worker: CeleryWorker) -> None:
    """Also when all of them are the first to use the app."""
    server = server_of(plugin_app)
    ids = [sent(plugin_app, "project.sleep", 0.3).id for _ in range(4)]
    ids += [sent(plugin_app, "project.add", i, i).id for i in range(60)]
    before = connections_to(server)
    most = 0
    start = threading.Barrier(64)

    def get(id: str) -> Any:
        start.wait()
        return app.AsyncResult(id).get(timeout=30)

    with client(**plugin_worker.config) as app, ThreadPoolExecutor(64) as threads:
        waiting = [threads.submit(get, id) for id in ids]
        while not all(future.done() for future in waiting):
            most = max(most, connections_to(server) - before)
        values = [future.result() for future in waiting]
    assert values == ["slept"] * 4 + [2 * i for i in range(60)]
    assert 1 <= most <= 2


def connections_to(server: RedisServer) -> int:
    """How many this process has."""
    count = 0
    for name in os.listdir("/dev/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as duplicate:
                count += duplicate.getpeername()[1] == server.port
        except (OSError, IndexError):  # closed meanwhile, or connected to no port
            continue
    return count


def test_nothing_is_subscribed_when_sending(plugin_app: Celery) -> None:
    """Also not for canvases, nor by making sets: only while somebody waits."""
    server = server_of(plugin_app)
    before = set(server.channels())
    add = plugin_app.tasks["project.add"]
    results = [plugin_app.send_task("project.add", (i, i)) for i in range(300)]
    grouped = group(add.s(i, i) for i in range(20)).apply_async()
    body = chord([add.s(1, 1), add.s(2, 2)], plugin_app.tasks["project.total"].s()).apply_async()
    assert set(server.channels()) <= before
    assert ResultSet(results, app=plugin_app).get(timeout=30) == [2 * i for i in range(300)]
    assert grouped.get(timeout=30) == [2 * i for i in range(20)]
    assert body.get(timeout=30) == 6


def test_joins(plugin_app: Celery) -> None:
    add, boom = plugin_app.tasks["project.add"], plugin_app.tasks["project.boom"]
    seen: list[tuple[str, Any]] = []
    results = [sent(plugin_app, "project.add", i, 1) for i in range(3)]
    joined = ResultSet(results, app=plugin_app)
    assert joined.join(timeout=10) == joined.join_native(timeout=10) == [1, 2, 3]
    joined.get(timeout=10, callback=lambda id, value: seen.append((id, value)))
    assert sorted(seen) == sorted((result.id, i + 1) for i, result in enumerate(results))
    nested = group(add.s(1, 1), group(add.s(2, 2), add.s(3, 3))).apply_async()
    assert nested.get(timeout=10) == [2, 4, 6]
    assert ResultSet([], app=plugin_app).join_native() == []
    failing = group(add.s(1, 1), boom.s()).apply_async()
    with pytest.raises(ValueError, match="boom"):
        failing.get(timeout=10)
    values = failing.get(timeout=10, propagate=False)
    assert values[0] == 2
    assert isinstance(values[1], ValueError)


def test_timeouts_are_exact(plugin_app: Celery) -> None:
    """Stock Celery looks at the clock once a second."""
    unknown = plugin_app.AsyncResult(str(uuid.uuid4()))
    for wait in (unknown.get, ResultSet([unknown], app=plugin_app).join_native):
        times: list[float] = []
        while not times or (min(times) > 0.6 and len(times) < 5):  # a busy machine does not have five bad moments
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                wait(timeout=0.1)
            times.append(time.monotonic() - began)
        assert 0.09 < min(times) < 0.6
        with pytest.raises(TimeoutError):
            wait(timeout=0)


def test_callbacks_run_in_the_thread_that_waits(plugin_app: Celery) -> None:
    threads: set[int] = set()
    messages: list[dict[str, Any]] = []

    def note(*args: Any) -> None:
        threads.add(threading.get_ident())
        messages.extend(args[:1])

    progress = sent(plugin_app, "tests.progress", 3)
    progress.get(timeout=10, on_message=note, callback=lambda id, value: note())
    assert threads == {threading.get_ident()}
    assert messages[-1]["status"] == "SUCCESS"
    assert messages[-1]["task_id"] == progress.id


def test_then_fires_when_somebody_waits(plugin_app: Celery) -> None:
    fired: list[Any] = []
    result = sent(plugin_app, "project.add", 1, 1)
    result.then(lambda ended: fired.append(ended.result))
    assert result.get(timeout=10) == 2
    assert fired == [2]


def test_on_interval_is_called_while_waiting(plugin_app: Celery) -> None:
    calls: list[float] = []
    assert sent(plugin_app, "project.sleep", 1.3).get(timeout=10, on_interval=lambda: calls.append(1)) == "slept"
    assert 1 <= len(calls) < 10  # once a second


def test_exceptions_states_and_fields_are_celerys(plugin_app: Celery) -> None:
    failed = sent(plugin_app, "tests.fail", "builtin")
    with pytest.raises(ValueError, match="boom"):
        failed.get(timeout=10)
    assert (failed.state, failed.failed(), failed.name) == ("FAILURE", True, "tests.fail")
    assert "ValueError: boom" in failed.traceback
    spawned = sent(plugin_app, "tests.spawn", 2)
    assert spawned.get(timeout=10) == [0, 1]
    assert [type(child).__name__ for child in spawned.children] == ["AsyncResult", "AsyncResult", "GroupResult"]
    assert sorted(value for _, value in spawned.children[2].children[0].collect()) == [11]


def test_a_failing_parent_ends_the_wait(plugin_app: Celery) -> None:
    add, boom = plugin_app.tasks["project.add"], plugin_app.tasks["project.boom"]
    result = chain(boom.s(), add.s(1)).apply_async()
    with pytest.raises(ValueError, match="boom"):
        result.get(timeout=10)


async def test_blocking_the_event_loop_is_refused(plugin_app: Celery) -> None:
    result = await in_thread(plugin_app, lambda: sent(plugin_app, "project.add", 1, 1))
    with pytest.raises(RuntimeError, match="event loop"):
        result.get(timeout=10)
    assert await asyncio.to_thread(result.get, timeout=10) == 2


def test_an_interrupted_wait_leaves_nothing(plugin_app: Celery) -> None:
    server = server_of(plugin_app)
    with pytest.raises(TimeoutError):
        plugin_app.AsyncResult("never").get(timeout=0.05)
    deadline = time.monotonic() + 30
    while any("never" in channel for channel in server.channels()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_unreadable_record_fails_its_own_wait_only(plugin_app: Celery) -> None:
    broken = plugin_app.AsyncResult(str(uuid.uuid4()))
    plugin_app.backend.client.set(plugin_app.backend.get_key_for_task(broken.id), b"nonsense", ex=60)
    good = sent(plugin_app, "project.add", 1, 1)
    with pytest.raises(ResultDecodeError):
        broken.get(timeout=10)
    with pytest.raises(ResultDecodeError):
        ResultSet([broken, good], app=plugin_app).get(timeout=10)
    assert good.get(timeout=10) == 2


def test_urls() -> None:
    config: dict[str, Any] = {"broker_url": "memory://"}
    for url, kind in (
        ("asyncresult+redis://127.0.0.1:1/2", ResultBackend),
        ("asyncresult+rediss://127.0.0.1:1/2?ssl_cert_reqs=none", ResultBackend),
        ("asyncresult+redis+socket:///run/redis.sock?virtual_host=2", ResultBackend),
        ("asyncresult+sentinel://127.0.0.1:1/2;sentinel://127.0.0.1:2/2", SentinelResultBackend),
    ):
        with client(**config, result_backend=url) as app:
            assert type(app.backend) is kind
            assert app.backend.connparams["db"] == 2
    with client(**config) as app:
        with pytest.raises(ValueError, match=r"asyncresult\+memcached:// is not known"):
            result_backend(app=app, url="memcached://x")


def test_results_survive_pickling(plugin_app: Celery) -> None:
    """As in Celery, they come back as results of the current app."""
    plugin_app.set_current()
    result = pickle.loads(pickle.dumps(sent(plugin_app, "project.add", 1, 1)))
    assert result.get(timeout=10) == 2
    _portal.stop()


def test_a_failed_header_comes_before_the_chords_own_error(plugin_app: Celery) -> None:
    """Both are stored: Celery looks at the parents first, and so does the wait."""
    header = plugin_app.AsyncResult(str(uuid.uuid4()))
    body = plugin_app.AsyncResult(str(uuid.uuid4()), parent=plugin_app.GroupResult(str(uuid.uuid4()), [header]))

    def fail() -> None:
        plugin_app.backend.store_result(header.id, KeyError("the task's"), "FAILURE")
        plugin_app.backend.store_result(body.id, ChordError("the chord's"), "FAILURE")

    timer = threading.Timer(0.3, fail)
    timer.start()
    with pytest.raises(KeyError, match="the task's"):
        body.get(timeout=10)
    timer.join()
