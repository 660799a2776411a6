"""Requests to revoke: when messages are lost, connections break, or several workers are asked."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

import asyncresult
from asyncresult import (
    AsyncResult,
    Backend,
    BackendClosed,
    BackendError,
    Executor,
    ResultTimeout,
    TaskRevoked,
    control,
)
from asyncresult._storage.keys import REVOKE
from asyncresult._storage.store import engine_of
from asyncresult.control import Reply, Revocation, revoke, revoke_by_stamped_headers
from tests.backends.waiting import until, waits_for
from tests.tools.proxy import FaultProxy
from tests.tools.servers import RedisServer


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with asyncresult.connect("memory://") as backend:
        yield backend


class Holder:
    """Somebody who has a task, and listens."""

    def __init__(self, backend: Backend, task_id: str, worker: str = "w", *, ok: bool = True) -> None:
        self.seen: list[bool] = []
        self._ok = ok
        self._revocation = Revocation(backend, task_id, worker, self._abort)
        self.close = self._revocation.close

    def _abort(self, terminate: bool) -> tuple[bool, str]:
        self.seen.append(terminate)
        return self._ok, "done" if self._ok else "impossible"


class TestReplies:
    async def test_of_whoever_has_the_task(self, backend: Backend) -> None:
        one, other = Holder(backend, "a", "w1"), Holder(backend, "b", "w2", ok=False)
        replies = await revoke(backend, ["a", "b"], wait=True, timeout=20)
        assert sorted(replies, key=str) == [Reply("w1", True, "a: done"), Reply("w2", False, "b: impossible")]
        one.close()
        other.close()

    async def test_the_wait_ends_with_the_last_of_them(self, backend: Backend) -> None:
        holder = Holder(backend, "a")
        start = time.monotonic()
        await revoke(backend, ["a"], wait=True, timeout=60)
        assert time.monotonic() - start < 10
        holder.close()

    async def test_nobody_has_it(self, backend: Backend) -> None:
        holder = Holder(backend, "a")
        replies = await revoke(backend, ["a", "b"], wait=True, timeout=0.05)
        assert [reply.worker for reply in replies] == ["w"]
        holder.close()

    async def test_a_second_request_arrives_too(self, backend: Backend) -> None:
        holder = Holder(backend, "a")
        await revoke(backend, ["a"], wait=True, timeout=20)
        await revoke(backend, ["a"], terminate=True, wait=True, timeout=20)
        assert holder.seen == [False, True]
        holder.close()

    async def test_the_backend_is_closed_meanwhile(self, backend: Backend) -> None:
        holder = Holder(backend, "a")
        asking = asyncio.create_task(revoke(backend, ["b"], wait=True, timeout=60))
        await waits_for(backend, 2)
        await backend.aclose()
        with pytest.raises(BackendClosed):
            await asking
        holder.close()

    async def test_nothing_is_left_waiting(self, backend: Backend) -> None:
        Holder(backend, "a").close()
        await revoke(backend, ["a"], wait=True, timeout=0.01)
        await until(lambda: backend.stats().subscribed == 0)


class TestOtherWays:
    class Celery:
        def __init__(self) -> None:
            self.asked: list[Any] = []

        async def revoke(
            self, ids: Sequence[str], *, terminate: bool, signal: str | None, wait: bool, timeout: float | None
        ) -> list[Reply]:
            self.asked.append(list(ids))
            return [Reply("celery", True)]

        async def revoke_by_stamped_headers(
            self, headers: Mapping[str, Any], *, terminate: bool, signal: str | None, wait: bool, timeout: float | None
        ) -> list[Reply]:
            self.asked.append(dict(headers))
            return [Reply("celery", True)]

    async def test_all_receive_the_request(self, backend: Backend) -> None:
        way = self.Celery()
        backend.controllers.append(way)
        assert await revoke(backend, ["a"], wait=True) == [Reply("celery", True)]
        holder = Holder(backend, "a")
        replies = await revoke(backend, ["a"], wait=True, timeout=20)
        assert [reply.worker for reply in replies] == ["celery", "w"]
        assert await revoke_by_stamped_headers(backend, {"k": "v"}) == [Reply("celery", True)]
        assert way.asked == [["a"], ["a"], {"k": "v"}]
        holder.close()


class TestLost:
    """A request is a stored record, so that it is lost no more than a result is."""

    async def test_the_notification(self, redis_server: RedisServer, proxy: FaultProxy) -> None:
        async with (
            asyncresult.connect(proxy.url(), safety_interval=0.1) as ours,
            asyncresult.connect(redis_server.url()) as theirs,
        ):
            holder = Holder(ours, "a")
            await waits_for(ours, 1)
            proxy.drop_messages()
            await revoke(theirs, ["a"])
            await until(lambda: holder.seen)
            sweeps = ours.stats().sweeps
            await until(lambda: ours.stats().sweeps > sweeps + 2)
            assert holder.seen == [False], "once, however often it is read"
            holder.close()

    async def test_the_connection(self, redis_server: RedisServer, proxy: FaultProxy) -> None:
        async with asyncresult.connect(proxy.url()) as ours, asyncresult.connect(redis_server.url()) as theirs:
            holder = Holder(ours, "a")
            await waits_for(ours, 1)
            proxy.refuse()
            proxy.cut()
            await until(lambda: ours.stats().reconnects)
            await revoke(theirs, ["a"])
            assert holder.seen == []
            proxy.clear()
            await until(lambda: holder.seen)
            holder.close()

    async def test_between_start_and_subscription(self, redis_server: RedisServer, proxy: FaultProxy) -> None:
        """The task is STARTED, its holder not acknowledged yet: the read that follows finds the request."""
        async with asyncresult.connect(proxy.url()) as ours, asyncresult.connect(redis_server.url()) as theirs:
            proxy.delay(0.2, "SUBSCRIBE")

            async def work() -> None:
                async with ours.track("a"):
                    await asyncio.Event().wait()

            running = asyncio.create_task(work())
            await theirs.result("a").until("STARTED", timeout=20)
            await revoke(theirs, ["a"])
            with pytest.raises(TaskRevoked):
                await running


class TestPresence:
    """Workers are known by a key, which a server may lose."""

    @pytest.fixture
    async def clients(self, redis_server: RedisServer) -> AsyncIterator[tuple[Backend, Backend]]:
        """A worker's and a caller's."""
        url = redis_server.url()
        async with asyncresult.connect(url) as ours, asyncresult.connect(url) as theirs:
            yield ours, theirs

    async def test_flushed(self, redis_server: RedisServer, clients: tuple[Backend, Backend]) -> None:
        """Who has the task is still subscribed, and answers."""
        ours, theirs = clients
        holder = Holder(ours, "a")
        await waits_for(ours, 1)
        redis_server.cli("FLUSHALL")
        assert await revoke(theirs, ["a"]) == []
        assert holder.seen == [False]
        holder.close()

    @pytest.mark.parametrize("before", [True, False], ids=["the second task", "the first task"])
    async def test_restarted(self, redis_server: RedisServer, clients: tuple[Backend, Backend], before: bool) -> None:
        """Workers announce themselves again, so that a request for a task that nobody has yet is kept."""
        ours, theirs = clients
        if before:
            Holder(ours, "a").close()
            await until(lambda: redis_server.cli("EXISTS", "asyncresult-workers"))
        holder = Holder(ours, "b")
        await waits_for(ours, 1)
        redis_server.kill()
        redis_server.start()
        await until(lambda: redis_server.cli("EXISTS", "asyncresult-workers"))
        assert await revoke(theirs, ["c"]) == []
        with pytest.raises(TaskRevoked):
            async with ours.track("c"):
                pytest.fail("it ran")
        holder.close()

    async def test_with_a_later_task(self, redis_server: RedisServer, clients: tuple[Backend, Backend]) -> None:
        ours, _ = clients
        Holder(ours, "a").close()
        await until(lambda: redis_server.cli("EXISTS", "asyncresult-workers"))
        redis_server.cli("FLUSHALL")
        control._announced[engine_of(ours)] -= control.ANNOUNCE_INTERVAL
        Holder(ours, "b").close()
        await until(lambda: redis_server.cli("EXISTS", "asyncresult-workers"))

    async def test_nobody_at_all(self, redis_server: RedisServer, clients: tuple[Backend, Backend]) -> None:
        """Then it raises, and leaves nothing behind that would work later all the same."""
        _, theirs = clients
        with pytest.raises(BackendError, match="nobody who runs tasks"):
            await revoke(theirs, ["a"])
        assert redis_server.cli("KEYS", "*") == []


class TestInTheBackground:
    async def test_closing_waits_for_it(self, redis_server: RedisServer, proxy: FaultProxy) -> None:
        async with asyncresult.connect(redis_server.url()) as ours:
            holder = Holder(ours, "a")
            async with asyncresult.connect(proxy.url()) as theirs:
                waiting = asyncio.create_task(theirs.result("a").get(on_cancel="revoke"))
                await waits_for(theirs, 1)
                proxy.delay(0.1)
                waiting.cancel()
                await asyncio.wait([waiting])
            await until(lambda: holder.seen)
            holder.close()

    @pytest.mark.parametrize("end", ["closed", "cancelled"])
    async def test_so_it_does_for_a_wait_whose_time_is_up(
        self, redis_server: RedisServer, proxy: FaultProxy, end: str
    ) -> None:
        """Nor is it lost where who waits for it is cancelled meanwhile."""
        async with asyncresult.connect(redis_server.url()) as ours:
            holder = Holder(ours, "a")
            async with asyncresult.connect(proxy.url()) as theirs:
                await theirs.result("b").state()  # connected
                asked = proxy.stats.commands["STRLEN"]
                proxy.delay(0.1)
                waiting = asyncio.create_task(theirs.result("a").get(timeout=0.01, on_timeout="revoke"))
                await proxy.until(lambda: proxy.stats.commands["STRLEN"] > asked)
                if end == "cancelled":
                    waiting.cancel()
            await until(lambda: holder.seen)
            with pytest.raises(asyncio.CancelledError if end == "cancelled" else ResultTimeout):
                await waiting
            holder.close()

    async def test_a_revocation_for_a_wait_whose_time_is_up_fails(self, proxy: FaultProxy) -> None:
        async with asyncresult.connect(proxy.url()) as backend:
            with pytest.raises(BackendError, match="nobody who runs tasks"):
                await backend.result("a").get(timeout=0.01, on_timeout="revoke")
            async with backend.track("b"):
                pass
            asked = proxy.stats.commands["STRLEN"]
            proxy.delay(60, "STRLEN")
            waiting = asyncio.create_task(backend.result("a").get(timeout=0.01, on_timeout="revoke"))
            await proxy.until(lambda: proxy.stats.commands["STRLEN"] > asked)
            await backend.aclose(timeout=0.1)
            with pytest.raises(BackendClosed, match="before tasks were revoked"):
                await waiting

    async def test_but_not_forever(
        self, redis_server: RedisServer, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with asyncresult.connect(proxy.url()) as backend:
            async with backend.track("b"):
                pass
            waiting = asyncio.create_task(backend.result("a").get(on_cancel="revoke"))
            await waits_for(backend, 1)
            proxy.delay(60)
            waiting.cancel()
            await asyncio.wait([waiting])
            start = time.monotonic()
            await backend.aclose(timeout=0.1)
            assert time.monotonic() - start < 10
        assert "tasks a could not be revoked before the backend was closed" in caplog.text


class TestNonsense:
    @pytest.mark.parametrize("id", [None, 7, "x", "0" * 31, "../../" + "0" * 26, "0" * 32 + "\n"], ids=repr)
    async def test_requests_of_somebody_else(
        self, backend: Backend, id: object, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A worker writes its reply under a key made of the request's id: it must be one that we have made."""
        holder = Holder(backend, "a")
        request = {"status": "REVOKE", "task_id": "a", "result": {"id": id, "terminate": True, "reply": True}}
        await engine_of(backend).put(backend.key_beside("a", "revoke"), json.dumps(request).encode(), None)
        await until(lambda: "is ignored" in caplog.text)
        assert holder.seen == []
        assert [key for key in backend.driver.records._values if b"reply" in key] == []  # type: ignore[attr-defined]
        holder.close()

    @pytest.mark.parametrize("id", ["", "a\nb", None, 7], ids=repr)
    async def test_ids_that_are_none(self, backend: Backend, id: Any) -> None:
        with pytest.raises((TypeError, ValueError)):
            await revoke(backend, ["a", id])

    @pytest.mark.parametrize("request_record", [{}, {"result": None}, {"status": "REVOKE", "result": "all"}], ids=str)
    async def test_in_place_of_a_request(self, backend: Backend, request_record: dict[str, Any]) -> None:
        holder = Holder(backend, "a")
        payload = json.dumps({"status": "X", "task_id": "a", **request_record}).encode()
        await engine_of(backend).put(backend.key_beside("a", "revoke"), payload, None)
        await revoke(backend, ["a"], wait=True, timeout=20)
        assert holder.seen == [False]
        holder.close()

    @pytest.mark.parametrize(
        "payload", [b'{"status": "SUCCESS", "result": 1, "task_id": "a"}', b"{"], ids=["a final record", "unreadable"]
    )
    async def test_what_ends_a_wait(
        self, backend: Backend, payload: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The request that comes after it arrives all the same."""
        monkeypatch.setattr(control, "LISTEN_AGAIN", 0.01)
        holder = Holder(backend, "a")
        await engine_of(backend).put(backend.key_beside("a", "revoke"), payload, None)
        await until(lambda: "task a cannot be revoked" in caplog.text)
        assert await revoke(backend, ["a"], wait=True, timeout=20) == [Reply("w", True, "a: done")]
        assert caplog.text.count("cannot be revoked") == 1
        await engine_of(backend).put(backend.key_beside("a", "revoke"), payload, None)
        await until(lambda: not engine_of(backend).waiters.pending)
        holder.close()
        await asyncio.sleep(0.05)
        assert not engine_of(backend).waiters.pending  # whoever has let go of the task listens no more

    async def test_unreadable(self, backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
        """The task cannot be revoked then; it says so, and runs."""
        async with Executor() as executor:
            await engine_of(backend).put(backend.key_beside("a", "revoke"), b"{", None)
            handle = executor.options(task_id="b").submit(asyncio.sleep, 0, "ran")
            assert await handle.get(timeout=20) == "ran"
            holder = Holder(backend, "a")
            await until(lambda: "task a cannot be revoked" in caplog.text)
            holder.close()

    async def test_in_place_of_a_reply(self, backend: Backend) -> None:
        holder = Holder(backend, "a")
        asking = asyncio.create_task(revoke(backend, ["a", "b"], wait=True, timeout=20))
        await until(lambda: holder.seen)
        payload, _ = backend.driver.records._values[backend.key_beside("a", "revoke")]  # type: ignore[attr-defined]
        key = backend.key_beside("b", f"reply-{json.loads(payload)['result']['id']}")
        for nonsense in ({"status": "REPLY", "result": 7}, {"status": "OTHER", "result": {}}):
            await engine_of(backend).put(key, json.dumps({"task_id": "b", **nonsense}).encode(), None)
        other = Holder(backend, "b", "w2")
        assert sorted(reply.worker for reply in await asking) == ["w", "w2"]
        holder.close()
        other.close()


async def test_keys_beside_a_record_are_on_its_node(backend: Backend) -> None:
    from tests.tools.topologies import slot_of

    for id in ("a", "a{b}c", "{a}", "ü"):
        assert slot_of(backend.key_beside(id, "revoke")) == slot_of(backend.task_key(id))


def test_a_revocation_is_sent_though_the_loop_ends_and_nobody_closes_the_backend(redis_server: RedisServer) -> None:
    """As where Ctrl-C ends asyncio.run(): all tasks are cancelled, the revocation and the connections among them."""

    async def main() -> None:
        backend = asyncresult.connect(redis_server.url())
        redis_server.cli("SET", backend.workers_key().decode(), "1")
        kept.append(backend.key_beside("t", REVOKE).decode())
        waiting = asyncio.ensure_future(AsyncResult[None]("t", backend=backend).get(on_cancel="revoke"))
        await waits_for(backend, 1)
        waiting.cancel()
        await asyncio.wait([waiting])

    kept: list[str] = []
    asyncio.run(main())
    assert redis_server.cli("EXISTS", *kept) == 1


@pytest.mark.parametrize("how", ["alone", "wait_for", "a group of tasks", "shield", "timeout"])
def test_so_it_is_though_who_waits_is_another_task(redis_server: RedisServer, how: str) -> None:
    """The end of the loop cancels them all at once, and waits for none that begins afterwards."""
    kept: list[Any] = []

    async def wait(handle: AsyncResult[None]) -> None:
        if how == "wait_for":
            await asyncio.wait_for(handle.get(on_cancel="revoke"), 60)
        elif how == "shield":
            await asyncio.shield(handle.get(on_cancel="revoke"))
        elif how == "a group of tasks":
            async with asyncio.TaskGroup() as group:
                group.create_task(handle.get(on_cancel="revoke"))
        elif how == "timeout":
            await handle.get(timeout=0.01, on_timeout="revoke")
        else:
            await handle.get(on_cancel="revoke")

    async def main() -> None:
        backend = asyncresult.connect(redis_server.url())
        redis_server.cli("SET", backend.workers_key().decode(), "1")
        kept.append(backend.key_beside("t", REVOKE).decode())
        kept.append(asyncio.create_task(wait(AsyncResult[None]("t", backend=backend))))
        if how != "timeout":
            await until(lambda: backend.stats().subscribed == 1)
        while how == "timeout" and not any(task.get_name() == "asyncresult revoke" for task in asyncio.all_tasks()):
            await asyncio.sleep(0)  # in no turn of the loop is it missed, and its answer takes several

    asyncio.run(main())
    assert redis_server.cli("EXISTS", kept[0]) == 1
