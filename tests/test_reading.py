"""Reading the records of many tasks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import asyncresult
from asyncresult._storage.reading import READS_UNDER_WAY
from asyncresult._storage.rounds import READ_CHUNK
from asyncresult._storage.store import engine_of
from asyncresult.errors import BackendUnavailable

MANY = 2 * READ_CHUNK + 17


async def test_many_records_keep_their_order_whatever_is_among_them() -> None:
    async with asyncresult.connect("memory://") as backend:
        values: dict[str, Any] = {f"t{n}": n for n in range(0, MANY, 3)}
        values["t3"] = "x" * 300_000  # for the thread
        values["t1500"] = {"__type__": "not a tag of ours"}
        await asyncio.gather(*(backend.mark_as_done(id, value) for id, value in values.items()))
        ids = [f"t{n}" for n in range(MANY)] + ["t3"]
        metas = await backend.get_many(ids)
        assert [meta.task_id for meta in metas] == ids
        assert [meta.status for meta in metas[:4]] == ["SUCCESS", "PENDING", "PENDING", "SUCCESS"]
        assert {meta.task_id: meta.result for meta in metas if meta.ready} == values


async def test_reads_under_way_are_given_up_with_the_first_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asyncresult.connect("memory://") as backend:
        reads: list[asyncio.Future[Any]] = []

        def read_many(keys: list[bytes]) -> asyncio.Future[Any]:
            reads.append(asyncio.get_running_loop().create_future())
            return reads[-1]

        monkeypatch.setattr(engine_of(backend), "read_many", read_many)
        reading = asyncio.ensure_future(backend.get_many([f"t{n}" for n in range(5 * READ_CHUNK)]))
        await asyncio.sleep(0)
        assert len(reads) == READS_UNDER_WAY
        reads[0].set_exception(BackendUnavailable("gone"))
        with pytest.raises(BackendUnavailable):
            await reading
        assert all(read.done() for read in reads)
        assert len(reads) == READS_UNDER_WAY
