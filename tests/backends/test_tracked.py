"""Around a function: tracked(). And what an application keeps beside a record."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from asyncresult import Backend, ResultEncodeError, current_task

from .conftest import MakeBackend


class TestTracked:
    async def test_each_call_is_a_task(self, backend: Backend) -> None:
        @backend.tracked(id=lambda job, **_: job["id"], history=5)
        async def resize(job: dict[str, str], *, width: int) -> str:
            task = current_task()
            assert task is not None
            assert task.id == job["id"]
            await task.progress(1, 2)
            return f"{job['name']}@{width}"

        assert await resize({"id": "a", "name": "cat.png"}, width=100) == "cat.png@100"
        assert await backend.result("a").get(timeout=20) == "cat.png@100"
        states = [meta.status async for meta in backend.result("a").updates(since="0")]
        assert states == ["STARTED", "PROGRESS", "SUCCESS"]
        assert await backend.result("a").name() == f"{__name__}.{resize.__qualname__}"

    async def test_what_it_raises(self, backend: Backend) -> None:
        @backend.tracked(id=lambda: "a", name="n")
        async def fail() -> None:
            raise ValueError("boom")

        for _ in range(2):
            with pytest.raises(ValueError, match="boom"):
                await fail()
        meta = await backend.get_meta("a")
        assert (meta.status, meta.name) == ("FAILURE", "n")

    async def test_ids_of_its_own(self, backend: Backend) -> None:
        @backend.tracked()
        async def own_id() -> str:
            task = current_task()
            assert task is not None
            return task.id

        ids = [await own_id(), await own_id()]
        assert ids[0] != ids[1]
        assert [await backend.result(id).get(timeout=20) for id in ids] == ids

    async def test_what_is_no_coroutine_function(self, backend: Backend) -> None:
        with pytest.raises(TypeError, match="coroutine functions"):
            backend.tracked()(len)  # type: ignore[arg-type]


class TestBeside:
    """Something of an application's own, kept beside a record."""

    async def test_it_outlasts_what_workers_write(self, backend: Backend, make_backend: MakeBackend) -> None:
        assert await backend.get_beside("t", "django") is None
        value = {"path": "app.tasks.send", "enqueued": datetime.now(UTC), "args": [1, "ü"]}
        await backend.put_beside("t", "django", value)
        await backend.put_beside("t", "other", 7)
        await backend.mark_as_done("t", "done")
        other = make_backend()
        assert await other.get_beside("t", "django") == value
        assert await other.get_beside("t", "other") == 7
        assert await other.result("t").get(timeout=20) == "done"
        await backend.put_beside("t", "django", None)
        assert await other.get_beside("t", "django") is None

    async def test_it_expires(self, backend: Backend) -> None:
        await backend.put_beside("t", "django", 1, expires=1)
        async with asyncio.timeout(20):
            while await backend.get_beside("t", "django") is not None:
                await asyncio.sleep(0.05)

    async def test_what_cannot_be_stored(self, backend: Backend) -> None:
        with pytest.raises(ResultEncodeError):
            await backend.put_beside("t", "django", object())

    @pytest.mark.parametrize("name", ["", "a b", "x.y", "revoke\n", "{a}", "ä", "1", "a" * 65])
    async def test_names_that_are_none(self, backend: Backend, name: str) -> None:
        with pytest.raises(ValueError, match="beside"):
            await backend.put_beside("t", name, 1)

    async def test_our_own_names_are_apart(self, backend: Backend) -> None:
        await backend.put_beside("t", "revoke", True)
        async with backend.track("t"):
            pass
        assert await backend.get_beside("t", "revoke") is True
