"""``redis+cluster://``: records spread over the primaries of a cluster by the slots of their keys.

Theory of operation
-------------------

Every primary has a command connection of its own, so one that is slow, frozen or gone holds up its own keys
and no others. Commands are sent to whoever owns the slot of their key, in one pipeline a node::

    job ──split by owner──> parts ──answered──> replies in order ──> job is done
                              │  └─MOVED───> the slot has a new owner: sent there
                              │  └─ASK─────> the slot is on its way: sent there once, after ASKING
                              └─no answer, CLUSTERDOWN, TRYAGAIN──> astray: sent again after the next look

The *keeper* looks at the slots with each heartbeat, and soon after every sign that they have changed. Its
look is also the pause between two attempts: what is astray waits for it.

Results are heard in one of two ways:

* classic (default): one SUBSCRIBE connection to any node. The cluster passes what is PUBLISHed on any
  node to all nodes, so this hears stock writers too; and pays with N-1 copies of every message.
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

from redis.exceptions import AskError, MovedError, RedisError

from .. import _background
from .._storage.store import Store
from ..errors import AsyncResultError, BackendClosed, BackendError, BackendUnavailable
from .address import Address, dial_address
from .connection import Command, CommandConnection, query
from .engine import RedisDriver, RedisEngine
from .errors import describe, is_transient, typed_error
from .options import Options
from .outage import Backoff, Outage
from .pump import Job, Pump
from .subscriber import Subscriber
from .urls import parse_cluster
from .wire import SLOTS, slot_of

__all__ = ["ClusterDriver", "ClusterEngine"]

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

    def _make_engine(self, store: Store) -> RedisEngine:
        return ClusterEngine(store, self.options)

    def __str__(self) -> str:
        scheme = "rediss+cluster" if self.options.tls else self.scheme
        return f"{scheme}://{','.join(map(str, self.options.addresses))}"


class ClusterEngine(RedisEngine):
    """A command connection for each primary, and one or more subscriptions."""

    records_per_call = 1  # their keys live in many slots
    one_by_one = True

    def _open(self) -> asyncio.Task[None]:
        self._owners: list[Address | None] = [None] * SLOTS
        self._primaries: frozenset[Address] = frozenset()
        self._nodes: dict[Address, Pump] = {}
        self._retired: set[asyncio.Task[None]] = set()
        self._astray: list[_Part] = []
        self._unfinished: set[_Scattered] = set()  # those that closing waits for
        self._drained: asyncio.Future[None] | None = None
        self._slow = 0
        self._overdue: asyncio.TimerHandle | None = None
        self._doubtful = asyncio.Event()
        self._closing = False
        self._shards: dict[Address, _Shard] = {}
        self._homeless: set[bytes] = set()  # shard channels that wait for the next look
        self._subscribed_at: Address | None = None
        if self._options.sharded:
            self.subscribe = self._subscribe_by_shard
            self.unsubscribe = self._unsubscribe_by_shard
            self.waiters.connected()
        else:
            self._subscriber = self._make_subscriber(self._dial, self.waiters)
            self.subscribe = self._subscriber.subscribe
            self.unsubscribe = self._subscriber.unsubscribe
        self._outage = Outage(f"cluster {self._backend}")
        self._had_slots = False
        self._keeper = _background.keep_alive(self._keep(), name=f"slots {self._backend}")
        return self._keeper

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
                logger.exception("%s: unexpected error", self._backend)
                trouble = error
            self._release_parts(trouble)
            homeless, self._homeless = self._homeless, set()
            self.waiters.dropped(homeless)
            await asyncio.sleep(backoff.next())
            try:
                async with asyncio.timeout(SLOW if self._slow else self._backend.heartbeat * random.uniform(0.9, 1)):
                    await self._doubtful.wait()
            except TimeoutError:
                backoff.reset()

    def _release_parts(self, trouble: Exception | None) -> None:
        """After a look: send what waits for it, or let it fail."""
        if trouble is None:
            self.health.proven = self._had_slots = True
            self._outage.over()
        else:
            self._outage.note(describe(trouble), log=self.waiters.wanted)
        is_final = trouble is not None and not is_transient(trouble) and not self._had_slots
        error = typed_error(trouble, str(self._backend)) if trouble is not None else None
        parts, self._astray = self._astray, []
        for part in parts:
            if error is not None and (is_final or part.is_over()):
                part.failed(error)
            elif part.is_over():
                part.failed(BackendUnavailable(f"{self._backend}: no node takes the command"))
            else:
                part.send()

    async def _look(self) -> Exception | None:
        """Query one node after the other for the slots; returns why none told."""
        # First the one that we are subscribed at: it must be part of the cluster.
        subscribed_at = self._subscribed_at
        nodes = [*self._primaries] or [*self._options.addresses]
        random.shuffle(nodes)
        trouble: Exception = BackendUnavailable("no node answers")
        for address in dict.fromkeys([*([subscribed_at] if subscribed_at else ()), *nodes, *self._options.addresses]):
            try:
                info, slots = await query(self._options, address, self._tls, ("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"))
            except (RedisError, OSError) as error:
                trouble = error
                continue
            if isinstance(slots, Exception):
                trouble = slots
            elif isinstance(info, bytes) and b"cluster_state:fail" in info:
                trouble = BackendUnavailable(f"{address}: the cluster is down")
            else:
                self._apply(slots, address)
                if subscribed_at is not None and address != subscribed_at and self._subscribed_at == subscribed_at:
                    self._subscriber.abort(f"{subscribed_at} is no working part of the cluster")
                return None
        return trouble

    def _apply(self, slots: Sequence[Sequence[Any]], told_by: Address) -> None:
        owners: list[Address | None] = [None] * SLOTS
        for first, last, (host, port, *_), *_ in slots:
            # A node that does not know its own name means: the one that you asked by.
            owner = Address(host.decode() if host else told_by.host, int(port))
            owners[first : last + 1] = [owner] * (last + 1 - first)
        if owners == self._owners:
            return
        before = self._primaries
        self._owners, self._primaries = owners, frozenset(owner for owner in owners if owner is not None)
        for address in self._nodes.keys() - self._primaries:
            task = self._nodes.pop(address).close()
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)
        for address in self._shards.keys() - self._primaries:
            self._homeless |= self._shards[address].keys
            self._retire_shard(address)
        for address, shard in self._shards.items():
            self._homeless |= shard.give_up(key for key in shard.keys if owners[slot_of(key)] != address)
        if before and before != self._primaries:
            self.waiters.sweep()  # the node that is gone may have stored what it could not announce any more

    def _moved(self, error: MovedError) -> None:
        if error.host:  # a node may not know the name of another one
            self._owners[error.slot_id] = Address(error.host, error.port)
        self._doubtful.set()

    # -- commands -------------------------------------------------------------------------------------

    def fetch(self, keys: list[bytes]) -> None:
        by_owner: dict[Address | None, list[bytes]] = {}
        for key in keys:
            by_owner.setdefault(self._owners[slot_of(key)], []).append(key)
        for group in by_owner.values():
            super().fetch(group)
        if self._overdue is None:
            self._overdue = self.loop.call_later(SLOW, self._reads_are_overdue)

    def _reads_are_overdue(self) -> None:
        self._overdue = None
        self.waiters.overdue()

    def _send(self, job: Job) -> None:
        job.leave()
        if not job.commands:  # about no key at all
            job.done([])
            return
        whole = _Scattered(self, job)
        if job.patience is not None:
            self._unfinished.add(whole)
        whole.send(range(len(job.commands)))

    def _finished(self, whole: _Scattered) -> None:
        self._unfinished.discard(whole)
        if not self._unfinished and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _node(self, address: Address) -> Pump:
        node = self._nodes.get(address)
        if node is None:
            connection = self._make_connection(address)
            node = self._nodes[address] = Pump(
                functools.partial(self._execute, connection),
                connection.abort,
                address=str(address),
                health=self.health,
                astray=self._went_astray,
            )
        return node

    async def _execute(self, connection: CommandConnection, commands: list[Command], replies: list[Any]) -> None:
        slow = False

        def is_slow() -> None:
            nonlocal slow
            slow = True
            self._slow += 1
            self._doubtful.set()

        timer = self.loop.call_later(SLOW, is_slow)
        try:
            await connection.execute(commands, replies)
        finally:
            timer.cancel()
            if slow:
                self._slow -= 1

    def _went_astray(self, jobs: Iterable[Job]) -> None:
        """Keep parts until the next look at the slots."""
        parts = [job for job in jobs if isinstance(job, _Part)]  # the others are AUTH, for that connection alone
        if self._closing:
            for part in parts:
                part.failed(BackendClosed(f"{self._backend}: the backend was closed before the command was answered"))
        elif parts:
            self._astray += parts
            self._doubtful.set()

    # -- hearing results: classic ---------------------------------------------------------------------

    async def _dial(self, factory: Callable[[], asyncio.Protocol]) -> object:
        # Another one than last time, if there is: that one may be why we are here.
        nodes = list((self._primaries or set(self._options.addresses)) - {self._subscribed_at})
        self._subscribed_at = random.choice(nodes) if nodes else self._subscribed_at or self._options.addresses[0]
        return await dial_address(self._subscribed_at, self._tls, factory)

    # -- hearing results: sharded ---------------------------------------------------------------------

    def _subscribe_by_shard(self, keys: list[bytes]) -> None:
        by_owner: dict[Address | None, list[bytes]] = {}
        for key in keys:
            by_owner.setdefault(self._owners[slot_of(key)], []).append(key)
        for owner, own in by_owner.items():
            if owner is None:
                self.without_home(own)
            else:
                shard = self._shards.get(owner)
                if shard is None:
                    shard = self._shards[owner] = _Shard(self, owner)
                shard.subscribe(own)

    def _unsubscribe_by_shard(self, keys: list[bytes]) -> None:
        unwanted = set(keys)
        self._homeless -= unwanted
        for shard in self._shards.values():
            shard.give_up(shard.keys & unwanted)

    def without_home(self, keys: Iterable[bytes]) -> None:
        """Subscribe and read these again after the next look at the slots."""
        self._homeless.update(keys)
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
    def _is_connected(self) -> bool:
        if not self._options.sharded:
            return super()._is_connected and self._outage.reason is None
        # A subscription that nobody needs does not come back when it is lost.
        up = bool(self._shards) and all(shard.subscriber.up for shard in self._shards.values() if shard.wanted)
        return up and not self._homeless and self._outage.reason is None

    @property
    def _subscribers(self) -> Sequence[Subscriber]:
        if not self._options.sharded:
            return (self._subscriber,)
        return [shard.subscriber for shard in self._shards.values()]

    @property
    def _pumps(self) -> Sequence[Pump]:
        return list(self._nodes.values())

    async def _drain(self, timeout: float) -> None:
        if self._unfinished:
            self._drained = self.loop.create_future()
            await asyncio.wait([self._drained], timeout=timeout)

    def _stop_commands(self) -> set[asyncio.Task[None]]:
        self._keeper.cancel()
        return {self._keeper, *self._retired, *(node.close() for node in self._nodes.values())}

    def _loop_ended(self) -> None:
        self._closing = True
        if self._overdue is not None:
            self._overdue.cancel()
        astray, self._astray = self._astray, []
        self._went_astray(astray)
        super()._loop_ended()


class _Scattered:
    """A job on its way through the cluster; done when every command has a reply that is no redirection."""

    def __init__(self, engine: ClusterEngine, job: Job) -> None:
        self.engine = engine
        self.job = job
        self.losses: Counter[int] = Counter()  # by number, for commands that were alone when a connection was lost
        self._replies: list[Any] = [None] * len(job.commands)
        self._left = len(job.commands)
        self._over = False
        self._redirections = 0
        if job.patience is not None:
            job.deadline = engine.loop.time() + job.patience

    def send(self, numbers: Iterable[int]) -> None:
        """Send the commands with these numbers, one part to each owner."""
        by_owner: dict[Address | None, list[int]] = {}
        for number in numbers:
            owner = self.engine._owners[slot_of(_key_of(self.job.commands[number]))]
            by_owner.setdefault(owner, []).append(number)
        for owner, own in by_owner.items():
            part = _Part(self, own)
            if owner is None:
                self.engine._went_astray([part])
            else:
                self.engine._node(owner).submit(part)

    def answered(self, numbers: Sequence[int], replies: Sequence[Any]) -> None:
        moved: list[int] = []
        for number, reply in zip(numbers, replies, strict=True):
            if isinstance(reply, MovedError):
                self.engine._moved(reply)
                moved.append(number)
            elif isinstance(reply, AskError) and reply.host:
                self.engine._node(Address(reply.host, reply.port)).submit(_Part(self, [number], asking=True))
            else:
                self._replies[number] = reply
                self._left -= 1
        if moved and not self._over:
            self._redirections += 1
            if self._redirections <= PROMPT_REDIRECTIONS:
                self.send(moved)
            else:
                self.engine._went_astray([_Part(self, moved)])
        if not self._left and not self._over:
            self.engine._finished(self)
            self.job.done(self._replies)
            self._over = True

    def failed(self, error: BackendError | BackendClosed) -> None:
        """One part failed, or :meth:`answered` raised."""
        if not self._over:
            self._over = True
            self.engine._finished(self)
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
        return self.deadline is not None and self._whole.engine.loop.time() >= self.deadline


class _Shard:
    """The sink of the subscription to one primary: stands between it and the table of waiters."""

    def __init__(self, engine: ClusterEngine, address: Address) -> None:
        self.keys: set[bytes] = set()
        self._engine = engine
        self._table = engine.waiters
        self._connected = False
        self.pushed = engine.waiters.pushed
        self.subscriber = engine._make_subscriber(functools.partial(dial_address, address, engine._tls), self)

    def subscribe(self, keys: list[bytes]) -> None:
        self.keys.update(keys)
        self.subscriber.subscribe(keys if self._connected else [])

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

    def acked(self, keys: list[bytes]) -> None:
        self._table.acked([key for key in keys if key in self.keys])  # others have another home by now

    def dropped(self, keys: list[bytes]) -> None:
        self._engine.without_home(self.keys.intersection(keys))
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
