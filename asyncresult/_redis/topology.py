"""What the engine expects of a topology, and how connections of one engine are made.

The engine turns verbs into jobs and has one :class:`Topology`, which knows where the servers are: to which of them a
job goes, and where a channel is subscribed::

    RedisEngine ──> Topology ─┬─ OneServer   a pump and a subscriber                        single.py
                              ├─ Sentinel    the same two, which follow the primary         sentinel.py
                              └─ Cluster     a pump for each primary, and its subscribers   cluster.py
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence

from .._storage.waiters import Waiters
from .address import Address, Dial, dial_address
from .backoff import Health
from .connection import LIBRARY, CommandConnection, credentials
from .options import Options
from .pump import Execute, Job, Pump
from .subscriber import Sink, Subscriber
from .wire import Wire

__all__ = ["Links", "Topology"]


class Links:
    """Makes the connections of one engine, all with the same options.

    Args:
        name: The backend's URL without secrets, for messages.
        heartbeat: Seconds of silence after which a connection is tried with PING.
        largest: Bytes of a record that is taken in.
    """

    def __init__(self, options: Options, *, name: str, heartbeat: float, largest: int) -> None:
        self.options = options
        self.name = name
        self.heartbeat = heartbeat
        self.largest = largest
        self.tls = options.ssl_context()
        self.health = Health()

    async def dial(self, address: Address, factory: Callable[[], asyncio.BaseProtocol]) -> object:
        """Connect to one of the data servers.

        Raises:
            OSError: Nobody answers, or TLS fails.
        """
        return await dial_address(address, self.tls, factory)

    def connection(self, address: Address) -> CommandConnection:
        return CommandConnection(self.options, address, self.tls, heartbeat=self.heartbeat, largest=self.largest)

    def pump(
        self,
        execute: Execute,
        reset: Callable[[str], None],
        *,
        address: Address | None = None,
        undelivered: Callable[[list[Job]], None] | None = None,
    ) -> Pump:
        """A command connection, to the one server or to the node at ``address``; see :class:`.pump.Pump`."""
        return Pump(execute, reset, address=str(address or self.name), health=self.health, undelivered=undelivered)

    def subscriber(
        self, dial: Dial, sink: Sink, *, locate: Callable[[], Awaitable[object]] | None = None
    ) -> Subscriber:
        return Subscriber(
            dial=dial,
            wire=self._wire,
            sink=sink,
            address=self.name,
            heartbeat=self.heartbeat,
            connect_timeout=self.options.connect_timeout,
            health=self.health,
            locate=locate,
        )

    async def _wire(self) -> Wire:
        username, password = self.options.username, self.options.password
        if self.options.credential_provider is not None:
            username, password = await credentials(self.options.credential_provider)
        return Wire(
            username=username,
            password=password,
            client_name=self.options.client_name,
            library=LIBRARY,
            resp3=self.options.protocol == 3,
            sharded=self.options.sharded,
            largest=self.largest,
        )


class Topology(ABC):
    """Where the servers are.

    Args:
        links: Makes the connections.
        table: Who waits for what: the sink of the subscriptions.

    Attributes:
        records_per_call: Records that one call of the store script may take.
        one_by_one: Whether each key is read by a command of its own.
    """

    records_per_call: int
    one_by_one: bool

    def __init__(self, links: Links, table: Waiters) -> None:
        self._links = links
        self._table = table
        self._loop = asyncio.get_running_loop()

    # -- commands -------------------------------------------------------------------------------------

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Send a job to whoever has its keys."""

    @abstractmethod
    def by_owner(self, keys: list[bytes]) -> Iterable[list[bytes]]:
        """The keys, those together that one server has."""

    # -- subscriptions --------------------------------------------------------------------------------

    @abstractmethod
    def subscribe(self, keys: list[bytes]) -> None:
        """See :meth:`.._storage.waiters.Source.subscribe`."""

    @abstractmethod
    def unsubscribe(self, keys: list[bytes]) -> None:
        """See :meth:`.._storage.waiters.Source.unsubscribe`."""

    @abstractmethod
    def wake(self) -> None:
        """See :meth:`.._storage.waiters.Source.wake`."""

    # -- its connections ------------------------------------------------------------------------------

    @property
    @abstractmethod
    def pumps(self) -> Sequence[Pump]:
        """The command connections that there are now."""

    @property
    def servers(self) -> Sequence[Pump]:
        """A command connection to every server that has keys of its own; none while those are not known."""
        return self.pumps

    @property
    @abstractmethod
    def subscribers(self) -> Sequence[Subscriber]:
        """The subscriptions that there are now."""

    @property
    def last_error(self) -> str | None:
        """What is wrong with one of the connections, if anything is."""
        outages = [subscriber.outage for subscriber in self.subscribers] + [pump.outage for pump in self.pumps]
        return next((outage.reason for outage in outages if outage.reason is not None), None)

    @property
    def is_connected(self) -> bool:
        """Whether the subscription is established, and nothing is known to be wrong with the command connections."""
        subscribers = self.subscribers
        return (
            bool(subscribers)
            and all(subscriber.up for subscriber in subscribers)
            and all(pump.outage.reason is None for pump in self.pumps)
        )

    # -- life -----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def ended(self) -> asyncio.Task[None]:
        """Done when the topology was closed, or its loop shut down."""

    def stop_listening(self) -> set[asyncio.Task[None]]:
        """Close everything but the command connections; returns the tasks that are ending."""
        return {subscriber.close() for subscriber in self.subscribers}

    @abstractmethod
    async def drain(self, timeout: float) -> None:
        """Give the jobs that have a patience at most ``timeout`` seconds."""

    @abstractmethod
    def close(self) -> set[asyncio.Task[None]]:
        """Close the command connections; returns the tasks that are ending."""
