"""What probes see of waits, stores and tasks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import asyncresult
from asyncresult import Backend, Probe, ResultTimeout, TaskMeta, TaskRevoked, WaitEnded
from asyncresult._storage.decoding import Decoder
from asyncresult._storage.probed import _LagSampler, report_many, report_stored
from asyncresult._storage.waiters import Waiters
from asyncresult.codec import Codec
from asyncresult.probe import Outcome, Probes

from .backends.waiting import until


class Recorder(Probe):
    """Keeps what it sees."""

    def __init__(self) -> None:
        self.waits: list[WaitEnded] = []
        self.others: list[tuple[Any, ...]] = []

    def wait_ended(self, wait: WaitEnded) -> None:
        self.waits.append(wait)

    def stored(self, seconds: float, state: str, kept: bool) -> None:
        assert seconds > 0
        self.others.append(("stored", state, kept))

    def task_ended(self, seconds: float, name: str | None, outcome: Outcome) -> None:
        assert seconds > 0
        self.others.append(("task_ended", name, outcome))

    @property
    def outcomes(self) -> list[str]:
        return [wait.outcome for wait in self.waits]


class Broken(Probe):
    def wait_ended(self, wait: WaitEnded) -> None:
        raise RuntimeError("of the probe")

    def for_process(self, call: Callable[[], Any]) -> Callable[[], Any]:
        raise RuntimeError("of the probe")


@pytest.fixture
async def backend(redis_url: str) -> Any:
    async with asyncresult.connect(redis_url) as backend:
        yield backend


@pytest.fixture
def seen(backend: Backend) -> Recorder:
    recorder = Recorder()
    backend.add_probe(recorder)
    return recorder


async def test_how_waits_end(backend: Backend, seen: Recorder) -> None:
    for id, store in {
        "good": backend.mark_as_done("good", 1),
        "bad": backend.mark_as_failure("bad", ValueError("no")),
        "revoked": backend.mark_as_revoked("revoked"),
    }.items():
        waiting = asyncio.ensure_future(backend.result(id).get(propagate=False))
        awaiting = asyncio.ensure_future(_await(backend.result(id)))
        await store
        await asyncio.wait([waiting, awaiting])
        assert isinstance(awaiting.exception(), {"good": type(None), "bad": ValueError, "revoked": TaskRevoked}[id])
    assert seen.outcomes == ["success"] * 2 + ["failure"] * 2 + ["revoked"] * 2
    assert [type(wait.error) for wait in seen.waits[2:4]].count(ValueError) == 1  # what is not raised is no error


async def _await(handle: Any) -> Any:
    return await handle


async def test_waits_that_are_given_up(backend: Backend, seen: Recorder) -> None:
    handle: Any = backend.result("never")
    with pytest.raises(ResultTimeout):
        await handle.get(timeout=0.01)
    with pytest.raises(ResultTimeout):
        await handle.get(timeout=0)
    waiting = asyncio.ensure_future(_await(handle))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait([waiting])
    closing = asyncio.ensure_future(_await(handle))
    await asyncio.sleep(0.01)
    await backend.aclose()
    await asyncio.wait([closing])
    assert seen.outcomes == ["timeout", "timeout", "cancelled", "error"]
    assert all(wait.handles == (handle,) and wait.seconds > 0 for wait in seen.waits)


async def test_a_join_is_one_wait_and_what_is_known_none(backend: Backend, seen: Recorder) -> None:
    handles = [backend.result(str(n)) for n in range(5)]
    waiting = asyncio.ensure_future(asyncresult.gather(*handles))
    for n in range(5):
        await backend.mark_as_done(str(n), n)
    assert await waiting == (0, 1, 2, 3, 4)
    (wait,) = seen.waits
    assert (wait.outcome, list(wait.handles), wait.error) == ("success", handles, None)
    assert await asyncresult.gather(*handles) == (0, 1, 2, 3, 4)
    assert await handles[0] == 0
    await backend.mark_as_failure("x", ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await asyncresult.gather(backend.result("x"), backend.result("y"))
    assert seen.outcomes == ["success", "failure"]


async def test_what_is_stored_and_tracked(backend: Backend, seen: Recorder) -> None:
    async with backend.track("t", name="app.add") as task:
        task.set_result(1)
    assert not await backend.store_result("t", None, "STARTED")
    assert seen.others == [
        ("stored", "STARTED", True),
        ("task_ended", "app.add", "success"),
        ("stored", "SUCCESS", True),
        ("stored", "STARTED", False),
    ]


async def test_a_probe_that_raises_is_logged_and_changes_nothing(
    backend: Backend, seen: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken()
    backend.remove_probe(seen)
    backend.add_probe(broken)
    backend.add_probe(seen)
    await backend.mark_as_done("t", 1)
    with caplog.at_level(logging.ERROR, "asyncresult"):
        assert await backend.result("t") == 1
    assert seen.outcomes == ["success"]
    assert "Broken.wait_ended failed" in caplog.text
    assert backend.probe is not None
    assert backend.probe.for_process(dict) is dict
    backend.remove_probe(broken)
    backend.remove_probe(seen)
    backend.remove_probe(seen)
    assert backend.probe is None


async def test_a_base_class_sees_nothing() -> None:
    async with asyncresult.connect("memory://") as backend:
        backend.add_probe(Probe())
        await backend.mark_as_done("t", 1)
        assert await backend.result("t") == 1


async def test_a_result_that_was_never_announced_is_counted(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with asyncresult.connect(redis_url, safety_interval=0.2) as backend:
        await backend.mark_as_done("other", 1)
        record = await backend.get_raw("other")
        assert record is not None
        waiting = asyncio.ensure_future(_await(backend.result("t")))
        await until(lambda: backend.stats().subscribed == 1 and backend.stats().sweeps > 0)
        with caplog.at_level(logging.INFO, "asyncresult"):
            await backend.command("SET", backend.task_key("t"), record.replace(b'"other"', b'"t"'))
            assert await waiting == 1
            await until(lambda: backend.stats().lost == 1)
        (line,) = [record for record in caplog.records if "1 results whose notification never came" in record.message]
        assert (line.levelno, line.__dict__["event"]) == (logging.INFO, "lost notifications")
        assert (backend.stats().pushed, backend.stats().read) == (0, 1)
        for n in range(5):  # what is announced is not counted, whoever is first
            announced = asyncio.ensure_future(_await(backend.result(f"a{n}")))
            await asyncio.sleep(0.1)
            await backend.mark_as_done(f"a{n}", n)
            assert await announced == n
        await until(lambda: backend.stats().subscribed == 0)
        assert backend.stats().lost == 1


async def test_a_join_that_reads_first_counts_what_it_reads(backend: Backend) -> None:
    await asyncio.gather(*(backend.mark_as_done(f"{n}", n) for n in range(150)))
    await backend.results([f"{n}" for n in range(150)]).get(timeout=20)
    assert (backend.stats().read, backend.stats().pushed) == (150, 0)


class Ignores:
    """A listener that ignores what it is given."""

    _follows = False

    def _on_record(self, meta: TaskMeta) -> None: ...
    def _on_error(self, error: Exception) -> None: ...
    def _follower(self) -> None: ...


class Follows(Ignores):
    """One that wants each state in its order."""

    _follows = True

    def _follower(self) -> Any:
        return self


class Table:
    """Waiters for some keys, subscribed and read, whose timers go off by :meth:`reap`."""

    def __init__(self, listeners: dict[bytes, Any]) -> None:
        codec = Codec()
        self.records = {
            key: codec.encode(TaskMeta(task_id=key.decode(), status="SUCCESS", result=1)) for key in listeners
        }
        self._timers: list[Callable[[], None]] = []
        both: Any = self  # the connections, and the loop
        self.waiters = Waiters(both, Decoder(codec, both), loop=both, safety_interval=30.0)
        self.waiters.connected()
        for key, listener in listeners.items():
            self.waiters.add(key, key.decode(), listener)
        self.waiters.acked(listeners)
        for _ in range(2):  # beside the subscription, and behind it
            self.waiters.fetched([(key, None) for key in listeners])

    def sweep(self) -> None:
        """Everything is there, though no message has come."""
        self.waiters.sweep()
        self.waiters.fetched(list(self.records.items()))

    def reap(self) -> None:
        next(timer for timer in reversed(self._timers) if timer.__name__ == "_reap")()

    # The loop, and the connections.

    def call_soon(self, fn: Callable[..., None], *args: Any) -> None:
        fn(*args)

    def call_later(self, delay: float, fn: Callable[[], None]) -> Any:
        self._timers.append(fn)
        return SimpleNamespace(cancel=lambda: None)

    def is_closed(self) -> bool:
        return False

    def subscribe(self, keys: list[bytes]) -> None: ...
    def unsubscribe(self, keys: list[bytes]) -> None: ...
    def fetch(self, keys: list[bytes]) -> None: ...


def test_a_notification_that_is_late_is_not_lost() -> None:
    """It has a LINGER to come, however soon what nobody wants is unsubscribed."""
    table = Table({b"0": Ignores(), b"1": Ignores(), b"2": Ignores()})
    table.sweep()
    table.waiters.pushed(b"0", table.records[b"0"])  # at once
    table.reap()
    table.waiters.pushed(b"1", table.records[b"1"])  # behind its unsubscription
    assert table.waiters.lost == 0
    table.reap()
    table.reap()
    assert table.waiters.lost == 1


def test_a_result_that_is_read_before_its_message_counts_once() -> None:
    table = Table({b"0": Follows()})  # it is given what was read behind the messages that are on their way
    table.sweep()
    table.sweep()
    table.waiters.pushed(b"0", table.records[b"0"])
    table.reap()
    table.reap()
    assert (table.waiters.read, table.waiters.received, table.waiters.lost) == (1, 0, 0)


async def test_the_lag_is_sampled(backend: Backend) -> None:
    lags: list[float] = []

    class Lags(Probe):
        def notified(self, lag: float) -> None:
            lags.append(lag)

    probe = Lags()
    backend.add_probe(probe)
    waiting = asyncio.ensure_future(_await(backend.result("a")))
    await until(lambda: backend.stats().subscribed == 1)
    await backend.get_meta("a")  # behind the read that follows a subscription: what that finds has no lag
    await backend.mark_as_done("a", 1)
    await waiting
    assert len(lags) == 1
    assert 0 <= lags[0] < 60
    backend.remove_probe(probe)
    waiting = asyncio.ensure_future(_await(backend.result("b")))
    await until(lambda: backend.stats().pending == 1)
    await backend.mark_as_done("b", 1)
    await waiting
    assert len(lags) == 1


# -- what there is nothing to report of ------------------------------------------------------------------------


async def test_a_store_that_fails_is_not_reported_as_one() -> None:
    recorder = Recorder()
    probes = Probes([recorder])
    loop = asyncio.get_running_loop()
    failed, cancelled, many = loop.create_future(), loop.create_future(), loop.create_future()
    failed.set_exception(ConnectionError())
    cancelled.cancel()
    many.set_result([True, ConnectionError(), False])
    for stored in (failed, cancelled):
        report_stored(probes, time.perf_counter(), "SUCCESS", stored)
        report_many(probes, time.perf_counter(), "SUCCESS", stored)
    report_many(probes, time.perf_counter(), "SUCCESS", many)
    assert recorder.others == [("stored", "SUCCESS", True), ("stored", "SUCCESS", False)]


async def test_the_lag_of_some_notifications_is_reported() -> None:
    """Of those with a date that can be read, and not of those that come while the sampler is off the table."""
    lags: list[float] = []
    later: list[Any] = []
    store: Any = SimpleNamespace(probe=SimpleNamespace(notified=lags.append))
    loop = SimpleNamespace(call_later=lambda delay, resume: later.append(resume))
    engine: Any = SimpleNamespace(loop=loop, waiters=SimpleNamespace(on_received=None))
    sampler = _LagSampler(store, engine)
    for done in ("yesterday", None, "2020-01-01T00:00:00"):
        engine.waiters.on_received = sampler
        sampler(TaskMeta(task_id="t", status="SUCCESS", _date_done=done))
        assert engine.waiters.on_received is None
        later.pop()()
        assert engine.waiters.on_received is sampler
    (lag,) = lags
    assert lag > 1e8
    sampler(TaskMeta(task_id="t", status="SUCCESS"))
    store.probe = None
    later.pop()()
    assert engine.waiters.on_received is None


def test_what_a_polled_store_has_read_goes_to_every_probe() -> None:
    polled: list[tuple[float, int]] = []

    class Polled(Probe):
        def polled(self, seconds: float, keys: int) -> None:
            polled.append((seconds, keys))

    Probes([Polled(), Polled()]).polled(0.5, 3)
    assert polled == [(0.5, 3)] * 2
