"""What drives a promise: its states, its jobs, and how it follows another one.

Theory of operation. A promise is pending, then once and forever fulfilled or rejected. While it is
pending it keeps its *reactions* in order of registration: the callbacks of ``then`` and ``finally_``,
other promises that will take over its outcome (:class:`Link`), and the bare futures of those who await
it. When it settles, every reaction becomes one job of the event loop (``loop.call_soon``); so no
callback ever runs in the frame of whoever registered it or settled the promise. A job calls its
callback, and what comes out resolves the promise that ``then`` had returned, its *target*
(:func:`._promise_reactions.settle_with`, :meth:`BasePromise._resolve`).

In the other direction a pending promise knows its *source*, the one thing it waits for (a reaction, a
join, a task, a future), so that ``cancel`` can let go of it.

An unseen rejection is noticed when its promise goes, which should be at once: so settled promises are in
no reference cycle. The traceback of what a callback raised holds the frames of the callback and, by
``f_back``, of all its callers; these must not hold the promise that is rejected. Hence the ``del``.

Source: Promises/A+ 1.1, clauses 2.1 to 2.3, with asyncio's loop as the job queue.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import reprlib
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final, TypeAlias, TypeVar

from ._background import HeldTasks
from ._promise_rejections import Rejection, orphans, report_orphans

__all__ = [
    "FULFILLED",
    "PENDING",
    "REJECTED",
    "BasePromise",
    "Callback",
    "Link",
    "Promised",
    "Reaction",
    "Settler",
    "Source",
    "check_reason",
]

T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")

PENDING: Final = 0
FULFILLED: Final = 1
REJECTED: Final = 2

#: What is neither awaitable nor thenable: most values are spared the search for ``then``.
PLAIN: Final = frozenset({type(None), bool, int, float, str, bytes, list, tuple, dict, set, frozenset})

#: These stop the loop, through which they are raised. No report is needed.
EXITS: Final = (KeyboardInterrupt, SystemExit)

Callback: TypeAlias = Callable[..., object]

#: The tasks that promises started. The loop itself holds tasks weakly.
_running: Final = HeldTasks()


class Promised:
    """What has its outcome as a promise, which is followed without a detour."""

    __slots__ = ()

    @abstractmethod
    def _promise(self) -> BasePromise[Any]:
        """A promise of the outcome. The wait begins now."""


class BasePromise(Awaitable[T_co]):
    """State, waiting and settling; :class:`asyncresult.promise.Promise` is the face of it."""

    __slots__ = ("__weakref__", "_loop", "_outcome", "_reactions", "_silent", "_source", "_state")

    def __init__(self) -> None:
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError("a promise needs a running event loop: make it inside a coroutine") from None
        self._state = PENDING
        self._outcome: Any = None  # the value, or a Rejection
        self._reactions: dict[Reaction | asyncio.Future[None], None] | None = None
        self._source: Source | asyncio.Future[Any] | None = None
        self._silent = False
        if orphans:
            self._loop.call_soon(report_orphans, self._loop)

    def __repr__(self) -> str:
        name = type(self).__name__
        if self._state == PENDING:
            return f"<{name} pending>"
        if self._state == FULFILLED:
            return f"<{name} fulfilled: {reprlib.repr(self._outcome)}>"
        return f"<{name} rejected: {reprlib.repr(self._outcome.reason)}>"

    def __await__(self) -> Generator[Any, None, T_co]:
        self._check_loop()
        if self._state == PENDING:
            if self._source is not None and self._source is asyncio.current_task():
                raise RuntimeError("a callback cannot await the promise of its own result")
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._add_reaction(waiter)
            try:
                yield from waiter
            finally:
                self._drop_reaction(waiter)
        if self._state == FULFILLED:
            value: T_co = self._outcome
            return value
        try:
            raise self._outcome.take()
        finally:
            del self  # this frame stays in the traceback, and the promise would stay with it

    def done(self) -> bool:
        """Whether the promise is fulfilled, rejected or cancelled."""
        return self._state != PENDING

    def cancel(self) -> bool:
        """Cancel this continuation, never what it continues.

        The promise is rejected with ``asyncio.CancelledError`` at once, and awaiting it raises that. Its
        callback will not be called; a coroutine that the callback already returned is cancelled, and
        what that still returns is dropped. The promise that this one was made from is not touched, nor
        is a future or task that it followed. Promises made from this one are cancelled in their turn,
        without calling ``on_success`` or ``on_error``; ``finally_`` runs.

        Returns:
            False if the promise was done already, and nothing happened.

        Raises:
            RuntimeError: Called outside the event loop of the promise.
        """
        self._check_loop()
        if self._state != PENDING:
            return False
        source, self._source = self._source, None
        if isinstance(source, Source):
            source.stop()
        elif source is not None:
            source.remove_done_callback(self._finish)
            if source in _running:
                source.cancel()
        self._reject(asyncio.CancelledError())
        return True

    # -- For the rest of the package, on the promise's own loop. What is done already stays as it is.

    def _resolve(self, value: object) -> None:
        """Fulfil with ``value``, or follow it if it is a promise, future, thenable or awaitable.

        Source: Promises/A+ 2.3. Of an object that is several of these, ``then`` is preferred to
        ``__await__``: it needs no task.
        """
        if self._state != PENDING:
            return
        if type(value) in PLAIN or isinstance(value, type):  # a class has its instances' methods: not thenable
            self._settle(FULFILLED, value)
        elif isinstance(value, BasePromise):
            self._follow(value)
        elif isinstance(value, Promised):
            try:
                self._follow(value._promise())
            except Exception as error:
                self._reject(BaseException.with_traceback(error, None))
        elif asyncio.isfuture(value):
            self._wait_for(value)
        else:
            try:
                # What has a handle of ours is taken for that: its own then() may mean something else, as Celery's does.
                convert: Any = getattr(type(value), "__asyncresult__", None)
                then = getattr(value if convert is None else convert(value), "then", None)
            except BaseException as error:
                self._reject(error)
                del self
                if isinstance(error, EXITS):
                    raise
                return
            if callable(then):
                # In a job of its own, so that thenables of thenables do not grow the stack.
                self._loop.call_soon(Settler(self).run, then)
            elif inspect.isawaitable(value):
                self._wait_for(_start(self._loop, value))
            else:
                self._settle(FULFILLED, value)

    def _reject(self, reason: BaseException) -> None:
        """Reject with ``reason``; with a CancelledError the promise counts as cancelled."""
        if self._state != PENDING:
            return
        seen = self._silent or isinstance(reason, (asyncio.CancelledError, *EXITS))
        self._settle(REJECTED, Rejection(self._loop, reason, seen))

    def _silence(self) -> None:
        """Never report this promise's rejection: whoever calls this takes charge of it."""
        self._silent = True
        if self._state == REJECTED:
            self._outcome.seen = True

    # -- Inside.

    def _settle(self, state: int, outcome: object) -> None:
        self._state, self._outcome, self._source = state, outcome, None
        reactions, self._reactions = self._reactions, None
        for reaction in reactions or ():
            if isinstance(reaction, Reaction):
                self._loop.call_soon(reaction.run, context=reaction.context)
            elif not reaction.done():
                reaction.set_result(None)

    def _adopt(self, settled: BasePromise[Any]) -> None:
        """Take over the outcome of a promise that is done."""
        if settled._state == FULFILLED:
            self._settle(FULFILLED, settled._outcome)
        else:
            self._reject(settled._outcome.take())

    def _follow(self, other: BasePromise[Any]) -> None:
        if other._loop is not self._loop:
            self._reject(RuntimeError("a promise cannot follow one of another event loop"))
        elif other is self or self._is_awaited_by(other):
            self._reject(TypeError("a promise cannot be resolved with itself"))
        elif other._state != PENDING:
            self._adopt(other)
        else:
            self._source = Link(other, self._adopt)

    def _is_awaited_by(self, other: BasePromise[Any]) -> bool:
        """Whether ``other`` settles only after this promise, by following it or by ``then``."""
        if not self._reactions:  # nobody waits for this one: the usual case, and it keeps long chains linear
            return False
        node = other
        while isinstance(node._source, Reaction) and node._source.parent is not None:
            node = node._source.parent
            if node is self:
                return True
        return False

    def _wait_for(self, future: asyncio.Future[Any]) -> None:
        if future.get_loop() is not self._loop:
            self._reject(RuntimeError("a promise cannot follow a future of another event loop"))
            return
        self._source = future
        future.add_done_callback(self._finish)

    def _finish(self, future: asyncio.Future[Any]) -> None:
        try:
            error = future.exception()
        except asyncio.CancelledError as cancelled:
            error = cancelled.with_traceback(None)  # it holds this frame
        if error is None:
            self._resolve(future.result())
        else:
            self._reject(error)

    def _add_reaction(self, reaction: Reaction | asyncio.Future[None]) -> None:
        if self._reactions is None:
            self._reactions = {}
        self._reactions[reaction] = None

    def _drop_reaction(self, reaction: Reaction | asyncio.Future[None]) -> None:
        if self._reactions is not None:
            self._reactions.pop(reaction, None)

    def _check_loop(self) -> None:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is not self._loop:
            raise RuntimeError("this promise belongs to another event loop or thread")


