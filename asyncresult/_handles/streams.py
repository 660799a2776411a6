"""Streams over many results: handles in the order in which their tasks end, and the states of all of them."""

from __future__ import annotations

import asyncio
import functools
import itertools
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from .._checks import check_count, looks_once
from .._storage.rounds import AT_ONCE
from ..errors import AsyncResultError, BackendUnavailable, ResultTimeout, copy_error
from ..meta import TaskMeta
from .base import ResultBase, handles_in
from .feeds import Feed, Stream, deadline_of_look, is_over
from .handle import observe, read_record, unobserve
from .joins import Group, Handle, Many, groups_of, not_over, over
from .known import Reason, bind, is_of_look, is_ready
from .looks import LOOKS_AT_ONCE, look_once
from .measured import Measured, begin
from .result import AsyncResult
from .updates import is_last, same_state
from .waiting import many_timed_out, raise_reason

__all__ = ["Completed", "SetUpdates", "has_more"]

T = TypeVar("T")

# A handle is small enough that no stream of completions has to drop any.
_UNBOUNDED = 2**62


class Completed(Stream[AsyncResult[T]], Generic[T]):
    """Handles in the order in which their tasks end: ``async for handle in rs.as_completed()``.

    Each handle is done when it comes out; ``handle.value`` gives its value or raises its failure, or that of a task
    before it in a chain, or why its record cannot be had. A handle that is there twice comes out once. Also an
    async context manager, which stops waiting at the end of the block. Making it is no coroutine: it takes some 0.3 µs
    for each handle, without a turn of the loop.

    Raises (while iterating):
        ResultTimeout: Not all ended within the budget.
    """

    def __init__(
        self,
        members: Iterable[ResultBase[Any]],
        timeout: float | None,
        measured: Measured | None = None,
    ) -> None:
        super().__init__()
        members = list(members)
        self._members = members
        leaves = _leaves_in(members)
        own: Measured | None = None  # where this is not a part of a wait that is measured already
        if measured is None:
            measured = own = begin(leaves)
        self._own: Measured | None = own
        self._measured: Measured = measured
        self._handles: dict[int, AsyncResult[T]] = {}
        self._given: set[int] = set()
        self._repeated = False  # whether a handle was there more than once
        self._timeout = timeout
        self._only_looks = looks_once(timeout)
        loop = asyncio.get_running_loop()
        self._deadline = None if timeout is None or self._only_looks else loop.time() + timeout
        waits: list[Many] = []
        self._waits = waits

        def detach() -> None:
            _end(waits)
            if own is not None:
                own.end(outcome="cancelled")  # left before its end

        self._done: Feed[AsyncResult[T]] = Feed(self, detach, maxsize=_UNBOUNDED, final=lambda _: True)
        self._feed = self._done
        self._groups: list[Group] = []
        try:
            self._take_in(members, leaves)
        except BaseException as error:
            if own is not None:
                own.end(error)
            raise

    def _add(self, members: list[ResultBase[Any]]) -> None:
        """Give these handles, too, unless the stream is over."""
        if not self._over:
            self._take_in(members, _leaves_in(members))

    def _take_in(self, members: list[ResultBase[Any]], leaves: list[AsyncResult[T]]) -> None:
        new = dict(zip(map(id, leaves), leaves, strict=True))
        for known in new.keys() & self._handles.keys():
            del new[known]
        self._repeated = self._repeated or len(new) < len(leaves)
        groups = groups_of(members)
        if len(new) > AT_ONCE:
            bind(new.values())  # not all are listened for before another backend may be the current one
        if not self._only_looks:
            feed = self._done
            callback = self._measured.noting(lambda handle, reason: feed.put(handle))
            self._waits.append(Many(list(new.values()), callback, groups))
        self._handles.update(new)  # only now: some may be such that nobody can wait for them
        self._groups += groups
        if self._own is not None and self._own.is_on:  # else it is that of all streams
            self._own.handles = list(self._handles.values())

    def _remove(self, members: Iterable[ResultBase[Any]]) -> list[ResultBase[Any]]:
        """Do not wait for these any more, unless they are there once more. Returns what is there."""
        left = set(map(id, _leaves_in(self._members))) if self._repeated else ()
        for member in members:
            for leaf in handles_in(member):
                if id(leaf) in left:
                    continue
                if id(leaf) not in self._given and self._handles.pop(id(leaf), None) is not None:
                    for wait in self._waits:
                        wait.leave_out(leaf)
        self._done.wake()
        return self._members

    async def _next_item(self) -> AsyncResult[T]:
        feed = self._done
        if self._only_looks:
            self._measured.note_read()
            await look_once(self._handles.values(), self._groups)
            self._only_looks = False
            self._deadline = asyncio.get_running_loop().time()
            for handle in self._handles.values():
                if over(handle):
                    feed.put(handle)
        while not self._over and len(self._given) < len(self._handles):
            while feed.items:
                handle = feed.items.popleft()
                if id(handle) in self._handles and id(handle) not in self._given:
                    self._given.add(id(handle))
                    if self._own is not None and len(self._given) == len(self._handles):
                        self._own.end()
                    return handle
            if self._deadline is not None and asyncio.get_running_loop().time() >= self._deadline:
                raise self._timed_out()
            await feed.wait(self._deadline)
        raise StopAsyncIteration

    def _timed_out(self) -> ResultTimeout:
        handles = list(self._handles.values())
        error = many_timed_out(not_over(handles), handles, self._timeout)
        if self._own is not None:
            self._own.end(error)
        return error


