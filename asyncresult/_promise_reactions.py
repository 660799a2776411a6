"""What a promise does when another one settles: :class:`Then`, :class:`Finally`, and :class:`Join` for several.

Source: Promises/A+ 1.1, clause 2.2; ECMAScript for ``finally`` and the joins.
"""

from __future__ import annotations

import contextvars
import inspect
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from ._promise_core import EXITS, FULFILLED, REJECTED, BasePromise, Callback, Link, Promised, Reaction, Source

__all__ = ["Finally", "Join", "Then", "settle_with", "weakly"]


class Then(Reaction):
    """Calls ``on_success`` or ``on_error``, and resolves ``target`` with what comes back."""

    __slots__ = ("on_error", "on_success", "target")

    def __init__(
        self,
        parent: BasePromise[Any],
        target: BasePromise[Any],
        on_success: Callback | None,
        on_error: Callback | None,
        *,
        weak: bool,
    ) -> None:
        self.on_success = weakly(on_success) if weak else on_success
        self.on_error = weakly(on_error) if weak else on_error
        self.target = target
        target._source = self
        super().__init__(parent, contextvars.copy_context())

    def react(self, parent: BasePromise[Any]) -> None:
        if parent._state == FULFILLED:
            callback, argument = self.on_success, parent._outcome
        else:
            callback, argument = self.on_error, parent._outcome.take()
            if not isinstance(argument, Exception):  # cancellation and exits pass, as they pass "except Exception"
                callback = None
        if isinstance(callback, weakref.ref):
            callback = callback()
        try:
            if callback is None:
                self.target._adopt(parent)
            else:
                settle_with(self.target, callback, argument)
        finally:
            del self, parent, argument


class Finally(Reaction):
    """Calls ``fn``, waits for what it returns, and gives ``target`` the outcome of the parent."""

    __slots__ = ("fn", "target")

    def __init__(self, parent: BasePromise[Any], target: BasePromise[Any], fn: Callable[[], object]) -> None:
        self.fn = fn
        self.target = target
        target._source = self
        super().__init__(parent, contextvars.copy_context())

    def react(self, parent: BasePromise[Any]) -> None:
        cleanup: BasePromise[Any] = BasePromise()
        if parent._state == REJECTED:
            parent._outcome.seen = True
        self.target._source = Link(cleanup, partial(self._finish, parent), owned=True)
        try:
            settle_with(cleanup, self.fn)
        finally:
            del self, parent, cleanup

    def _finish(self, parent: BasePromise[Any], cleanup: BasePromise[Any]) -> None:
        self.target._adopt(parent if cleanup._state == FULFILLED else cleanup)


class Join(Source):
    """Calls ``each`` with how every one of ``items`` ends, until ``target`` is done and the rest is let go.

    ``each`` gets the index, the value, and the reason or None.
    """

    __slots__ = ("each", "links", "target")

    def __init__(
        self, target: BasePromise[Any], items: list[object], each: Callable[[int, Any, BaseException | None], None]
    ) -> None:
        self.target = target
        self.each = each
        self.links: list[Link] = []
        target._source = self
        for index, item in enumerate(items):
            promise = self._promise_of(item)
            promise._silence()
            self.links.append(Link(promise, partial(self.react, index), owned=promise is not item))

    @staticmethod
    def _promise_of(item: object) -> BasePromise[Any]:
        if isinstance(item, BasePromise):
            return item
        promise: BasePromise[Any] = BasePromise()
        try:
            if isinstance(item, Promised):
                return item._promise()  # which ends with the last link to it
            promise._resolve(item)
        except Exception as error:
            promise._reject(BaseException.with_traceback(error, None))  # its own may raise
        return promise

    def react(self, index: int, settled: BasePromise[Any]) -> None:
        if settled._state == FULFILLED:
            self.each(index, settled._outcome, None)
        else:
            self.each(index, None, settled._outcome.take())
        if self.target.done():
            for link in self._release():
                link.let_go()

    def stop(self) -> None:
        for link in self._release():
            link.stop()

    def _release(self) -> list[Link]:
        links, self.links = self.links, []  # a link holds its join
        return links


def settle_with(target: BasePromise[Any], fn: Callback, *args: object) -> None:
    """Resolve ``target`` with what ``fn`` returns, or reject it with what ``fn`` raises.

    KeyboardInterrupt and SystemExit go on to the loop, as out of asyncio's own callbacks and tasks.
    """
    try:
        target._resolve(fn(*args))
    except BaseException as error:
        target._reject(error)
        if isinstance(error, EXITS):
            raise
    finally:
        del target, args


def weakly(callback: Callback | None) -> weakref.ref[Callback] | None:
    """A weak reference to a callback. Raises TypeError where there can be none."""
    if callback is None:
        return None
    return weakref.WeakMethod(callback) if inspect.ismethod(callback) else weakref.ref(callback)