class Source:
    """What a pending promise waits for, when it is not a future."""

    __slots__ = ()

    def stop(self) -> None:
        """Let go of it, as the promise was cancelled."""
        raise NotImplementedError


class Reaction(Source):
    """One job for when ``parent`` settles. It is done once, or never if it is let go of before."""

    __slots__ = ("context", "parent")

    def __init__(self, parent: BasePromise[Any], context: contextvars.Context | None = None) -> None:
        self.parent: BasePromise[Any] | None = parent
        self.context = context
        if parent._state == PENDING:
            parent._add_reaction(self)
        else:
            parent._loop.call_soon(self.run, context=context)

    def run(self) -> None:
        parent, self.parent = self.parent, None
        try:
            if parent is not None:
                self.react(parent)
        finally:
            del self, parent

    def react(self, parent: BasePromise[Any]) -> None:
        raise NotImplementedError

    def let_go(self) -> None:
        parent, self.parent = self.parent, None
        if parent is not None:
            parent._drop_reaction(self)

    def stop(self) -> None:
        self.let_go()


class Link(Reaction):
    """Calls ``notify`` when the parent is done. An ``owned`` parent is cancelled with the target."""

    __slots__ = ("notify", "owned")

    def __init__(
        self, parent: BasePromise[Any], notify: Callable[[BasePromise[Any]], None], *, owned: bool = False
    ) -> None:
        self.notify = notify
        self.owned = owned
        super().__init__(parent)

    def react(self, parent: BasePromise[Any]) -> None:
        self.notify(parent)

    def stop(self) -> None:
        parent = self.parent
        self.let_go()
        if self.owned and parent is not None:
            parent.cancel()