def has_more(completed: Completed[Any]) -> bool:
    """Whether the next handle comes without a wait. Not a method, as the stream is the users'."""
    return bool(completed._done.items)


def _leaves_in(members: list[ResultBase[Any]]) -> list[AsyncResult[Any]]:
    return list(itertools.chain.from_iterable(map(handles_in, members)))


def _end(waits: list[Many]) -> None:
    for wait in waits:
        wait.end()


class SetUpdates(Stream[tuple[AsyncResult[T], TaskMeta]]):
    """The states of several tasks in one stream. Made by :meth:`ResultSet.updates`.

    First comes each member's record as it is now, then each published state with its handle; a member's
    final record comes exactly once, and after the last of them the stream ends. See :class:`Updates` for
    slow readers; ``maxsize`` and ``dropped`` count for all members together.

    Raises (while iterating): as :class:`Updates`; but what ends the wait for one member is raised when the others have
    ended.
    """

    def __init__(
        self, handles: Sequence[Handle], groups: Sequence[Group], *, timeout: float | None, maxsize: int
    ) -> None:
        super().__init__()
        check_count("maxsize", maxsize)
        unique = {id(handle): handle for handle in handles if not handle.ignored}
        self._handles = list(unique.values())
        self._groups = groups
        self._timeout = timeout
        self._only_looks = looks_once(timeout)
        self._maxsize = max(maxsize, len(self._handles))
        self._deadline: float | None = None
        self._last: dict[int, TaskMeta] = {}
        self._ended: dict[int, Reason | None] = {}

    @property
    def dropped(self) -> int:
        """How many states were lost because nobody took them."""
        return self._feed.dropped if self._feed is not None else 0

    async def _next_item(self) -> tuple[AsyncResult[Any], TaskMeta]:
        """Raises: as :meth:`Updates.__anext__`."""
        feed = self._feed or self._begin()
        while not self._over and len(self._ended) < len(self._handles):
            while feed.items:
                handle, outcome = feed.items.popleft()
                if id(handle) in self._ended:
                    continue
                if not isinstance(outcome, TaskMeta):
                    self._ended[id(handle)] = outcome
                    continue
                last = self._last.get(id(handle))
                if last is not None and same_state(last, outcome):
                    continue
                self._last[id(handle)] = outcome
                if is_last(handle, outcome):
                    self._ended[id(handle)] = None
                if self._only_looks and len(self._last.keys() | self._ended.keys()) == len(self._handles):
                    self._deadline = asyncio.get_running_loop().time()
                return handle, outcome
            if len(self._ended) == len(self._handles):
                break
            if self._deadline is not None and asyncio.get_running_loop().time() >= self._deadline:
                waiting = [handle for handle in self._handles if id(handle) not in self._ended]
                if any(map(is_ready, waiting)):  # states before their ends are still on their way
                    feed.items.extend((handle, handle.snapshot) for handle in waiting if is_ready(handle))
                    continue
                raise many_timed_out(waiting, self._handles, self._timeout)
            await feed.wait(self._deadline)
        reason = next((reason for reason in self._ended.values() if reason is not None), None)
        self._end()
        if reason is not None:
            raise_reason(reason)
        raise StopAsyncIteration

    def _begin(self) -> Feed[Any]:
        self._deadline = deadline_of_look(self._timeout)
        tagged: list[_Tagged] = []
        waits: list[Many] = []

        def detach() -> None:
            _untag(tagged)
            _end(waits)

        feed: Feed[Any] = Feed(self, detach, maxsize=self._maxsize, final=_is_final)
        self._feed = feed

        def ended(handle: Handle, reason: Reason | None) -> None:
            if reason is not None:
                feed.put((handle, reason))

        running: list[Handle] = []
        for handle in self._handles:
            if is_ready(handle):
                feed.put((handle, handle.snapshot))
            else:
                running.append(handle)
        bind(running)  # not all are observed before another backend may be the current one
        _follow(weakref.ref(self), feed, tagged, running, 0)
        if self._groups or any(handle.parent is not None for handle in running):
            waits.append(Many(running, ended, self._groups))
        return feed


