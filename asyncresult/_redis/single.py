"""One server at a time: one connection subscribes, the other one reads and stores."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable, Sequence

from .._storage.waiters import Waiters
from .address import Dial
from .pump import Execute, Job, Pump
from .subscriber import Subscriber
from .topology import Links, Topology
from .writes import RECORDS_PER_CALL

__all__ = ["OneServer", "fixed_server"]


class OneServer(Topology):
    """A pump and a subscriber, both connected to the same server.

    Args:
        dial: Connects the subscriber to it.
        locate: Finds out where it is, first.
        execute: Runs a pipeline there.
        reset: Drops the command connection.
    """

    records_per_call = RECORDS_PER_CALL
    one_by_one = False

    def __init__(
        self,
        links: Links,
        table: Waiters,
        *,
        dial: Dial,
        execute: Execute,
        reset: Callable[[str], None],
        locate: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(links, table)
        self._pump = links.pump(execute, reset)
        self._subscriber = links.subscriber(dial, table, locate=locate)

    def submit(self, job: Job) -> None:
        self._pump.submit(job)

    def by_owner(self, keys: list[bytes]) -> Iterable[list[bytes]]:
        return (keys,)

    def subscribe(self, keys: list[bytes]) -> None:
        self._subscriber.subscribe(keys)

    def unsubscribe(self, keys: list[bytes]) -> None:
        self._subscriber.unsubscribe(keys)

    def wake(self) -> None:
        self._subscriber.wake()

    @property
    def pumps(self) -> Sequence[Pump]:
        return (self._pump,)

    @property
    def subscribers(self) -> Sequence[Subscriber]:
        return (self._subscriber,)

    @property
    def ended(self) -> asyncio.Task[None]:
        return self._pump.ended

    async def drain(self, timeout: float) -> None:
        await self._pump.drain(timeout)

    def close(self) -> set[asyncio.Task[None]]:
        return {self._pump.close()}


def fixed_server(links: Links, table: Waiters) -> OneServer:
    """The server at the address that the URL gives."""
    address = links.options.addresses[0]
    connection = links.connection(address)
    dial = functools.partial(links.dial, address)
    return OneServer(links, table, dial=dial, execute=connection.execute, reset=connection.abort)
