"""What a promise, a result and a set of results share: ``then``, ``catch`` and ``finally_``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

if TYPE_CHECKING:
    from .promise import Promise

__all__ = ["Thenable"]

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")
V = TypeVar("V")


class Thenable(Generic[T_co]):
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
        return self._promise()._then(on_success, on_error, weak=weak)

    @overload
    def catch(self, on_error: Callable[[Exception], Awaitable[V]]) -> Promise[T_co | V]: ...
    @overload
    def catch(self, on_error: Callable[[Exception], V]) -> Promise[T_co | V]: ...
    def catch(self, on_error: Callable[[Exception], object]) -> Promise[Any]:
        """Call ``on_error`` with the exception if there is one: ``then(None, on_error)``."""
        return self._promise()._then(None, on_error, weak=False)

    def finally_(self, fn: Callable[[], object]) -> Promise[T_co]:
        """Call ``fn()`` however this ends, cancellation included.

        Returns:
            A promise of the same outcome, after what ``fn`` returned has been awaited, if it can be. What
            ``fn`` raises takes the place of the outcome.

        Raises: as :meth:`then`.

        Source: ECMAScript, Promise.prototype.finally.
        """
        return self._promise()._finally(fn)
