"""``redis+cluster://``: records spread over the primaries of a cluster by the slots of their keys.

Theory of operation
-------------------

Every primary has a command connection of its own, so one that is slow, frozen or gone holds up its own keys
and no others. Commands are sent to whoever owns the slot of their key, in one pipeline a node::

    job ──split by owner──> parts ──answered──> replies in order ──> job is done
                              │  └─MOVED───> the slot has a new owner: sent there
                              │  └─ASK─────> the slot is on its way: sent there once, after ASKING
                              └─no answer, CLUSTERDOWN, TRYAGAIN──> undelivered: sent again after the next look

The *keeper* looks at the slots with each heartbeat, and soon after every sign that they have changed. Its
look is also the pause between two attempts: what is undelivered waits for it.

Results are listened for in one of two ways:

* classic (default): one SUBSCRIBE connection to any node. The cluster passes what is PUBLISHed on any
  node to all nodes, so this receives those of stock writers too; and pays with N-1 copies of every message.
* sharded: one SSUBSCRIBE connection to each primary that is needed, and the store script says SPUBLISH. A
  message stays in its shard. Writers that PUBLISH are only noticed by the safety sweep.

When a slot moves, its shard channels are dropped by the old owner, wait for the next look, and are
subscribed and read at the new one: the order SUBSCRIBE, acknowledgement, read starts over for each.

Source: Redis cluster specification; SSUBSCRIBE and SPUBLISH command pages (Redis 7).
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from .. import _background
from .._log import Log, get_logger
from .._storage.outage import Outage
from .._storage.waiters import Waiters
from ..errors import BackendClosed, BackendUnavailable
from .address import Address
from .backoff import Backoff
from .connection import CommandConnection, Patience, query
from .driver import RedisDriver
from .errors import describe, is_transient, typed_error
from .exceptions import RedisError
from .options import Options
from .packing import Command
from .pump import Job, Pump
from .scattered import Part, Scattered
from .shard import Shard
from .slots import Redirected, Slots
from .subscriber import Subscriber
from .topology import Links, Topology
from .urls import parse_cluster

__all__ = ["Cluster", "ClusterDriver"]

logger: Log = get_logger("asyncresult")

#: Seconds after which an unanswered command is a reason to look whether its node still has the slots.
SLOW = 0.5


class ClusterDriver(RedisDriver):
    """Records in a Redis or Valkey cluster.

    Its URL is ``redis+cluster://[[user]:password@]host[:port][,host[:port]…]``; some of the nodes are enough.
    ``rediss+cluster://`` for TLS; ``valkey+cluster://`` and ``valkeys+cluster://`` mean the same.

    Its options are those of :class:`RedisDriver`, and ``sharded``: use shard channels (Redis 7). Then every writer
    must use them too.
    """

    scheme: ClassVar[str] = "redis+cluster"

    @staticmethod
    def _parse(url: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], Options]:
        return parse_cluster(url, options)

    @staticmethod
    def _topology(links: Links, table: Waiters) -> Topology:
        return Cluster(links, table)

    def __str__(self) -> str:
        scheme = "rediss+cluster" if self.options.tls else self.scheme
        return f"{scheme}://{','.join(map(str, self.options.addresses))}"


class Cluster(Topology):
    """A command connection for each primary, and one or more subscriptions."""

    records_per_call = 1  # their keys live in many slots
    one_by_one = True

    def __init__(self, links: Links, table: Waiters) -> None:
        super().__init__(links, table)
        self._options = links.options
        self._patience = Patience(self._options.connect_timeout)
        self.slots = Slots()
        self._nodes: dict[Address, Pump] = {}
        self._retired: set[asyncio.Task[None]] = set()
        self._undelivered: list[Part] = []
        self._unfinished: set[Scattered] = set()  # those that closing waits for
        self._drained: asyncio.Future[None] | None = None
        self._slow = 0
        self._overdue: asyncio.TimerHandle | None = None
        self._doubtful = asyncio.Event()
        self._closing = False
        self._outage = Outage(f"cluster {links.name}")
        self._had_slots = False
        self._shards: dict[Address, Shard] = {}
        self._unassigned: set[bytes] = set()  # shard channels that wait for the next look
        self._subscribed_at: Address | None = None
        # The one of classic channels; shard channels have one for each primary.
        self._subscriber = None if links.options.sharded else links.subscriber(self._dial, table)
        if self._subscriber is None:
            table.connected()
        self._keeper = _background.keep_alive(self._keep(), name=f"slots {links.name}")
        self._keeper.add_done_callback(lambda _: self._keeper_ended())

    # -- the slots ------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Look at the slots, now and again."""
        backoff = Backoff()
        while True:
            self._doubtful.clear()
            trouble: Exception | None
            try:
                trouble = await self._look()
            except Exception as error:  # a dead keeper would be waits that never end: go on, and loudly
                about = {"event": "unexpected error", "backend": self._links.name}
                logger.exception("%s: unexpected error", self._links.name, extra=about)
                trouble = error
            self._release_parts(trouble)
            unassigned, self._unassigned = self._unassigned, set()
            self._table.dropped(unassigned)
            await asyncio.sleep(backoff.next())
            try:
                async with asyncio.timeout(SLOW if self._slow else self._links.heartbeat * random.uniform(0.9, 1)):
                    await self._doubtful.wait()
            except TimeoutError:
                backoff.reset()

    def _release_parts(self, trouble: Exception | None) -> None:
        """After a look: send what waits for it, or let it fail."""
        if trouble is None:
            self._links.health.proven = self._had_slots = True
            self._outage.over()
        else:
            self._outage.note(describe(trouble), log=self._table.wanted)
        is_final = trouble is not None and not is_transient(trouble) and not self._had_slots
        error = typed_error(trouble, self._links.name) if trouble is not None else None
        parts, self._undelivered = self._undelivered, []
        for part in parts:
            if error is not None and (is_final or part.is_over()):
                part.failed(error)
            elif part.is_over():
                part.failed(BackendUnavailable(f"{self._links.name}: no node takes the command"))
            else:
                part.send()

    async def _look(self) -> Exception | None:
        """Query one node after the other for the slots; returns why none answered."""
        # First the one that we are subscribed at: it must be part of the cluster.
        subscribed_at = self._subscribed_at
        nodes = [*self.slots.primaries] or [*self._options.addresses]
        random.shuffle(nodes)
        trouble: Exception = BackendUnavailable("no node answers")
        for address in dict.fromkeys([*([subscribed_at] if subscribed_at else ()), *nodes, *self._options.addresses]):
            try:
                info, slots = await query(
                    self._options,
                    address,
                    self._links.tls,
                    ("CLUSTER", "INFO"),
                    ("CLUSTER", "SLOTS"),
                    patience=self._patience,
                )
            except (RedisError, OSError) as error:
                trouble = error
                continue
            if isinstance(slots, Exception):
                trouble = slots
            elif isinstance(info, bytes) and b"cluster_state:fail" in info:
                trouble = BackendUnavailable(f"{address}: the cluster is down")
            else:
                self._apply(slots, address)
                if (
                    self._subscriber is not None
                    and subscribed_at is not None
                    and address != subscribed_at
                    and self._subscribed_at == subscribed_at
                ):
                    self._subscriber.abort(f"{subscribed_at} is no working part of the cluster")
                return None
        return trouble

    def _apply(self, slots: Sequence[Sequence[Any]], given_by: Address) -> None:
        before = self.slots.primaries
        if not self.slots.replace(slots, given_by):
            return
        for address in self._nodes.keys() - self.slots.primaries:
            task = self._nodes.pop(address).close()
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)
        for address in self._shards.keys() - self.slots.primaries:
            self._unassigned |= self._shards[address].keys
            self._retire_shard(address)
        for address, shard in self._shards.items():
            self._unassigned |= shard.give_up(key for key in shard.keys if self.slots.owner_of(key) != address)
        if before and before != self.slots.primaries:
            self._table.sweep()  # the node that is gone may have stored what it could not announce any more

    def moved(self, redirected: Redirected) -> None:
        self.slots.moved(redirected)
        self._doubtful.set()

    # -- commands -------------------------------------------------------------------------------------

    def by_owner(self, keys: list[bytes]) -> Iterable[list[bytes]]:
        return self.slots.by_owner((key, key) for key in keys).values()

    def _reads_are_overdue(self) -> None:
        self._overdue = None
        self._table.overdue()

    def submit(self, job: Job) -> None:
        if job.patience is None and self._overdue is None:  # a read for those who wait
            self._overdue = self._loop.call_later(SLOW, self._reads_are_overdue)
        job.leave()
        if not job.commands:  # about no key at all
            job.done([])
            return
        whole = Scattered(self, job)
        if job.patience is not None:
            self._unfinished.add(whole)
        whole.send(range(len(job.commands)))

    def finished(self, whole: Scattered) -> None:
        self._unfinished.discard(whole)
        if not self._unfinished and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def node(self, address: Address) -> Pump:
        node = self._nodes.get(address)
        if node is None:
            connection = self._links.connection(address)
            execute = functools.partial(self._execute, connection)
            node = self._nodes[address] = self._links.pump(
                execute, connection.abort, address=address, undelivered=self.undelivered
            )
        return node

    async def _execute(self, connection: CommandConnection, commands: list[Command], replies: list[Any]) -> None:
        slow = False

        def is_slow() -> None:
            nonlocal slow
            slow = True
            self._slow += 1
            self._doubtful.set()

        timer = self._loop.call_later(SLOW, is_slow)
        try:
            await connection.execute(commands, replies)
        finally:
            timer.cancel()
            if slow:
                self._slow -= 1

    def undelivered(self, jobs: Iterable[Job]) -> None:
        """Keep parts until the next look at the slots."""
        parts = [job for job in jobs if isinstance(job, Part)]  # the others are AUTH, for that connection alone
        if self._closing:
            for part in parts:
                part.failed(
                    BackendClosed(f"{self._links.name}: the backend was closed before the command was answered")
                )
        elif parts:
            self._undelivered += parts
            self._doubtful.set()

    # -- subscriptions ---------------------------------------------------------------------

    async def _dial(self, factory: Callable[[], asyncio.BaseProtocol]) -> object:
        # Another one than last time, if there is: that one may be why we are here.
        nodes = list((self.slots.primaries or set(self._options.addresses)) - {self._subscribed_at})
        self._subscribed_at = random.choice(nodes) if nodes else self._subscribed_at or self._options.addresses[0]
        return await self._links.dial(self._subscribed_at, factory)

    def subscribe(self, keys: list[bytes]) -> None:
        if self._subscriber is not None:
            self._subscriber.subscribe(keys)
            return
        for owner, own in self.slots.by_owner((key, key) for key in keys).items():
            if owner is None:
                self.unassign(own)
            else:
                shard = self._shards.get(owner)
                if shard is None:
                    shard = self._shards[owner] = Shard(self, self._links, self._table, owner)
                shard.subscribe(own)

    def unsubscribe(self, keys: list[bytes]) -> None:
        if self._subscriber is not None:
            self._subscriber.unsubscribe(keys)
            return
        unwanted = set(keys)
        self._unassigned -= unwanted
        for shard in self._shards.values():
            shard.give_up(shard.keys & unwanted)

    def wake(self) -> None:
        if self._subscriber is not None:  # the shards are woken by what they subscribe
            self._subscriber.wake()

    def unassign(self, keys: Iterable[bytes]) -> None:
        """Subscribe and read these again after the next look at the slots."""
        self._unassigned.update(keys)
        self._doubtful.set()

    def _retire_shard(self, address: Address) -> None:
        task = self._shards.pop(address).subscriber.close()
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    # -- life -----------------------------------------------------------------------------------------

    @property
    def last_error(self) -> str | None:
        return self._outage.reason or super().last_error

    @property
    def is_connected(self) -> bool:
        if self._subscriber is not None:
            return super().is_connected and self._outage.reason is None
        # A subscription that nobody needs does not come back when it is lost.
        up = bool(self._shards) and all(shard.subscriber.up for shard in self._shards.values() if shard.wanted)
        return up and not self._unassigned and self._outage.reason is None

    @property
    def subscribers(self) -> Sequence[Subscriber]:
        if self._subscriber is not None:
            return (self._subscriber,)
        return [shard.subscriber for shard in self._shards.values()]

    @property
    def pumps(self) -> Sequence[Pump]:
        return list(self._nodes.values())

    @property
    def servers(self) -> Sequence[Pump]:
        return [self.node(address) for address in self.slots.primaries]

    @property
    def ended(self) -> asyncio.Task[None]:
        return self._keeper

    async def drain(self, timeout: float) -> None:
        if self._unfinished:
            self._drained = self._loop.create_future()
            await asyncio.wait([self._drained], timeout=timeout)

    def close(self) -> set[asyncio.Task[None]]:
        self._keeper.cancel()
        return {self._keeper, *self._retired, *(node.close() for node in self._nodes.values())}

    def _keeper_ended(self) -> None:
        self._closing = True
        if self._overdue is not None:
            self._overdue.cancel()
        undelivered, self._undelivered = self._undelivered, []
        self.undelivered(undelivered)
