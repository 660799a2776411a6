"""Shard channels of one primary of a cluster, between its subscription and the table of waiters.

Source: SSUBSCRIBE command page (Redis 7): shard channels are assigned to slots as keys are; when a slot moves, the old
owner ends the subscription of its channels with a ``sunsubscribe`` push.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Protocol

from .._storage.waiters import Waiters
from ..errors import AsyncResultError
from .address import Address
from .topology import Links

__all__ = ["Shard"]


class Assigner(Protocol):
    """Who finds a new owner for channels: :class:`.cluster.Cluster`."""

    def unassign(self, keys: Iterable[bytes]) -> None:
        """Subscribe and read these again after the next look at the slots."""


class Shard:
    """The sink of the subscription to one primary: between it and the table of waiters."""

    def __init__(self, assigner: Assigner, links: Links, table: Waiters, address: Address) -> None:
        self.keys: set[bytes] = set()
        self._assigner = assigner
        self._table = table
        self._connected = False
        self.subscriber = links.subscriber(functools.partial(links.dial, address), self)

    def subscribe(self, keys: list[bytes]) -> None:
        self.keys.update(keys)
        if self._connected:
            self.subscriber.subscribe(keys)
        else:
            self.subscriber.wake()

    def give_up(self, keys: Iterable[bytes]) -> set[bytes]:
        """Unsubscribe ``keys``; returns them."""
        given_up = set(keys)
        if given_up:
            self.keys -= given_up
            if self._connected:
                self.subscriber.unsubscribe(list(given_up))
        return given_up

    @property
    def wanted(self) -> bool:
        return bool(self.keys)

    def connected(self) -> None:
        self._connected = True
        self.subscriber.subscribe(list(self.keys))

    def disconnected(self) -> None:
        self._connected = False
        self.dropped(list(self.keys))

    def pushed_many(self, messages: list[bytes]) -> None:
        self._table.pushed_many(messages)

    def acked(self, keys: list[bytes]) -> None:
        self._table.acked([key for key in keys if key in self.keys])  # others belong to another node by now

    def dropped(self, keys: list[bytes]) -> None:
        self._assigner.unassign(self.keys.intersection(keys))
        self.keys.difference_update(keys)

    def refused(self, keys: list[bytes], error: AsyncResultError) -> None:
        self.keys.difference_update(keys)
        self._table.refused(keys, error)

    def fail_all(self, error: AsyncResultError) -> None:
        self.refused(list(self.keys), error)
