"""Checked by mypy and pyright, never run: what the types of handles, sets and joins come out as."""

from __future__ import annotations

from typing import assert_type

from asyncresult import AsyncResult, EagerResult, GroupResult, Promise, ResultSet, TaskMeta, as_completed, gather, wait


async def one(r: AsyncResult[int], text: AsyncResult[str]) -> None:
    assert_type(await r, int)
    assert_type(await r.get(timeout=1), int)
    assert_type(r.value, int)
    assert_type(r.exception, Exception | None)
    assert_type(r.snapshot, TaskMeta | None)
    assert_type(await r.until("STARTED"), TaskMeta)
    async for meta in r.updates():
        assert_type(meta, TaskMeta)
    assert_type(await EagerResult[str]("id", "x"), str)


async def callbacks(r: AsyncResult[int]) -> None:
    async def load(n: int) -> bytes:
        return bytes(n)

    assert_type(r.then(str), Promise[str])
    assert_type(await r.then(load), bytes)
    assert_type(await r.then(load).then(len), int)
    assert_type(await r.then(), int)
    assert_type(await r.catch(str), int | str)
    assert_type(await r.finally_(lambda: None), int)


async def many(a: AsyncResult[int], b: AsyncResult[str], c: AsyncResult[float]) -> None:
    ints: ResultSet[int] = ResultSet([a])
    assert_type(await ints, list[int])
    assert_type(await ints.get(timeout=1), list[int])
    assert_type(await ints.first_success(), int)
    assert_type(await ints.then(sum), int)
    assert_type(ints[0], AsyncResult[int])
    assert_type(await gather(a, b), tuple[int, str])
    assert_type(await gather(a, b, c), tuple[int, str, float])
    assert_type(await gather(*[a, a]), tuple[int, ...])
    async for handle in as_completed([a]):
        assert_type(handle, AsyncResult[int])
    done, pending = await wait([a, a])
    assert_type(done, set[AsyncResult[int]])
    assert_type(pending, set[AsyncResult[int]])
    async for member, meta in ints.updates():
        assert_type(member, AsyncResult[int])
        assert_type(meta, TaskMeta)
    group: GroupResult[int] = GroupResult("id", [a])
    assert_type(await group, list[int])


def variance(r: AsyncResult[bool]) -> AsyncResult[int]:
    return r  # a handle on a bool is a handle on an int
