"""A small world in which every order of events can be tried: the waiters and the wire against a model of Redis.

Real are :class:`asyncresult._storage.waiters.Waiters` and :class:`asyncresult._redis.wire.Wire`. Everything between
them and a result is a model without time: a server that executes one queued command when it is told to, connections
that deliver one thing when they are told to, and a loop whose callbacks run when they are told to. Each such step is
an *action*; a history is a list of actions, and :func:`explore` walks through all histories, merging those that lead
to the same state.

After each history the world comes to rest in a friendly way (reconnect, deliver everything), the task stores its
result if it has not, and then five things must hold: who still waits has the result; nobody has another; nobody has
seen the task go back to a state that it had left; who follows the states has seen each one that was published to a
subscription that stood, and was not lost with its connection; and when nobody waits, nothing is subscribed and nothing
is remembered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import hiredis

from asyncresult._redis.wire import Acked, Wire
from asyncresult._storage import entries as _entries
from asyncresult._storage import rounds as _rounds
from asyncresult._storage.waiters import Waiters
from asyncresult.errors import AsyncResultError
from asyncresult.meta import TaskMeta

__all__ = ["Violation", "World", "explore"]

KEY = b"the-key"
RESULT = b'{"status": "SUCCESS", "result": 42, "task_id": "t"}'
STARTED = b'{"status": "STARTED", "task_id": "t"}'
PROGRESS = b'{"status": "PROGRESS", "task_id": "t"}'
PAUSED = b'{"status": "PAUSED", "task_id": "t"}'


class Violation(AssertionError):
    """A promise was broken; the history that breaks it is the message."""


class _Handle:
    def __init__(self, run: Callable[[], object]) -> None:
        self.run: Callable[[], object] | None = run

    def cancel(self) -> None:
        self.run = None


class _Loop:
    """``call_soon`` and ``call_later``; nothing runs by itself."""

    def __init__(self) -> None:
        self.soon: deque[_Handle] = deque()
        self.later: list[_Handle] = []

    def call_soon(self, fn: Callable[..., object], *args: Any) -> _Handle:
        self.soon.append(handle := _Handle(lambda: fn(*args)))
        return handle

    def call_later(self, delay: float, fn: Callable[..., object], *args: Any) -> _Handle:
        handle = _Handle(lambda: fn(*args))
        if delay == _rounds.LINGER:  # the sweep would mend what the rest must get right without it
            self.later.append(handle)
        return handle

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise context["exception"]

    def tick(self) -> None:
        for _ in range(len(self.soon)):
            if (run := self.soon.popleft().run) is not None:
                run()

    def timers(self) -> None:
        handles, self.later = self.later, []
        for handle in handles:
            if handle.run is not None:
                handle.run()


class _Waiter:
    def __init__(self, *, follows: bool) -> None:
        self._follows = follows
        self.due: set[str] = set()  # published while it waits, and not seen yet
        self.meta: TaskMeta | None = None
        self.seen = -1  # the state that was seen last, as a place in the order of the task's states

    def _on_record(self, meta: TaskMeta) -> None:
        place = _ORDER.index(meta.status)
        if place < self.seen:
            raise Violation(f"a waiter saw {meta.status} after {_ORDER[self.seen]}")
        self.seen = place
        self.due.discard(meta.status)
        if meta.ready:
            self.meta = meta
            if self._follows and self.due:
                raise Violation(f"{min(self.due)} was published, and skipped")

    def _follower(self) -> _Waiter | None:
        return self if self._follows else None

    def _on_error(self, error: AsyncResultError) -> None:
        raise Violation(f"a waiter failed: {error}")


class World:
    """One key, one server, two connections, and some waiters, one after another or together.

    Args:
        late: The numbers of those waiters who want nothing read before the acknowledgement.
        states: What the task stores before its result.
        followers: The numbers of those waiters who want to see each state.
    """

    def __init__(
        self,
        waiters: int,
        late: Collection[int] = (),
        states: Sequence[bytes] = (STARTED,),
        followers: Collection[int] = (),
    ) -> None:
        self.late = late
        self.states = states
        self.loop = _Loop()
        self.stored: bytes | None = None
        # Connection A: what the client wrote and the server has not executed; what the server wrote and the
        # client has not received. None: there is no connection.
        self.wire: Wire | None = None
        self.commands: deque[tuple[bytes, bytes]] = deque()
        self.pushes: deque[bytes] = deque()
        self.subscribed = False
        # Connection B: the read that is under way, and the value it found.
        self.asked: list[bytes] | None = None
        self.found: list[tuple[bytes, bytes | None]] | None = None
        self.waiters = [_Waiter(follows=number in followers) for number in range(waiters)]
        self.waiting: set[int] = set()
        self.had: set[int] = set()
        decoder: Any = SimpleNamespace(at_once=_decode, many_at_once=None)  # messages come one by one
        self.table = Waiters(self, decoder, loop=self.loop, safety_interval=30.0)  # type: ignore[arg-type]

    # -- the table's source

    def subscribe(self, keys: list[bytes]) -> None:
        if self.wire is not None:
            self.wire.subscribe(keys)
            self._send()

    def wake(self) -> None: ...

    def unsubscribe(self, keys: list[bytes]) -> None:
        if self.wire is not None:
            self.wire.unsubscribe(keys)
            self._send()

    def fetch(self, keys: list[bytes]) -> None:
        assert self.asked is None and self.found is None, "one chunk in flight"
        self.asked = keys

    def _send(self) -> None:
        assert self.wire is not None
        reader = hiredis.Reader()
        reader.feed(self.wire.data_to_send())
        while command := reader.gets():
            verb, *channels = command
            self.commands.extend((verb, channel) for channel in channels)

    # -- actions

    def actions(self) -> dict[str, Callable[[], None]]:
        """What may happen next, by name."""
        possible: dict[str, Callable[[], None]] = {}
        if any(handle.run for handle in self.loop.soon):
            possible["tick"] = self.loop.tick
        if any(handle.run for handle in self.loop.later):
            possible["linger ends"] = self.loop.timers
        for number in range(len(self.waiters)):
            if number not in self.had:
                possible[f"await {number}"] = lambda n=number: self._await(n)  # type: ignore[misc]
                break
        for number in self.waiting:
            possible[f"cancel {number}"] = lambda n=number: self._cancel(n)  # type: ignore[misc]
        if self.wire is None:
            possible["connect"] = self._connect
        else:
            possible["disconnect"] = self._disconnect
        if self.commands:
            possible["server subscribes"] = self._execute
        if self.pushes:
            possible["receive"] = self._receive
        if self.asked is not None:
            possible["server reads"] = self._read
        if self.found is not None:
            possible["read answered"] = self._answer
        if self.stored != RESULT:
            next = self.states.index(self.stored) + 1 if self.stored is not None else 0
            if next < len(self.states):
                possible["task goes on"] = lambda: self._store(self.states[next])
            possible["task ends"] = lambda: self._store(RESULT)
        return possible

    def _await(self, number: int) -> None:
        self.had.add(number)
        self.waiting.add(number)
        self.table.add(KEY, "t", self.waiters[number], read_early=number not in self.late)

    def _cancel(self, number: int) -> None:
        self.waiting.discard(number)
        self.table.discard(KEY, self.waiters[number])

    def _connect(self) -> None:
        self.wire = Wire()
        self.wire.start()
        self.wire.receive(b"%0\r\n")
        self.table.connected()

    def _disconnect(self) -> None:
        self.wire = None
        self.commands.clear()
        self.pushes.clear()
        self.subscribed = False
        for waiter in self.waiters:
            waiter.due.clear()
        self.table.disconnected()
        self._look()

    def _execute(self) -> None:
        verb, channel = self.commands.popleft()
        self.subscribed = verb == b"SUBSCRIBE"
        self.pushes.append(b">3\r\n+%s\r\n+%s\r\n:1\r\n" % (verb.lower(), channel))

    def _receive(self) -> None:
        assert self.wire is not None
        messages, events = self.wire.receive(self.pushes.popleft())
        self.table.pushed_many(messages)
        for event in events:
            if isinstance(event, Acked):
                self.table.acked(event.channels)
        self._send()
        self._look()

    def _read(self) -> None:
        assert self.asked is not None
        self.found = [(key, self.stored) for key in self.asked]
        self.asked = None

    def _answer(self) -> None:
        assert self.found is not None
        found, self.found = self.found, None
        self.table.fetched(found)
        self._look()

    def _store(self, record: bytes) -> None:
        self.stored = record
        if self.subscribed:
            self.pushes.append(b">3\r\n+message\r\n+%s\r\n$%d\r\n%s\r\n" % (KEY, len(record), record))
            entry = self.table._entries.get(KEY)
            if entry is not None and entry.subscription != _entries.NONE:  # else it is subscribed for earlier waiters
                for number in self.waiting:
                    self.waiters[number].due.add(_DECODED[record].status)

    def _look(self) -> None:
        for number in list(self.waiting):
            if self.waiters[number].meta is not None:
                self.waiting.discard(number)
        for number, waiter in enumerate(self.waiters):
            if waiter.meta is not None and waiter.meta.result != 42:
                raise Violation(f"waiter {number} got {waiter.meta}")

    # -- coming to rest

    FRIENDLY = ("connect", "server subscribes", "receive", "server reads", "read answered", "tick", "linger ends")

    def rest(self) -> None:
        """Deliver everything, in a friendly order, until nothing is left to happen."""
        for _ in range(1000):
            possible = self.actions()
            name = next((name for name in self.FRIENDLY if name in possible), None)
            if name is None:
                return
            possible[name]()
        raise Violation("the world never comes to rest")

    def check(self) -> None:
        """The promises, at the end of a history."""
        self.rest()
        if self.stored == RESULT and self.waiting:
            raise Violation("stored, but somebody still waits")
        if self.stored != RESULT:
            self._store(RESULT)  # whatever came before, from here on the subscription must stand
            self.rest()
            if self.waiting:
                raise Violation("somebody waits, and the published result does not arrive")
        if self.subscribed or self.table._entries:
            raise Violation("nobody waits, but something is subscribed or remembered")

    def state(self) -> object:
        """Two worlds of equal state have equal futures."""
        entry = self.table._entries.get(KEY)
        return (
            self.stored,
            self.wire is None,
            self.wire and (dict(self.wire._unacknowledged) == {} or tuple(self.wire._unacknowledged.values())),
            tuple(self.commands),
            tuple(self.pushes),
            self.subscribed,
            self.asked and tuple(self.asked),
            self.found and tuple(self.found),
            frozenset(self.waiting),
            tuple((self.waiters[number].seen, frozenset(self.waiters[number].due)) for number in sorted(self.waiting)),
            frozenset(self.had),
            entry
            and (
                entry.subscription,
                entry.read,
                _order(entry.progress),
                len(entry.all()),
                self.table._to_subscribe.count(entry),
            ),
            [e is entry for e in self.table._idle].__repr__(),
            [e is entry for e in self.table._to_read].__repr__(),
            self.table._reading,
            sum(handle.run is not None for handle in self.loop.soon),
            sum(handle.run is not None for handle in self.loop.later),
        )


def _decode(task_id: str, payload: bytes) -> TaskMeta:
    return _DECODED[payload]


_ORDER = ["STARTED", "PROGRESS", "PAUSED", "SUCCESS"]
_DECODED = {
    STARTED: TaskMeta(task_id="t", status="STARTED"),
    PROGRESS: TaskMeta(task_id="t", status="PROGRESS"),
    PAUSED: TaskMeta(task_id="t", status="PAUSED"),
    RESULT: TaskMeta(task_id="t", status="SUCCESS", result=42),
}


def _order(progress: _entries.Progress | None) -> object:
    """What the table knows of the order of states."""
    return progress and (
        progress.latest,
        progress.barrier,
        progress.covered,
        progress.final is None,
        tuple((payload, meta is None) for payload, meta in progress.found),
        tuple(payload for payload, _ in progress.held),
        progress.arrived == progress.arrived_at_read,
    )


def explore(
    waiters: int,
    late: Collection[int] = (),
    states: Sequence[bytes] = (STARTED,),
    followers: Collection[int] = (),
) -> Iterator[tuple[str, ...]]:
    """Walk through all histories, the shortest first, until there is no new state; gives each that was checked.

    Args: of :class:`World`.

    Raises:
        Violation: With the shortest history that breaks a promise.
    """

    def after(history: tuple[str, ...]) -> World:
        world = World(waiters, late, states, followers)
        for name in history:
            world.actions()[name]()
        return world

    seen: set[object] = set()
    level: list[tuple[str, ...]] = [()]
    while level:
        deeper: list[tuple[str, ...]] = []
        for history in level:
            for name in after(history).actions():
                longer = (*history, name)
                try:
                    world = after(longer)
                    if (state := world.state()) in seen:
                        continue
                    seen.add(state)
                    world.check()
                except Violation as violation:
                    raise Violation(f"{violation}: {' / '.join(longer)}") from violation
                yield longer
                deeper.append(longer)
        level = deeper
