"""Several results as one.

How they are waited for: :mod:`.joins`; their streams: :mod:`.streams`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, overload
from weakref import WeakSet

from .._checks import ReturnWhen, check_choice, check_count, looks_once
from .._extensions import integration_for
from .._storage.store import Store
from ..control import Reply, revoke
from ..errors import BackendClosed, ResultTimeout
from ..meta import TaskMeta
from ..promise import AwaitedPromise, Promise
from .base import Node, ResultBase, SupportsAsyncResult, T, as_result, handles_in
from .joins import (
    end_at_once,
    finish,
    groups_of,
    has_sets,
    join,
    join_in_turns,
    leaves_of,
    not_over,
    over,
    values_in_turns,
    values_of,
)
from .known import forget_record, settled
from .looks import look_at_all, look_once
from .lookup import lookup
from .measured import Measured, begin, probe_of
from .result import AsyncResult
from .streams import Completed, SetUpdates
from .waiting import raise_reason

__all__ = ["ResultSet"]


class ResultSet(Sequence[AsyncResult[T]], ResultBase[list[T]]):
    """Several results, awaited together. Members may belong to different backends, and may be sets.

    ``await rs`` is ``await rs.get()``. Making a set touches nothing.

    Args:
        results: Handles, groups or sets, in the order in which values are wanted; or Celery's own results, of a
            connected app.

    Attributes:
        results: The members, a list.

    Raises:
        TypeError: A member is none of these.
    """

    parent: Node[Any] | None = None

    @overload
    def __init__(self, results: Iterable[ResultBase[T] | SupportsAsyncResult[T]]) -> None: ...
    @overload
    def __init__(self: ResultSet[Any], results: Iterable[Any]) -> None: ...
    def __init__(self, results: Iterable[Any]) -> None:
        self.results: list[Any] = [
            member if isinstance(member, (AsyncResult, ResultSet)) else as_result(member) for member in results
        ]
        self._streams: WeakSet[Completed[Any]] = WeakSet()
        self._known: set[Any] | None = None  # names of the members, so that adding 10,000 takes no search for each

    # -- members --------------------------------------------------------------------------------------

    @overload
    def __getitem__(self, index: int) -> AsyncResult[T]: ...
    @overload
    def __getitem__(self, index: slice) -> ResultSet[T]: ...
    def __getitem__(self, index: int | slice) -> AsyncResult[T] | ResultSet[T]:
        if isinstance(index, slice):
            return ResultSet(self.results[index])
        return self.results[index]  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[AsyncResult[T]]:
        return iter(self.results)

    def __contains__(self, member: object) -> bool:
        return member in self.results

    def add(self, result: AsyncResult[T] | SupportsAsyncResult[T]) -> None:
        """Append ``result`` unless it is a member. Running ``as_completed`` loops, over sets that have this one as a
        member too, will give it.

        Raises:
            TypeError: It is no result.
            RuntimeError, BackendClosed: A loop runs, and it cannot be waited for; it is no member then.
        """
        handle: Any = as_result(result)
        known = self._known
        if known is None or len(known) != len(self.results):  # a list that was changed directly
            known = self._known = {_name(member) for member in self.results}
        if _name(handle) in known and handle in self.results:
            return
        for stream in list(self._streams):
            stream._add([handle])
            _tell_of_changes(handle, stream)
        self.results.append(handle)
        known.add(_name(handle))

    def update(self, results: Iterable[AsyncResult[T] | SupportsAsyncResult[T]]) -> None:
        """:meth:`add` each."""
        for result in results:
            self.add(result)

    def remove(self, result: AsyncResult[T] | str) -> None:
        """Take a member, or the member of this id, out.

        Raises:
            KeyError: It is no member.
        """
        try:
            index = self.results.index(result)
        except ValueError:
            raise KeyError(result) from None
        self._take_out([self.results.pop(index)])

    def discard(self, result: AsyncResult[T] | str) -> None:
        """Take a member out if it is there. Running ``as_completed`` loops do not wait for it any more."""
        if result in self.results:
            self.remove(result)

    def clear(self) -> None:
        """Take all members out."""
        members = self.results.copy()
        self.results.clear()
        self._take_out(members)

    def _take_out(self, members: list[Any]) -> None:
        self._known = None
        for stream in list(self._streams):
            left = stream._remove(members)
            if has_sets(members):
                for taken in members:
                    for changing in _sets_in(taken):
                        changing._streams.discard(stream)
                for node in left:
                    _tell_of_changes(node, stream)

    def _members(self) -> Sequence[Any]:
        return self.results

    def _leaves(self) -> Iterator[AsyncResult[Any]]:
        if has_sets(self.results):
            return itertools.chain.from_iterable(map(handles_in, self.results))
        return iter(self.results)

    @property
    def supports_native_join(self) -> bool | None:
        """As the first member; None when empty."""
        return self.results[0].supports_native_join if self.results else None

    # -- waiting ------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, list[T]]:
        return self.get().__await__()

    @overload
    async def get(
        self,
        timeout: float | None = None,
        *,
        propagate: Literal[True] = True,
        callback: Callable[[str, Any], object] | None = None,
        return_exceptions: Literal[False] = False,
    ) -> list[T]: ...
    @overload
    async def get(
        self,
        timeout: float | None = None,
        *,
        propagate: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        return_exceptions: bool = False,
    ) -> list[T | Exception]: ...
    async def get(
        self,
        timeout: float | None = None,
        *,
        propagate: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        return_exceptions: bool = False,
    ) -> list[T] | list[T | Exception]:
        """Wait for all members.

        Args:
            timeout: The total budget in seconds; None waits forever, 0 looks once.
            propagate: Raise the first failure, at once. The other tasks go on. The failure of a task before a group
                is that of all its members.
            callback: Called with id and value of each task as it ends, once for each handle.
            return_exceptions: Put exceptions into the list in place of values; as ``propagate=False``.

        Returns:
            The values in the order of the members; a list in place of each member that is a set.

        Raises: as :meth:`AsyncResult.get`.
        """
        fail_fast = propagate and not return_exceptions
        members = self._snapshot()
        leaves = leaves_of(members)
        if callback is not None:  # once for each, in every case
            leaves = list({id(leaf): leaf for leaf in leaves}.values())
        groups = groups_of([self])
        with Measured(probe_of(leaves), leaves) as measured:
            if looks_once(timeout):
                measured.note_read()
                await look_once(leaves, groups)
                end_at_once(leaves, fail_fast, callback, timeout)
            else:
                joined = await join_in_turns(leaves, groups, measured, fail_fast=fail_fast, callback=callback)
                await finish(joined, leaves, timeout)
            values: list[Any] = await values_in_turns(members, fail_fast)
        return values

    join = get
    join_native = get

    def _snapshot(self) -> list[Any]:
        """The members of now, those of sets in lists: what is added under a wait is not part of it."""
        return [member if isinstance(member, AsyncResult) else member._snapshot() for member in self.results]

    def _values(self, propagate: bool) -> list[T]:
        return values_of(self.results, propagate)

    def as_completed(self, *, timeout: float | None = None) -> Completed[T]:
        """The members' handles, done, in the order in which their tasks end; see :class:`Completed`."""
        stream: Completed[T] = Completed([self], timeout)
        _tell_of_changes(self, stream)
        return stream

    async def wait(
        self,
        *,
        timeout: float | None = None,
        return_when: ReturnWhen = "ALL_COMPLETED",
        count: int | None = None,
    ) -> tuple[set[AsyncResult[T]], set[AsyncResult[T]]]:
        """Wait for some or all members, as ``asyncio.wait`` does: a timeout is no error.

        Args:
            timeout: Seconds to wait at most; None waits forever, 0 looks once.
            return_when: FIRST_COMPLETED, FIRST_EXCEPTION or ALL_COMPLETED.
            count: Return as soon as so many different tasks are done, instead.

        Returns:
            The handles that are done, and those that are not.

        Raises:
            ValueError: ``return_when`` is none of these, or ``count`` is no number of tasks.
            RuntimeError, BackendClosed: As :meth:`AsyncResult.get`.
        """
        check_choice(
            "return_when", return_when, asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION, asyncio.ALL_COMPLETED
        )
        if count is not None:
            check_count("count", count, least=0)
        leaves = list(self._leaves())
        tasks = len({leaf.id for leaf in leaves})
        wanted = min(tasks, 1 if return_when == asyncio.FIRST_COMPLETED else tasks)
        if count is not None:
            wanted = min(tasks, count)
        found: set[str] = set()
        is_known = len({leaf.id for leaf in leaves if over(leaf)}) >= wanted
        with Measured(None if is_known else probe_of(leaves), leaves) as measured:
            async with Completed[T]([self], timeout, measured) as completed:
                try:
                    while len(found) < wanted:
                        handle = await anext(completed, None)
                        if handle is None:
                            break  # members were taken out
                        found.add(handle.id)
                        if return_when == asyncio.FIRST_EXCEPTION and count is None and handle.exception is not None:
                            break
                except ResultTimeout:
                    measured.outcome = "timeout"
        done = {leaf for leaf in leaves if over(leaf)}
        return done, set(not_over(leaves)) - done  # two handles of one task may know different things

    async def first_success(self, *, timeout: float | None = None) -> T:
        """The value of the member that succeeds first. The other tasks go on.

        Args:
            timeout: The total budget in seconds; None waits forever, 0 looks once.

        Raises:
            ExceptionGroup: All failed; holds their exceptions.
            ValueError: There are no members.
            ResultTimeout: None succeeded in time.
            RuntimeError, BackendClosed: As :meth:`AsyncResult.get`; some may have failed before.
        """
        if not self.results:
            raise ValueError("no results to wait for")
        failures: list[Exception] = []
        failure: Exception | None = None
        leaves = list(self._leaves())
        try:
            with Measured(probe_of(leaves), leaves) as measured:
                async with Completed[T]([self], timeout, measured) as completed:
                    async for handle in completed:
                        value, failure = settled(handle)
                        if failure is None:
                            return value  # type: ignore[no-any-return]
                        failures.append(failure)
                for failure in failures:
                    if isinstance(failure, BackendClosed):
                        raise failure  # of this task nobody knows whether it fails
                raise ExceptionGroup(f"all {len(failures)} tasks failed", failures)
        finally:
            del failures, failure  # they would hold this frame, which holds them

    def updates(self, *, timeout: float | None = None, maxsize: int = 1024) -> SetUpdates[T]:
        """The states of all members in one stream of ``(handle, record)``; see :class:`SetUpdates`.

        Raises:
            ValueError: ``maxsize`` or ``timeout`` is invalid.
        """
        return SetUpdates(list(self._leaves()), groups_of([self]), timeout=timeout, maxsize=maxsize)

    def _promise(self) -> Promise[list[T]]:
        promise: AwaitedPromise[list[T]] = AwaitedPromise()
        members = self._snapshot()
        leaves = leaves_of(members)
        measured = begin(leaves)
        try:
            joined = join(leaves, groups_of([self]), measured, fail_fast=True)
        except BaseException as error:
            measured.end(error)
            raise

        def settle(ended: asyncio.Future[Any]) -> None:
            joined.detach()
            try:
                if (reason := joined.take_reason()) is not None:
                    raise_reason(reason)
                promise.settle(values_of(members, True), None)
                measured.end()
            except Exception as failure:
                promise.settle(None, BaseException.with_traceback(failure, None))  # it holds the promise: no cycle
                measured.end(failure)

        def give_up() -> None:
            joined.detach()
            joined.future.remove_done_callback(settle)  # which holds that future
            measured.end(outcome="cancelled")

        joined.future.add_done_callback(settle)
        promise.ends_with(give_up)
        return promise

    # -- one look at all of them ------------------------------------------------------------------------------

    @lookup
    async def ready(self) -> bool:
        """Whether all tasks are over. Raises: as :meth:`AsyncResult.meta`, never what a task raised.

        Wire: one MGET for each 1,000 members that are not known to be over.
        """
        return all(meta.ready for meta in await self._metas())

    @lookup
    async def successful(self) -> bool:
        """Whether all tasks returned. Raises: as :meth:`ready`."""
        return all(meta.successful for meta in await self._metas())

    @lookup
    async def failed(self) -> bool:
        """Whether any task raised. Raises: as :meth:`ready`."""
        return any(meta.failed for meta in await self._metas())

    @lookup
    async def waiting(self) -> bool:
        """Whether any task is not over. Raises: as :meth:`ready`."""
        return not await self.ready()

    @lookup
    async def completed_count(self) -> int:
        """How many tasks have returned (as in Celery: without the failed ones). Raises: as :meth:`ready`."""
        return sum(meta.successful for meta in await self._metas())

    async def maybe_throw(self, callback: Callable[[str, Any], object] | None = None, propagate: bool = True) -> None:
        """Look once and raise the first failure in the order of the members.

        Args:
            callback: Called with id and value (or None) of each member before.
            propagate: False only calls the callback.

        Raises: what the task raised; otherwise as :meth:`ready`.
        """
        for leaf, meta in zip(list(self._leaves()), await look_at_all(list(self._leaves())), strict=True):
            leaf._maybe_throw(meta, propagate, callback)

    maybe_reraise = maybe_throw

    async def _metas(self) -> list[TaskMeta]:
        return await look_at_all([leaf for leaf in self._leaves() if not leaf.ignored])

    async def forget(self) -> None:
        """Delete the members' records. Raises: BackendError, BackendClosed."""
        by_backend: dict[Store, list[AsyncResult[Any]]] = {}
        for leaf in self._leaves():
            by_backend.setdefault(leaf.backend, []).append(leaf)
        for backend, leaves in by_backend.items():
            await backend.forget(*(leaf.id for leaf in leaves))
            for leaf in leaves:
                forget_record(leaf)

    async def revoke(
        self, *, terminate: bool = False, signal: str | None = None, wait: bool = False, timeout: float | None = None
    ) -> list[Reply]:
        """Request that the tasks, those of nested groups included, are not run.

        Args, returns, raises: as :meth:`AsyncResult.revoke`.
        """
        by_backend: dict[Store, list[str]] = {}
        for leaf in self._leaves():
            by_backend.setdefault(leaf.backend, []).append(leaf.id)
        replies = [
            await revoke(backend, ids, terminate=terminate, signal=signal, wait=wait, timeout=timeout)
            for backend, ids in by_backend.items()
        ]
        return [reply for answered in replies for reply in answered]

    # -- forms ------------------------------------------------------------------------------------------

    def to_celery(self, app: Any) -> Any:
        """Celery's own results for these tasks, as a set or group. See :meth:`AsyncResult.to_celery`."""
        return integration_for(app, "a Celery app").to_celery(self, app)

    def __eq__(self, other: object) -> bool:
        return self.results == other.results if isinstance(other, ResultSet) else NotImplemented

    __hash__: ClassVar[None]  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleMethodOverride]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.results,)

    def __repr__(self) -> str:
        shown = ", ".join(str(member) for member in self.results[:5])
        return f"<{type(self).__name__}: [{shown}{', …' if len(self) > 5 else ''}]>"


def _sets_in(node: Any) -> Iterator[ResultSet[Any]]:
    """It, if it is a set, and all sets in it."""
    if isinstance(node, ResultSet):
        yield node
        if has_sets(node.results):
            for member in node.results:
                yield from _sets_in(member)


def _tell_of_changes(node: Any, stream: Completed[Any]) -> None:
    """Have the stream follow what becomes of the members of these sets."""
    for changing in _sets_in(node):
        changing._streams.add(stream)


def _name(member: Any) -> Any:
    """What two equal members have in common, and few others have."""
    return getattr(member, "id", None) or len(member)
