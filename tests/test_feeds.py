"""The queue between handles and one stream."""

from __future__ import annotations

import asyncio
import threading

from asyncresult._handles.feeds import Feed


class _Owner:
    """Stands for a stream."""


async def test_an_owner_that_was_collected_elsewhere_is_missed_at_the_next_item() -> None:
    """The collector may run on any thread. There the loop cannot be called, so the next item finds it gone."""
    detached: list[str] = []
    owners = [_Owner()]
    feed: Feed[int] = Feed(owners[0], lambda: detached.append("once"), maxsize=2, final=lambda _: False)
    thread = threading.Thread(target=owners.clear)
    thread.start()
    thread.join()
    await asyncio.sleep(0)
    assert not detached
    feed.put(1)
    feed.put(2)
    assert detached == ["once"] and not feed.items


async def test_the_oldest_goes_that_is_not_final() -> None:
    owner = _Owner()
    feed: Feed[int] = Feed(owner, lambda: None, maxsize=2, final=lambda item: item < 0)
    for item in (-1, 1, 2, 3):
        feed.put(item)
    assert list(feed.items) == [-1, 3] and feed.dropped == 2
