"""Waiting for many results at once.

A join is one future and a counter, whatever the number of members: every member is given the same
callback. Failing fast, a timeout or a cancellation takes that callback off the others and leaves them,
and their tasks, alone.

Of many members, those whose results are stored already are found by reading first: they need neither a place
in the table of waiters nor a subscription. The others are listened for, as each single one would be.

A group may have tasks before it, which its members do not know of: their failure is that of all its members.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from .._storage.decoding import DECODED_AT_ONCE, Decoder
from .._storage.engine import Engine
from .._storage.keys import task_keys
from .._storage.rounds import AT_ONCE, READ_CHUNK
from .._storage.store import Store, engine_of
from ..codec.codec import LARGE_PAYLOAD_BYTES
from ..errors import AsyncResultError, copy_error
from ..meta import TaskMeta
from ..states import SUCCESS
from .base import ResultBase, handles_in, members_in
from .handle import (
    Callback,
    ancestors,
    end_with,
    learn,
    listen,
    unlisten,
    unlisten_all,
    unwatch,
    watch,
)
from .known import Reason, bind, give_up, has_failed, is_ready, is_settled, needs_cause, outcome, settled
from .measured import Measured
from .result import AsyncResult
from .waiting import many_timed_out, raise_reason

__all__ = [
    "Group",
    "Handle",
    "Many",
    "end_at_once",
    "finish",
    "groups_of",
    "has_sets",
    "join",
    "join_in_turns",
    "leaves_of",
    "not_over",
    "over",
    "values_in_turns",
    "values_of",
]

Handle = AsyncResult[Any]

#: From so many handles on, reading comes first. For fewer, a round trip more costs more than their subscriptions.
READ_FIRST = 100
#: Seconds until an answer counts as overdue. Then all are listened for: their results need no read to arrive.
OVERDUE = 0.5


class Group:
    """The members of a group that has tasks before it, and these."""

    __slots__ = ("leaves", "many", "tasks")

    def __init__(self, node: ResultBase[Any]) -> None:
        self.leaves: list[Handle] = list(handles_in(node))
        self.tasks = ancestors(node)
        self.many: Many | None = None

    def failed(self) -> Any:
        """The first of the tasks that is known to have failed."""
        return next((task for task in self.tasks if has_failed(task)), None)

    def _ancestor_failed(self, ancestor: Any) -> None:
        many = self.many
        if many is not None:
            reason = self.failed()
            for leaf in self.leaves:
                many.fail(leaf, reason)


def groups_of(nodes: Iterable[ResultBase[Any]]) -> list[Group]:
    """The groups with tasks before them, among ``nodes`` and all their members."""
    groups: list[Group] = []
    todo = list(nodes)
    if not has_sets(todo):
        return groups
    while todo:
        node = todo.pop()
        if not isinstance(node, AsyncResult):
            members = members_in(node)
            if has_sets(members):
                todo += [member for member in members if not isinstance(member, AsyncResult)]
            if node.parent is not None:
                groups.append(Group(node))
    return groups


def has_sets(nodes: Iterable[ResultBase[Any]]) -> bool:
    """Whether not all of them are handles of single tasks."""
    return not all(issubclass(kind, AsyncResult) for kind in set(map(type, nodes)))


class Many:
    """Has one callback called for many handles, once for each and never at once; see :data:`Callback`.

    Args:
        handles: No one twice.
        groups: Those of whose members some are among the handles.

    Raises:
        RuntimeError, BackendClosed: As :meth:`AsyncResult.get`. Then nothing is waited for.
    """

    __slots__ = ("_callback", "_ended", "_failed", "_handles", "_left_out", "_watchers")

    def __init__(self, handles: Sequence[Handle], callback: Callback, groups: Iterable[Group] = ()) -> None:
        self._handles = handles
        self._callback = callback
        self._ended = False
        # Members of groups that failed before they were listened for.
        self._failed: dict[int, Reason] | None = None
        self._left_out: set[int] | None = None
        self._watchers: list[Any] = []
        try:
            self._begin(0, {})
            for group in groups:
                group.many = self
                self._watchers += watch(group.tasks, group)
        except BaseException:
            self.end()
            raise

    def _begin(self, start: int, unread: dict[Store, list[Handle]]) -> None:
        """Listen for those that are in the table; then read the others. Of very many, some in each turn of the loop."""
        handles, behind = self._handles, start + AT_ONCE
        many = len(handles) >= READ_FIRST
        for handle in handles if behind >= len(handles) and not start else handles[start:behind]:
            # What is in the table was read for somebody else, or is about to be (no call: benchmarks: join-stored).
            if many and handle._table is None and (handle._meta is None or not is_ready(handle)) and not handle.ignored:
                backend = handle._backend or handle.backend  # bound, as a rule: no call (benchmarks: join-stored)
                unread.setdefault(backend, []).append(handle)
            elif start:
                self._listen([handle], read_early=True)
            else:
                listen(handle, self._callback)
        if behind < len(handles):
            asyncio.get_running_loop().call_soon(self._begin_more, behind, unread)
        else:
            for backend, own in unread.items():
                self._read(backend, own, 0)

    def _begin_more(self, start: int, unread: dict[Store, list[Handle]]) -> None:
        if self._ended:
            return
        try:
            self._begin(start, unread)
        except (AsyncResultError, RuntimeError):  # closed meanwhile
            self._listen([*itertools.chain(*unread.values()), *self._handles[start:]], read_early=True)

    def end(self) -> None:
        """Take the callback off whoever still holds it."""
        self._ended = True
        unwatch(self._watchers)
        self._watchers.clear()  # they hold the groups, which hold this
        self._unlisten(0)

    def _unlisten(self, start: int) -> None:
        behind = start + AT_ONCE
        unlisten_all(self._handles[start:behind], self._callback)
        if behind < len(self._handles):
            asyncio.get_running_loop().call_soon(self._unlisten, behind)

    def leave_out(self, handle: Handle) -> None:
        """Do not wait for this one any more."""
        unlisten(handle, self._callback)
        if self._left_out is None:
            self._left_out = set()
        self._left_out.add(id(handle))

    def fail(self, handle: Handle, reason: Reason) -> None:
        """End the wait for a member that will never run."""
        if self._ended or is_ready(handle) or handle.ignored:
            return
        if not end_with(handle, reason):
            self._failed = {**(self._failed or {}), id(handle): reason}

    def _read(self, backend: Store, handles: list[Handle], start: int) -> None:
        """Read a chunk of the handles from ``start`` on, and see what to do about the others."""
        chunk, others = handles[start : start + READ_CHUNK], start + READ_CHUNK
        engine = engine_of(backend)
        answer = engine.read_many(task_keys(backend, [handle.id for handle in chunk]))
        timer = engine.loop.call_later(OVERDUE, answer.cancel)

        def answered(_: object) -> None:
            timer.cancel()
            failed = answer.cancelled() or answer.exception() is not None
            if self._ended:
                return
            if failed:
                self._listen(handles[start:], read_early=True)  # the table will try again, forever
                return
            payloads = answer.result()
            # Where most are not stored yet, most of the others will not be either.
            if sum(map(bool, payloads)) <= len(chunk) // 2:
                self._listen(handles[others:], read_early=False)
            elif others < len(handles):
                self._read_on(backend, handles, others)
            # A turn later: the next read leaves before these are decoded (benchmarks: join-stored).
            engine.loop.call_soon(self._take, chunk, payloads, engine)

        answer.add_done_callback(answered)

    def _read_on(self, backend: Store, handles: list[Handle], start: int) -> None:
        try:
            self._read(backend, handles, start)
        except (AsyncResultError, RuntimeError):  # closed meanwhile
            self._listen(handles[start:], read_early=True)

    def _take(self, handles: list[Handle], payloads: list[bytes | None], engine: Engine) -> None:
        waiters = engine.waiters
        origin, waiters.source = waiters.source, waiters.source_of_reads
        try:
            self._take_each(handles, payloads, engine)
        finally:
            waiters.source = origin

    def _take_each(self, handles: list[Handle], payloads: list[bytes | None], engine: Engine) -> None:
        size = 0
        waiters, callback = engine.waiters, self._callback
        metas = _decoded(engine.decoder, handles, payloads)
        for i, (handle, payload, meta) in enumerate(zip(handles, payloads, metas, strict=True), 1):
            if self._ended:
                return
            size += len(payload or b"")
            if meta is not None and meta.status == SUCCESS and handle._meta is None and handle._table is None:
                handle._meta = meta  # the rule, without a call (benchmarks: join-stored)
                handle._error = None
                done = True
            else:
                done = meta is not None and learn(handle, meta) and not needs_cause(handle)
            if done:
                waiters.read += 1
                callback(handle, None)
            else:
                self._listen([handle], read_early=False)
            if size >= LARGE_PAYLOAD_BYTES and i < len(handles):
                # Many small records add up: let others run.
                engine.loop.call_soon(self._take, handles[i:], payloads[i:], engine)
                return

    def _listen(self, handles: Sequence[Handle], *, read_early: bool, start: int = 0) -> None:
        if self._ended:
            return
        if start + AT_ONCE < len(handles):
            asyncio.get_running_loop().call_soon(
                functools.partial(self._listen, handles, read_early=read_early, start=start + AT_ONCE)
            )
        for handle in handles[start : start + AT_ONCE]:
            if self._left_out is not None and id(handle) in self._left_out:
                continue
            reason = self._failed.get(id(handle)) if self._failed is not None else None
            if reason is None:
                try:
                    listen(handle, self._callback, read_early=read_early)
                    continue
                except (AsyncResultError, RuntimeError) as error:  # closed meanwhile, or awaited on another loop
                    reason = copy_error(error) if isinstance(error, AsyncResultError) else AsyncResultError(str(error))
            give_up(handle, reason)
            self._callback(handle, reason)


def _decoded(decoder: Decoder, handles: list[Handle], payloads: list[bytes | None]) -> Iterator[TaskMeta | None]:
    """The records of handles; None for one that is missing, large or unreadable: the table reads it, and sees to it."""
    for start in range(0, len(handles), DECODED_AT_ONCE):
        ids = [handle.id for handle in handles[start : start + DECODED_AT_ONCE]]
        some = payloads[start : start + DECODED_AT_ONCE]
        metas = decoder.many_at_once(ids, some)
        yield from metas if metas is not None else map(functools.partial(_decoded_alone, decoder), ids, some)


def _decoded_alone(decoder: Decoder, id: str, payload: bytes | None) -> TaskMeta | None:
    try:
        return decoder.at_once(id, payload) if payload else None
    except Exception:
        return None


class Join:
    """The callback of all members of a join.

    When its future is done, :meth:`take_reason` gives None, or what to raise (:func:`.raise_reason`). It is not given
    to the future, which would keep it: what a callback has raised holds, by its traceback, this join.

    It is made, is given its members, then begins: see :func:`join` and :func:`join_in_turns`.

    Args:
        measured: Of which wait this is a part.
    """

    __slots__ = ("_waiting", "callback", "fail_fast", "future", "many", "measured", "pending", "reason")

    def __init__(
        self, fail_fast: bool, measured: Measured, callback: Callable[[str, Any], object] | None = None
    ) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.fail_fast = fail_fast
        self.measured = measured
        self.callback = callback
        self.many: Many | None = None
        self.reason: Any = None
        self.pending = 0
        self._waiting: dict[int, Handle] = {}

    def take(self, handles: Iterable[Handle]) -> None:
        """Have these among the members."""
        waiting = self._waiting
        for handle in handles:
            # The rule, without a call (benchmarks: join).
            if (handle._meta is None or not is_settled(handle)) and not handle.ignored:
                waiting[id(handle)] = handle
            else:
                self._look_at(handle, None)

    def begin(self, groups: Iterable[Group]) -> None:
        """Wait for them. Args, raises: as of :class:`Many`."""
        waiting = list(self._waiting.values())
        self._waiting = {}
        self.pending = len(waiting)
        if not waiting:
            self.end(None)
        if not self.future.done():
            # A bound method is called faster than an object is (benchmarks: join).
            self.many = Many(waiting, self._member_ended, groups)

    def _member_ended(self, handle: Handle, reason: Reason | None) -> None:
        self.pending -= 1
        meta = handle._meta
        # What needs no look is the rule: no call for it (benchmarks: join).
        if reason is not None or self.callback is not None or meta is None or meta.status != SUCCESS:
            self._look_at(handle, reason)
        if not self.pending:
            self._end_by(handle, reason, None)

    def _look_at(self, handle: Handle, reason: Reason | None) -> None:
        if self.future.done():
            return
        if self.fail_fast and (reason is not None or (has_failed(handle) and not handle.ignored)):
            self._end_by(handle, reason, reason or handle)
        elif self.callback is not None:
            value, error = settled(handle)
            try:
                self.callback(handle.id, value if error is None else error)
            except BaseException as failure:  # KeyboardInterrupt, too: it leaves the loop by way of who waits
                self.end(failure)

    def _end_by(self, handle: Handle, why: Reason | None, reason: Any) -> None:
        if not self.future.done():
            self.measured.note(handle, why)
            self.end(reason)

    def end(self, reason: Any) -> None:
        if not self.future.done():
            self.reason = reason
            self.future.set_result(None)

    def take_reason(self) -> Any:
        reason, self.reason = self.reason, None
        return reason

    def detach(self) -> None:
        """Take the callback off whoever still holds it."""
        many, self.many = self.many, None  # which holds this join by its callback
        if many is not None:
            many.end()


def join(handles: Iterable[Handle], groups: Iterable[Group], measured: Measured, *, fail_fast: bool) -> Join:
    """A join that has begun."""
    made = Join(fail_fast, measured)
    made.take(handles)
    made.begin(groups)
    return made


async def join_in_turns(
    handles: list[Handle],
    groups: Iterable[Group],
    measured: Measured,
    *,
    fail_fast: bool,
    callback: Callable[[str, Any], object] | None,
) -> Join:
    """A join that has begun, made with pauses where there are very many handles."""
    made = Join(fail_fast, measured, callback)
    if len(handles) <= AT_ONCE:
        made.take(handles)
    else:
        bind(handles)
        await asyncio.sleep(0)
        for start in range(0, len(handles), 5 * AT_ONCE):
            made.take(handles[start : start + 5 * AT_ONCE])
            await asyncio.sleep(0)
    made.begin(groups)
    return made


async def finish(join: Join, leaves: list[Handle], timeout: float | None) -> None:
    """Wait for a join, within its budget; leave nothing behind."""
    timer = None
    if timeout is not None and not join.future.done():

        def expire(join: Join) -> None:
            join.end(many_timed_out(not_over(leaves), leaves, timeout))

        timer = asyncio.get_running_loop().call_later(timeout, expire, join)
    try:
        await join.future
        reason = join.take_reason()
    finally:
        if timer is not None:
            timer.cancel()
        join.detach()
    if reason is not None:
        try:
            raise_reason(reason)
        finally:
            del reason


async def values_in_turns(members: list[Any], propagate: bool) -> list[Any]:
    """:func:`values_of` a set, with pauses where there are very many."""
    if len(members) <= AT_ONCE:
        return values_of(members, propagate)
    values: list[Any] = []
    for start in range(0, len(members), AT_ONCE):
        values += values_of(members[start : start + AT_ONCE], propagate)
        await asyncio.sleep(0)
    return values


def over(handle: Handle) -> bool:
    """Whether nothing more is to be learned about it."""
    return handle.done() and not needs_cause(handle)


def not_over(leaves: Iterable[Handle]) -> list[Handle]:
    """Those of which more is to be learned."""
    # Nothing is known: the rule, without a call.
    return [
        leaf for leaf in leaves if (leaf._meta is None and leaf._error is None and not leaf.ignored) or not over(leaf)
    ]


def leaves_of(members: list[Any]) -> list[Handle]:
    """The handles of a snapshot of a set, in which the members of other sets are in lists."""
    if list not in set(map(type, members)):  # the rule, without a call for each (benchmarks: join)
        return members
    return [leaf for member in members for leaf in (leaves_of(member) if isinstance(member, list) else (member,))]


def values_of(members: Iterable[Any], propagate: bool) -> list[Any]:
    """The outcome of a set, or of a snapshot of one, once everything is over."""
    values: list[Any] = []
    for member in members:
        if member.__class__ is AsyncResult and member._type is Any and not member.ignored:
            meta = member._meta
            if meta is not None and meta.status == SUCCESS:
                values.append(meta.result)
                continue
        values.append(values_of(member, propagate) if isinstance(member, list) else member._values(propagate))
    return values


def end_at_once(
    leaves: list[Handle], fail_fast: bool, callback: Callable[[str, Any], object] | None, timeout: float | None
) -> None:
    """End a join with what is known now."""
    if fail_fast:
        for leaf in leaves:
            if leaf.done():
                outcome(leaf, propagate=True)
    if waiting := not_over(leaves):
        raise many_timed_out(waiting, leaves, timeout)
    if callback is not None:
        for leaf in leaves:
            callback(leaf.id, leaf._values(False))
