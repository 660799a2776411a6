"""The queue between handles and one stream."""

from __future__ import annotations

import asyncio
import threading

import pytest

from asyncresult._handles.feeds import Feed


class _Owner:
    """Stands for a stream."""


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_an_owner_that_is_gone_is_not_fed(elsewhere: bool) -> None:
    """The collector may run on any thread."""
    detached: list[int] = []
    owners = [_Owner()]
    feed: Feed[int] = Feed(owners[0], lambda: detached.append(threading.get_ident()), maxsize=2, final=lambda _: False)
    await (asyncio.to_thread(owners.clear) if elsewhere else asyncio.sleep(0, owners.clear()))
    await asyncio.sleep(0)
    feed.close()
    assert detached == [threading.get_ident()]


def test_an_owner_that_outlives_its_loop() -> None:
    async def begin() -> tuple[_Owner, Feed[int]]:
        owner = _Owner()
        return owner, Feed(owner, lambda: None, maxsize=2, final=lambda _: False)

    owner, _feed = asyncio.run(begin())
    del owner  # what its finalizer raised would fail this test


async def test_the_oldest_goes_that_is_not_final() -> None:
    owner = _Owner()
    feed: Feed[int] = Feed(owner, lambda: None, maxsize=2, final=lambda item: item < 0)
    for item in (-1, 1, 2, 3):
        feed.put(item)
    assert list(feed.items) == [-1, 3] and feed.dropped == 2
