"""Promises: callbacks chained to a value that is still to come.

Source: Promises/A+ 1.1, clauses 2.1 to 2.3; ECMAScript for ``finally_``, ``all``, ``all_settled``,
``any`` and ``race``. Where Python has its own way, the method says so.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, Literal, Never, TypeAlias, TypeVar, overload

import msgspec

from ._checks import check_callable
from ._promise_core import FULFILLED, BasePromise, Promised, Reaction, Settler, check_reason
from ._promise_reactions import Finally, Join, Then, weakly

__all__ = ["Promise", "Settled", "Thenable"]

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")
V = TypeVar("V")

Resolve: TypeAlias = Callable[[Awaitable[U] | U], None]
Reject: TypeAlias = Callable[[BaseException], None]


class Thenable(Promised, Generic[T_co]):
    """Something whose outcome can be had as a promise."""

    __slots__ = ()

    @abstractmethod
    def _promise(self) -> Promise[T_co]:
        """A promise of the outcome. The wait begins now."""

    @overload
    def then(self, on_success: None = None, on_error: None = None, *, weak: bool = False) -> Promise[T_co]: ...
    @overload
    def then(
        self, on_success: Callable[[T_co], Awaitable[U]], on_error: None = None, *, weak: bool = False
    ) -> Promise[U]: ...
    @overload
    def then(self, on_success: Callable[[T_co], U], on_error: None = None, *, weak: bool = False) -> Promise[U]: ...
    @overload
    def then(
        self, on_success: None, on_error: Callable[[Exception], Awaitable[V]], *, weak: bool = False
    ) -> Promise[T_co | V]: ...
    @overload
    def then(
        self, on_success: None, on_error: Callable[[Exception], V], *, weak: bool = False
    ) -> Promise[T_co | V]: ...
    @overload
    def then(
        self,
        on_success: Callable[[T_co], Awaitable[U]],
        on_error: Callable[[Exception], Awaitable[V]],
        *,
        weak: bool = False,
    ) -> Promise[U | V]: ...
    @overload
    def then(
        self, on_success: Callable[[T_co], Awaitable[U]], on_error: Callable[[Exception], V], *, weak: bool = False
    ) -> Promise[U | V]: ...
    @overload
    def then(
        self, on_success: Callable[[T_co], U], on_error: Callable[[Exception], Awaitable[V]], *, weak: bool = False
    ) -> Promise[U | V]: ...
    @overload
    def then(
        self, on_success: Callable[[T_co], U], on_error: Callable[[Exception], V], *, weak: bool = False
    ) -> Promise[U | V]: ...
    def then(
        self,
        on_success: Callable[[T_co], object] | None = None,
        on_error: Callable[[Exception], object] | None = None,
        *,
        weak: bool = False,
    ) -> Promise[Any]:
        """Call ``on_success`` with the value, or ``on_error`` with the exception, when there is one.

        Exactly one fires, exactly once, as a job of the event loop and never inside this call, in order of
        registration and in a copy of the context variables of now: also when the outcome has long been
        known, and when nobody ever awaits. A result is waited for from now on; of a set, the members of
        now, and the first failure is its failure.

        Args:
            on_success: A function, coroutine function, or anything else that can be called. None passes
                the value on.
            on_error: Likewise. It gets every ``Exception``; cancellation and exits pass it by.
            weak: Hold the callbacks weakly. One whose function or object is gone by then counts as
                None. (A lambda or a partial that nobody else holds is gone at once.)

        Returns:
            A promise of what the callback returns: a promise, awaitable or thenable is followed first.
            What the callback raises rejects it.

        Raises:
            RuntimeError: No event loop runs, or another than the promise's, or no backend is entered.
            BackendClosed: The backend was closed.
            TypeError: A callback is neither None nor callable, or cannot be held weakly.

        Source: Promises/A+ 2.2.
        """
        check_callbacks(on_success, on_error, weak=weak)  # before a wait begins
        return self._promise()._then(on_success, on_error, weak=weak)

    @overload
    def catch(self, on_error: Callable[[Exception], Awaitable[V]]) -> Promise[T_co | V]: ...
    @overload
    def catch(self, on_error: Callable[[Exception], V]) -> Promise[T_co | V]: ...
    def catch(self, on_error: Callable[[Exception], object]) -> Promise[Any]:
        """Call ``on_error`` with the exception if there is one: ``then(None, on_error)``."""
        check_callbacks(None, on_error, weak=False)
        return self._promise()._then(None, on_error, weak=False)

    def finally_(self, fn: Callable[[], object]) -> Promise[T_co]:
        """Call ``fn()`` however this ends, cancellation included.

        Returns:
            A promise of the same outcome, after what ``fn`` returned has been awaited, if it can be. What
            ``fn`` raises takes the place of the outcome.

        Raises: as :meth:`then`.

        Source: ECMAScript, Promise.prototype.finally.
        """
        check_callable("fn", fn)
        return self._promise()._finally(fn)


# No dataclass: the first one costs more than the rest of this module (benchmarks: import).
class Settled(msgspec.Struct, Generic[T_co], frozen=True):
    """How one of the inputs of :meth:`Promise.all_settled` ended.

    Attributes:
        status: ``"fulfilled"`` or ``"rejected"``; a cancelled promise counts as rejected.
        value: The value, when fulfilled.
        reason: The exception, when rejected.
    """

    status: Literal["fulfilled", "rejected"]
    value: T_co | None = None
    reason: BaseException | None = None


class Promise(BasePromise[T_co], Thenable[T_co]):
    """A value that is still to come, with callbacks, on the event loop that is running.

    A promise may be awaited any number of times, from any number of tasks of its loop; cancelling one
    that waits does not touch the promise. A rejection that nobody has seen when the promise is garbage
    collected is reported to the loop's exception handler, as asyncio does for futures: awaiting the
    promise sees it, a callback for it sees it, and every promise made by ``then`` takes it over.

    Args:
        executor: Called at once with two functions, ``resolve(value)`` and ``reject(exception)``, of
            which the first call counts. What it raises rejects the promise. ``resolve`` follows
            promises, awaitables and objects with a ``then`` method.

    Raises:
        RuntimeError: No event loop is running; in every method: not the loop the promise was made on.
        TypeError: ``executor`` is not callable.
    """

    __slots__ = ()

    def __init__(self, executor: Callable[[Resolve[T_co], Reject], object] | None = None) -> None:
        super().__init__()
        if executor is not None:
            check_callable("executor", executor)
            Settler(self).run(executor)
            del self  # see the theory of operation in _promise

    def _promise(self) -> Promise[T_co]:
        return self

    def _then(
        self,
        on_success: Callable[[T_co], object] | None,
        on_error: Callable[[Exception], object] | None,
        *,
        weak: bool,
    ) -> Promise[Any]:
        """See :meth:`Thenable.then`. Source: Promises/A+ 2.2."""
        self._check_loop()
        target: Promise[Any] = Promise()
        Then(self, target, on_success, on_error, weak=weak)
        return target

    def _finally(self, fn: Callable[[], object]) -> Promise[T_co]:
        """See :meth:`Thenable.finally_`. Source: ECMAScript, Promise.prototype.finally."""
        self._check_loop()
        target: Promise[T_co] = Promise()
        Finally(self, target, fn)
        return target

    @overload
    @staticmethod
    def resolve() -> Promise[None]: ...
    @overload
    @staticmethod
    def resolve(value: Awaitable[U]) -> Promise[U]: ...
    @overload
    @staticmethod
    def resolve(value: U) -> Promise[U]: ...
    @staticmethod
    def resolve(value: object = None) -> Promise[Any]:
        """Return ``value`` if it is a promise, else a promise that is resolved with it."""
        if isinstance(value, Promise):
            return value
        promise: Promise[Any] = Promise()
        promise._resolve(value)
        return promise

    @staticmethod
    def reject(reason: BaseException) -> Promise[Never]:
        """Return a promise that is rejected with ``reason``.

        Raises:
            TypeError: ``reason`` is not an exception.
        """
        check_reason(reason)
        promise: Promise[Never] = Promise()
        promise._reject(reason)
        return promise

    @overload
    @staticmethod
    def all(items: Iterable[Awaitable[U]]) -> Promise[list[U]]: ...
    @overload
    @staticmethod
    def all(items: Iterable[Awaitable[U] | U]) -> Promise[list[U]]: ...
    @staticmethod
    def all(items: Iterable[object]) -> Promise[Any]:
        """Promise the values of all ``items`` in their order, or else the first rejection.

        Here and in the three that follow, items may be values, promises, awaitables and thenables. None
        is stopped when the outcome is known without it. Cancelling the promise lets go of the items, and
        cancels the coroutines among them, as they were started here.
        """
        promise: Promise[list[Any]] = Promise()
        inputs = list(items)
        values: dict[int, object] = {}

        def each(index: int, value: object, reason: BaseException | None) -> None:
            if reason is not None:
                promise._reject(reason)
                return
            values[index] = value
            if len(values) == len(inputs):
                promise._settle(FULFILLED, [values[i] for i in range(len(inputs))])

        if inputs:
            Join(promise, inputs, each)
        else:
            promise._settle(FULFILLED, [])
        return promise

    @overload
    @staticmethod
    def all_settled(items: Iterable[Awaitable[U]]) -> Promise[list[Settled[U]]]: ...
    @overload
    @staticmethod
    def all_settled(items: Iterable[Awaitable[U] | U]) -> Promise[list[Settled[U]]]: ...
    @staticmethod
    def all_settled(items: Iterable[object]) -> Promise[Any]:
        """Promise how every one of ``items`` ended, in their order. Nothing but ``cancel`` rejects it."""
        promise: Promise[list[Settled[Any]]] = Promise()
        inputs = list(items)
        records: dict[int, Settled[Any]] = {}

        def each(index: int, value: object, reason: BaseException | None) -> None:
            records[index] = Settled("rejected", reason=reason) if reason is not None else Settled("fulfilled", value)
            if len(records) == len(inputs):
                promise._settle(FULFILLED, [records[i] for i in range(len(inputs))])

        if inputs:
            Join(promise, inputs, each)
        else:
            promise._settle(FULFILLED, [])
        return promise

    @overload
    @staticmethod
    def any(items: Iterable[Awaitable[U]]) -> Promise[U]: ...
    @overload
    @staticmethod
    def any(items: Iterable[Awaitable[U] | U]) -> Promise[U]: ...
    @staticmethod
    def any(items: Iterable[object]) -> Promise[Any]:
        """Promise the first value that one of ``items`` comes to.

        If all of them are rejected, so is the promise, with an ``ExceptionGroup`` of their reasons in their
        order. What was cancelled has no place in the group; if everything was, so is the promise. Of
        nothing there is no first value, and no empty group: the reason is a ValueError.
        """
        promise: Promise[Any] = Promise()
        inputs = list(items)
        reasons: dict[int, BaseException] = {}

        def each(index: int, value: object, reason: BaseException | None) -> None:
            if reason is None:
                promise._settle(FULFILLED, value)
                return
            reasons[index] = reason
            if len(reasons) == len(inputs):
                ordered = [reasons[i] for i in range(len(inputs))]
                errors = [error for error in ordered if not isinstance(error, asyncio.CancelledError)]
                # BaseExceptionGroup makes an ExceptionGroup of Exceptions.
                promise._reject(BaseExceptionGroup("every promise was rejected", errors) if errors else ordered[0])

        if inputs:
            Join(promise, inputs, each)
        else:
            promise._reject(ValueError("Promise.any() of nothing"))
        return promise

    @overload
    @staticmethod
    def race(items: Iterable[Awaitable[U]]) -> Promise[U]: ...
    @overload
    @staticmethod
    def race(items: Iterable[Awaitable[U] | U]) -> Promise[U]: ...
    @staticmethod
    def race(items: Iterable[object]) -> Promise[Any]:
        """Promise the outcome, good or bad, of the first of ``items`` to settle; of nothing, never."""
        promise: Promise[Any] = Promise()

        def each(index: int, value: object, reason: BaseException | None) -> None:
            if reason is None:
                promise._settle(FULFILLED, value)
            else:
                promise._reject(reason)

        Join(promise, list(items), each)
        return promise


class AwaitedPromise(Promise[T_co]):
    """The outcome of a result or set, for what is derived from it. Nobody else holds it.

    So what is derived from it reports a rejection that nobody sees, and when the last of that is cancelled the wait
    is over.
    """

    __slots__ = ("_end",)

    def __init__(self) -> None:
        super().__init__()
        self._silence()
        self._end: Callable[[], object] | None = None

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Give the outcome: ``value``, or ``error`` if there is one. Only the first call counts."""
        if error is None:
            self._resolve(value)
        else:
            self._reject(error)

    def ends_with(self, end: Callable[[], object]) -> None:
        """Have ``end`` called when the outcome is not wanted any more."""
        self._end = end

    def _settle(self, state: int, outcome: object) -> None:
        self._end = None
        super()._settle(state, outcome)

    def _drop_reaction(self, reaction: Reaction | asyncio.Future[None]) -> None:
        super()._drop_reaction(reaction)
        if not self._reactions and self._end is not None:
            end, self._end = self._end, None
            end()


def check_callbacks(on_success: object, on_error: object, *, weak: bool) -> None:
    """Raise TypeError for a callback that ``then`` cannot take."""
    for name, callback in (("on_success", on_success), ("on_error", on_error)):
        if callback is not None:
            check_callable(name, callback)
            if weak:
                weakly(callback)  # type: ignore[arg-type]
