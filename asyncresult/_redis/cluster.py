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
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from redis.exceptions import RedisError

from .. import _background
from .._storage.waiters import Waiters
from ..errors import AsyncResultError, BackendClosed, BackendError, BackendUnavailable
from .address import Address
from .connection import Command, CommandConnection, query
from .driver import RedisDriver
from .errors import describe, is_transient, typed_error
from .options import Options
from .outage import Backoff, Outage
from .pump import Job, Pump
from .slots import Redirected, Slots, read_redirection
from .subscriber import Subscriber
from .topology import Links, Topology
from .urls import parse_cluster

__all__ = ["Cluster", "ClusterDriver"]

logger = logging.getLogger("asyncresult")

#: Seconds after which an unanswered command is a reason to look whether its node still has the slots.
SLOW = 0.5
#: Redirections of one job that are followed at once; from there on it waits for a look at the slots, so
#: that two nodes which name each other do not keep us running between them.
PROMPT_REDIRECTIONS = 2


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
        self.slots = Slots()
        self._nodes: dict[Address, Pump] = {}
        self._retired: set[asyncio.Task[None]] = set()
        self._undelivered: list[_Part] = []
        self._unfinished: set[_Scattered] = set()  # those that closing waits for
        self._drained: asyncio.Future[None] | None = None
        self._slow = 0
        self._overdue: asyncio.TimerHandle | None = None
        self._doubtful = asyncio.Event()
        self._closing = False
        self._outage = Outage(f"cluster {links.name}")
        self._had_slots = False
        self._shards: dict[Address, _Shard] = {}
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
                logger.exception("%s: unexpected error", self._links.name)
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
                    self._options, address, self._links.tls, ("CLUSTER", "INFO"), ("CLUSTER", "SLOTS")
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
        whole = _Scattered(self, job)
        if job.patience is not None:
            self._unfinished.add(whole)
        whole.send(range(len(job.commands)))

    def finished(self, whole: _Scattered) -> None:
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
        parts = [job for job in jobs if isinstance(job, _Part)]  # the others are AUTH, for that connection alone
        if self._closing:
            for part in parts:
                part.failed(
                    BackendClosed(f"{self._links.name}: the backend was closed before the command was answered")
                )
        elif parts:
            self._undelivered += parts
            self._doubtful.set()

    # -- subscriptions ---------------------------------------------------------------------

    async def _dial(self, factory: Callable[[], asyncio.Protocol]) -> object:
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
                    shard = self._shards[owner] = _Shard(self, self._links, self._table, owner)
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


class _Scattered:
    """A job on its way through the cluster; done when every command has a reply that is no redirection."""

    def __init__(self, topology: Cluster, job: Job) -> None:
        self.topology = topology
        self.job = job
        self.losses: Counter[int] = Counter()  # by number, for commands that were alone when a connection was lost
        self._replies: list[Any] = [None] * len(job.commands)
        self._left = len(job.commands)
        self._over = False
        self._redirections = 0
        if job.patience is not None:
            job.deadline = asyncio.get_running_loop().time() + job.patience

    def send(self, numbers: Iterable[int]) -> None:
        """Send the commands with these numbers, one part to each owner."""
        by_owner = self.topology.slots.by_owner((_key_of(self.job.commands[number]), number) for number in numbers)
        for owner, own in by_owner.items():
            part = _Part(self, own)
            if owner is None:
                self.topology.undelivered([part])
            else:
                self.topology.node(owner).submit(part)

    def answered(self, numbers: Sequence[int], replies: Sequence[Any]) -> None:
        moved: list[int] = []
        for number, reply in zip(numbers, replies, strict=True):
            redirected = read_redirection(reply)
            if redirected is None:
                self._replies[number] = reply
                self._left -= 1
            elif redirected.once and redirected.to is not None:
                self.topology.node(redirected.to).submit(_Part(self, [number], asking=True))
            else:
                self.topology.moved(redirected)
                moved.append(number)
        if moved and not self._over:
            self._redirections += 1
            if self._redirections <= PROMPT_REDIRECTIONS:
                self.send(moved)
            else:
                self.topology.undelivered([_Part(self, moved)])
        if not self._left and not self._over:
            self.topology.finished(self)
            self.job.done(self._replies)
            self._over = True

    def failed(self, error: BackendError | BackendClosed) -> None:
        """One part failed, or :meth:`answered` raised."""
        if not self._over:
            self._over = True
            self.topology.finished(self)
            self.job.failed(error)


class _Part(Job):
    """What goes to one node."""

    __slots__ = ("_asking", "_numbers", "_whole")

    def __init__(self, whole: _Scattered, numbers: list[int], *, asking: bool = False) -> None:
        commands = [whole.job.commands[number] for number in numbers]
        super().__init__(
            [("ASKING",), *commands] if asking else commands,
            lambda replies: whole.answered(numbers, replies[1:] if asking else replies),
            whole.failed,
            whole.job.patience,
        )
        self.deadline = whole.job.deadline
        self._whole = whole
        self._numbers = numbers
        self._asking = asking
        self.losses = whole.losses[numbers[0]] if len(numbers) == 1 else 0

    @property
    def key(self) -> bytes | None:
        command = self._whole.job.commands[self._numbers[0]]
        return _key_of(command) if len(self._numbers) == 1 and command[0] == "MGET" else None

    def split(self, size: int) -> Sequence[Job]:
        if self._asking:
            return (self,)
        return [_Part(self._whole, self._numbers[i : i + size]) for i in range(0, len(self._numbers), size)]

    def send(self) -> None:
        """Send it to whoever owns the slots now."""
        if len(self._numbers) == 1:
            self._whole.losses[self._numbers[0]] = self.losses
        self._whole.send(self._numbers)

    def is_over(self) -> bool:
        """Whether the patience is used up."""
        return self.deadline is not None and asyncio.get_running_loop().time() >= self.deadline


class _Shard:
    """The sink of the subscription to one primary: stands between it and the table of waiters."""

    def __init__(self, topology: Cluster, links: Links, table: Waiters, address: Address) -> None:
        self.keys: set[bytes] = set()
        self._topology = topology
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

    def pushed(self, key: bytes, payload: bytes) -> None:
        self._table.pushed(key, payload)

    def acked(self, keys: list[bytes]) -> None:
        self._table.acked([key for key in keys if key in self.keys])  # others belong to another node by now

    def dropped(self, keys: list[bytes]) -> None:
        self._topology.unassign(self.keys.intersection(keys))
        self.keys.difference_update(keys)

    def refused(self, keys: list[bytes], error: AsyncResultError) -> None:
        self.keys.difference_update(keys)
        self._table.refused(keys, error)

    def fail_all(self, error: AsyncResultError) -> None:
        self.refused(list(self.keys), error)


def _key_of(command: Command) -> bytes:
    """The key that decides where a command goes; all others of it live in the same slot."""
    key: bytes = command[3] if command[0] in ("EVAL", "EVALSHA") else command[1]
    return key
