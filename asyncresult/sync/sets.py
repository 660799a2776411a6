"""Many results at once, blocking, with the names and shapes of Celery's ``ResultSet``.

A set keeps blocking handles; the async set that waits for them is made for each call, of the members of
that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, overload

from .._checks import ReturnWhen
from .._handles import joins as _joins
from .._handles import sets as _sets
from .._handles import streams as _streams
from .._handles.base import T, not_a_result
from .._handles.known import is_ready
from .._portal import run
from ..codec.exceptions import printable
from ..control import Reply
from ..meta import TaskMeta
from .base import OnMessage, ResultBase, Stream, backend_now, blocking, blocking_get
from .celery import assert_will_not_block, celerys_terms, document, in_celerys_terms
from .result import AsyncResult

__all__ = ["ResultSet"]


class ResultSet(ResultBase, Sequence[AsyncResult[T]]):
    """Several results, waited for together. Members may belong to different backends, and may be sets.

    Making a set touches nothing.

    Args:
        results: Results or sets, in the order in which values are wanted; Celery's own are taken, too.
        app: Kept, for Celery's sake.
        kwargs: Celery's ``ready_barrier`` and the like: accepted, without effect.

    Attributes:
        results: The members, a list.

    Raises:
        TypeError: Something else is among ``results``.
    """

    @overload
    def __init__(self, results: Iterable[AsyncResult[T]], app: Any = None, **kwargs: Any) -> None: ...
    @overload
    def __init__(self: ResultSet[Any], results: Iterable[Any], app: Any = None, **kwargs: Any) -> None: ...
    def __init__(self, results: Iterable[Any], app: Any = None, **kwargs: Any) -> None:
        self.results: list[Any] = [_adopt(member) for member in results]
        self._app = app

    def _async(self) -> _sets.ResultSet[T]:
        return _sets.ResultSet(member._async() for member in self.results)

    def _leaves(self) -> Iterator[AsyncResult[Any]]:
        for member in self.results:
            yield from member._leaves()

    @property
    def app(self) -> Any:
        """As given; else that of the first member."""
        return self._app or (self.results[0].app if self.results else None)

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app

    @property
    def backend(self) -> Any:
        """That of the first member; the current one of an empty set."""
        first = next(self._leaves(), None)
        return first.backend if first is not None else blocking(backend_now(app=self._app))

    @property
    def supports_native_join(self) -> bool | None:
        """As the first member; None when empty."""
        return self.results[0].supports_native_join if self.results else None

    # -- members --------------------------------------------------------------------------------------

    @overload
    def __getitem__(self, index: int) -> AsyncResult[T]: ...
    @overload
    def __getitem__(self, index: slice) -> list[AsyncResult[T]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[AsyncResult[T]]:
        return iter(self.results)

    def add(self, result: Any) -> None:
        """Append ``result`` unless it is a member."""
        if result not in self.results:
            self.results.append(_adopt(result))

    def update(self, results: Iterable[Any]) -> None:
        """:meth:`add` each."""
        for result in results:
            self.add(result)

    def remove(self, result: AsyncResult[T] | str) -> None:
        """Take a member, or the member of this id, out.

        Raises:
            KeyError: It is no member.
        """
        try:
            self.results.remove(result)
        except ValueError:
            raise KeyError(result) from None

    def discard(self, result: AsyncResult[T] | str) -> None:
        """Take a member out if it is there."""
        if result in self.results:
            self.results.remove(result)

    def clear(self) -> None:
        """Take all members out."""
        self.results.clear()

    # -- waiting ------------------------------------------------------------------------------------------

    @overload
    def get(
        self,
        timeout: float | None = None,
        propagate: Literal[True] = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], object] | None = None,
        no_ack: bool = True,
        on_message: OnMessage | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None,
        *,
        return_exceptions: Literal[False] = False,
    ) -> list[T]: ...
    @overload
    def get(
        self,
        timeout: float | None,
        propagate: bool,
        interval: float = 0.5,
        callback: Callable[[str, Any], object] | None = None,
        no_ack: bool = True,
        on_message: OnMessage | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None,
        *,
        return_exceptions: bool = False,
    ) -> list[T | Exception]: ...
    @overload
    def get(
        self,
        timeout: float | None = None,
        *,
        propagate: bool,
        interval: float = 0.5,
        callback: Callable[[str, Any], object] | None = None,
        no_ack: bool = True,
        on_message: OnMessage | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None,
        return_exceptions: bool = False,
    ) -> list[T | Exception]: ...
    @overload
    def get(
        self,
        timeout: float | None = None,
        *,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], object] | None = None,
        no_ack: bool = True,
        on_message: OnMessage | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None,
        return_exceptions: bool,
    ) -> list[T | Exception]: ...
    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], object] | None = None,
        no_ack: bool = True,
        on_message: OnMessage | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None,
        *,
        return_exceptions: bool = False,
    ) -> list[T] | list[T | Exception]:
        """Wait for all members. Callbacks are called in this thread.

        Args:
            timeout: The total budget in seconds; None waits forever, 0 looks once.
            propagate: Raise the first failure, at once. The other tasks go on.
            interval: Seconds between two calls of ``on_interval``. Nothing is polled.
            callback: Called with id and value of each task as it ends.
            no_ack: Accepted for Celery's sake, without effect.
            on_message: Called with each record of these tasks that arrives, as a dict.
            disable_sync_subtasks: Refuse to wait inside a Celery task; see :func:`allow_join_result`.
            on_interval: Called each ``interval`` seconds of waiting; what it raises ends the wait.
            return_exceptions: Put exceptions into the list in place of values; as ``propagate=False``.

        Returns:
            The values in the order of the members, also where a callback is given; a list in place of each
            member that is a set.

        Raises: as :meth:`AsyncResult.get`.

        Source: celery/result.py (5.7), ResultSet.join_native.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        group = self._async()
        with celerys_terms:
            if callback is None and all(_joins.over(leaf) for leaf in group._leaves()):
                values = group._values(propagate and not return_exceptions)
            else:
                values = blocking_get(
                    group,
                    timeout,
                    interval=interval,
                    on_interval=on_interval,
                    on_message=on_message,
                    callback=callback,
                    propagate=propagate,
                    return_exceptions=return_exceptions,
                )
        return [in_celerys_terms(value) for value in values]

    join = get

    @overload
    def join_native(
        self,
        timeout: float | None = None,
        propagate: Literal[True] = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], object] | None = None,
        no_ack: bool = True,
        on_message: OnMessage | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[T]: ...
    @overload
    def join_native(
        self,
        timeout: float | None,
        propagate: bool,
        interval: float = 0.5,
        callback: Callable[[str, Any], object] | None = None,
        no_ack: bool = True,
        on_message: OnMessage | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[T | Exception]: ...
    @overload
    def join_native(
        self,
        timeout: float | None = None,
        *,
        propagate: bool,
        interval: float = 0.5,
        callback: Callable[[str, Any], object] | None = None,
        no_ack: bool = True,
        on_message: OnMessage | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[T | Exception]: ...
    def join_native(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], object] | None = None,
        no_ack: bool = True,
        on_message: OnMessage | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[T] | list[T | Exception]:
        """:meth:`get`, with the last two parameters in Celery's other order."""
        return self.get(timeout, propagate, interval, callback, no_ack, on_message, disable_sync_subtasks, on_interval)

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: OnMessage | None = None,
        on_interval: Callable[[], object] | None = None,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """``(id, record)`` of each task as it ends, the record as a dict; see :meth:`as_completed`.

        Args:
            timeout: Seconds for all of them.
            on_message: Called with each of these records.
            interval, no_ack, on_interval: Accepted for Celery's sake, without effect.
        """
        for result in self.as_completed(timeout=timeout):
            record = document(result._async(), result.meta())
            if on_message is not None:
                on_message(record)
            yield result.id, record

    def as_completed(self, *, timeout: float | None = None) -> Stream[AsyncResult[T]]:
        """The members' handles, done, in the order in which their tasks end.

        Raises (while iterating):
            ResultTimeout: Not all ended within the budget.
        """
        group = self._async()
        handles = self._by_handle()

        async def begin() -> _streams.Completed[T]:
            return group.as_completed(timeout=timeout)

        return Stream(run(begin), lambda handle: handles[id(handle)])

    def wait(
        self, *, timeout: float | None = None, return_when: ReturnWhen = "ALL_COMPLETED", count: int | None = None
    ) -> tuple[set[AsyncResult[T]], set[AsyncResult[T]]]:
        """Wait for some or all members; a timeout is no error. Gives those done and those not done.

        Args:
            return_when: FIRST_COMPLETED, FIRST_EXCEPTION or ALL_COMPLETED, as in ``concurrent.futures``.
            count: Return as soon as so many are done, instead.
        """
        done, _ = run(self._async().wait, timeout=timeout, return_when=return_when, count=count)
        over = {handle.id for handle in done}
        leaves = list(self._leaves())
        return {leaf for leaf in leaves if leaf.id in over}, {leaf for leaf in leaves if leaf.id not in over}

    def first_success(self, *, timeout: float | None = None) -> T:
        """The value of the member that succeeds first; see :meth:`asyncresult.ResultSet.first_success`."""
        with celerys_terms:
            return run(self._async().first_success, timeout=timeout)

    def updates(self, *, timeout: float | None = None, maxsize: int = 1024) -> Stream[tuple[AsyncResult[T], TaskMeta]]:
        """The states of all members in one stream of ``(handle, record)``; see :class:`asyncresult.SetUpdates`."""
        handles = self._by_handle()
        return Stream(
            self._async().updates(timeout=timeout, maxsize=maxsize), lambda item: (handles[id(item[0])], item[1])
        )

    def _by_handle(self) -> dict[int, AsyncResult[T]]:
        """The leaves, by the identity of their async handles."""
        return {id(leaf._async()): leaf for leaf in self._leaves()}

    # -- one look at all of them ------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether all tasks are over."""
        return all(meta.ready for meta in self._metas())

    def successful(self) -> bool:
        """Whether all tasks returned."""
        return all(meta.successful for meta in self._metas())

    def failed(self) -> bool:
        """Whether any task raised."""
        return any(meta.failed for meta in self._metas())

    def waiting(self) -> bool:
        """Whether any task is not over."""
        return not self.ready()

    def completed_count(self) -> int:
        """How many tasks have returned (as in Celery: without the failed ones)."""
        return sum(meta.successful for meta in self._metas())

    def _metas(self) -> list[TaskMeta]:
        """The records of all leaves: from memory if they are over, else by one look at those that are not."""
        group = self._async()
        known = [leaf.snapshot if is_ready(leaf) else None for leaf in group._leaves()]
        return run(group._metas) if None in known else [meta for meta in known if meta is not None]

    def maybe_throw(self, callback: Callable[[str, Any], object] | None = None, propagate: bool = True) -> None:
        """Look once and raise the first failure in the order of the members.

        Args:
            callback: Called with id and value (or None) of each member before.
            propagate: False only calls the callback.
        """
        self._metas()  # one look at all of them, instead of one at each
        for leaf in self._leaves():
            leaf.maybe_throw(propagate=propagate, callback=callback)

    maybe_reraise = maybe_throw

    def forget(self) -> None:
        """Delete the members' records."""
        run(self._async().forget)

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> list[Reply]:
        """Request of the workers that have the tasks, those of nested groups included, not to run them.

        Args:
            connection: Accepted for Celery's sake, without effect.

        Returns, raises: see :func:`asyncresult.control.revoke`.
        """
        return run(self._async().revoke, terminate=terminate, signal=signal, wait=wait, timeout=timeout)

    # -- forms ------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return self.results == other.results if isinstance(other, ResultSet) else NotImplemented

    __hash__: ClassVar[None]  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleMethodOverride]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.results,)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(printable(str(member)) for member in self.results)}]>"


# -- between the two faces, and Celery ------------------------------------------------------------------------


@blocking.register
def _(results: _sets.ResultSet) -> ResultSet[Any]:
    return ResultSet([blocking(member) for member in results.results])


def _adopt(result: Any) -> Any:
    """A blocking handle or set, also for what is Celery's. Raises TypeError."""
    if isinstance(result, ResultBase):
        return result
    try:
        return AsyncResult.from_celery(result)
    except TypeError:
        raise not_a_result(result) from None