class _Tagged:
    """A handle's entrance to the feed of a whole set."""

    __slots__ = ("feed", "handle")
    follows: ClassVar[bool] = True

    def __init__(self, handle: Handle, feed: Feed[Any]) -> None:
        self.handle = handle
        self.feed = feed

    def put(self, meta: TaskMeta) -> None:
        self.feed.put((self.handle, meta))

    def fail(self, reason: Reason) -> None:
        self.feed.put((self.handle, reason))


def _follow(
    stream: weakref.ref[SetUpdates[Any]], feed: Feed[Any], tagged: list[_Tagged], handles: list[Handle], start: int
) -> None:
    """Observe the handles from ``start`` on, and look at each. Of very many, some in each turn of the loop."""
    owner = stream()
    if owner is None or is_over(owner):
        return
    behind = start + LOOKS_AT_ONCE
    if behind < len(handles):
        asyncio.get_running_loop().call_soon(_follow, stream, feed, tagged, handles, behind)
    for handle in handles[start:behind]:
        tag = _Tagged(handle, feed)
        if is_ready(handle) and handle.snapshot is not None:
            tag.put(handle.snapshot)
            continue
        try:
            observe(handle, tag)
        except (AsyncResultError, RuntimeError) as error:  # closed meanwhile, or awaited on another loop
            if not start:
                raise
            tag.fail(error if isinstance(error, AsyncResultError) else AsyncResultError(str(error)))
            continue
        tagged.append(tag)
        _look(stream, tag)


def _look(stream: weakref.ref[SetUpdates[Any]], tag: _Tagged) -> None:
    """Have a handle's record as it is now put behind what has come so far; it is never older than that."""
    try:
        read_record(tag.handle).add_done_callback(functools.partial(_looked, stream, tag))
    except AsyncResultError as closed:
        tag.fail(copy_error(closed))


def _looked(stream: weakref.ref[SetUpdates[Any]], tag: _Tagged, look: asyncio.Future[TaskMeta]) -> None:
    owner = stream()
    if owner is None or is_over(owner) or look.cancelled():
        return
    error = look.exception()
    if isinstance(error, BackendUnavailable):
        _look(stream, tag)  # an outage does not end a wait
    elif isinstance(error, AsyncResultError):
        tag.fail(copy_error(error))
    elif error is None and is_of_look(tag.handle, look.result()):
        tag.put(look.result())


def _untag(tagged: list[_Tagged]) -> None:
    for tag in tagged:
        unobserve(tag.handle, tag)


def _is_final(item: tuple[Handle, TaskMeta | Reason]) -> bool:
    return not isinstance(item[1], TaskMeta) or is_last(item[0], item[1])