class Settler:
    """A pair of functions of which the first call counts (2.3.3.3.3): executors and thenables get it."""

    __slots__ = ("promise",)

    def __init__(self, promise: BasePromise[Any]) -> None:
        self.promise: BasePromise[Any] | None = promise

    def run(self, fn: Callback) -> None:
        """Call ``fn(resolve, reject)``; what it raises before it called one of them rejects the promise."""
        try:
            fn(self.resolve, self.reject)
        except BaseException as error:
            if self.promise is not None:
                self._take()._reject(error)
            if isinstance(error, EXITS):
                raise

    def resolve(self, value: object = None) -> None:
        if self.promise is not None:
            self.promise._check_loop()
            self._take()._resolve(value)

    def reject(self, reason: BaseException) -> None:
        check_reason(reason)
        if self.promise is not None:
            self.promise._check_loop()
            self._take()._reject(reason)

    def _take(self) -> BasePromise[Any]:
        promise, self.promise = self.promise, None
        assert promise is not None
        return promise


def check_reason(reason: object) -> None:
    if not isinstance(reason, BaseException):
        raise TypeError(f"a promise is rejected with an exception, not {type(reason).__name__}")


def _start(loop: asyncio.AbstractEventLoop, awaitable: Awaitable[Any]) -> asyncio.Task[Any]:
    name = getattr(awaitable, "__qualname__", type(awaitable).__qualname__)
    coroutine = awaitable if asyncio.iscoroutine(awaitable) else _await(awaitable)
    # Not loop.create_task(): an eager task factory would run it before the promise knows that it waits for it.
    task = asyncio.Task(coroutine, loop=loop, name=f"Promise: {name}")
    _running.add(task)
    return task


async def _await(awaitable: Awaitable[R]) -> R:
    return await awaitable
