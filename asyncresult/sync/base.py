"""What single results and sets of results have in common in the blocking face."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial, singledispatch
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

from .. import backend as backends
from .._checks import LOOK_ONCE_TIMEOUT, check_callable
from .._extensions import current_app
from .._handles.base import handles_in
from .._handles.handle import Handle, observe, unobserve
from .._handles.known import is_ready
from .._log import Log, get_logger
from .._portal import Post, refuse_running_loop, run, run_with_callbacks, start
from .._promise_reactions import weakly
from .._storage.current import named_store
from ..errors import AsyncResultError
from ..meta import TaskMeta
from .celery import celerys_terms, document, in_celerys_terms

__all__ = [
    "Blocking",
    "OnMessage",
    "ResultBase",
    "Stream",
    "Updates",
    "async_backend",
    "backend_now",
    "blocking",
    "blocking_get",
]

logger: Log = get_logger("asyncresult")

ItemT = TypeVar("ItemT")

OnMessage = Callable[[dict[str, Any]], object]


class Blocking:
    """A blocking object in front of an async one."""

    def _async(self) -> Any:
        """What does the work, on the portal's loop."""
        raise NotImplementedError


@singledispatch
def blocking(thing: object) -> Any:
    """The blocking object for an async handle, set or backend that nobody else uses. Each class registers its own."""
    raise TypeError(f"there is no blocking {type(thing).__name__}")


def async_backend(backend: Any = None, app: Any = None) -> backends.Backend | None:
    """The async backend that is meant; None is the current one, at the first use.

    Args:
        backend: A blocking backend, an async one, or Celery's.
        app: A Celery app.

    Raises:
        TypeError: ``backend`` or ``app`` is nothing of the kind.
        ValueError: The app's results are not where asyncresult can read them.
    """
    if isinstance(backend, backends.Backend):
        return backend
    if isinstance(backend, Blocking) and isinstance(backend._async(), backends.Backend):
        meant: backends.Backend = backend._async()
        return meant
    if backend is not None:
        app = backend  # one of Celery's, which need not be that of its app: it can be connected like an app
    elif app is None and named_store() is None and not os.environ.get(backends.URL_VARIABLE):
        app = current_app()  # now: which app is Celery's current one differs from thread to thread
    return backends.connect(app) if app is not None else None


def backend_now(backend: Any = None, app: Any = None) -> backends.Backend:
    """The async backend that is meant, the current one included. Args, raises: as :func:`async_backend`."""
    return async_backend(backend, app) or backends.current_backend()


class ResultBase(Blocking):
    """What single results and sets of results have in common."""

    #: The result of the task that must succeed before, in a chain.
    parent: Any = None

    def to_celery(self, app: Any) -> Any:
        """Celery's own result for this, with parents and members.

        Args:
            app: The Celery app that it is to belong to.
        """
        return self._async().to_celery(app)

    def then(
        self,
        callback: Callable[[Any], object],
        on_error: Callable[[Exception], object] | None = None,
        weak: bool = False,
        *,
        executor: Executor | None = None,
    ) -> Future[Any]:
        """Call ``callback(self)`` when everything is over, whatever the outcome. Does not block.

        The callback runs on the facade's event loop, once, also when nobody ever waits and when the result
        was known long before. It may read what is known (``result``, ``state``, ``get()`` …); whatever
        would have to wait raises RuntimeError there. Use ``executor`` for callbacks that block.

        Args:
            on_error: Called instead, with the exception of the (first) task that failed; also with what
                ``callback`` raises.
            weak: Hold the callbacks weakly; one that is gone by then is not called.
            executor: Where the callbacks run, e.g. a ``concurrent.futures.ThreadPoolExecutor``.

        Returns:
            A future of what the callback returns. What it raises is also logged, unless ``on_error`` takes it.

        Raises:
            TypeError: A callback cannot be called.

        Source: celery/result.py (5.7), AsyncResult.then; there nobody calls before somebody waits, and
        ``on_error`` is never called for a task that failed.
        """
        check_callable("callback", callback)
        if on_error is not None:
            check_callable("on_error", on_error)
        hold: Any = weakly if weak else _strong
        return start(self._call_back, hold(callback), hold(on_error), executor)

    async def _call_back(self, callback: Any, on_error: Any, executor: Executor | None) -> Any:
        node = self._async()
        failure: Exception | None
        try:
            await node.get(propagate=False)
            failure = _failure_of(node)
        except AsyncResultError as error:  # there is no record to be had
            if on_error is None:
                raise
            failure = error

        def call() -> Any:
            error, handler = failure, on_error and on_error()
            if error is None or handler is None:
                called = callback()
                try:
                    return called(self) if called is not None else None
                except Exception as raised:
                    if handler is None:
                        logger.exception("a callback of %r failed", self, extra={"event": "callback failed"})
                        raise
                    error = raised
            return handler(error)

        return await asyncio.wrap_future(executor.submit(call)) if executor is not None else call()


class Stream(Iterator[ItemT]):
    """What comes one by one while tasks run: ``for item in stream``.

    Also a context manager, which stops waiting at the end of the block.
    """

    def __init__(self, source: AsyncIterator[Any], as_item: Callable[[Any], ItemT] | None = None) -> None:
        self._source: Any = source
        self._as_item = as_item

    def __next__(self) -> ItemT:
        """Raises: as the async iterator of this kind."""
        with celerys_terms:
            try:
                item = run(self._source.__anext__)
            except StopAsyncIteration:
                raise StopIteration from None
        return self._as_item(item) if self._as_item is not None else item

    def close(self) -> None:
        """Stop waiting. Harmless when repeated."""
        run(self._source.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


class Updates(Stream[TaskMeta]):
    """The states of one task as they are published. Made by :meth:`AsyncResult.updates`.

    Source: :class:`asyncresult.Updates`, whose attributes it has.
    """

    @property
    def dropped(self) -> int:
        """How many states were lost because nobody took them."""
        dropped: int = self._source.dropped
        return dropped

    @property
    def last_id(self) -> str | None:
        """Where to go on: ``updates(since=last_id)``, for tasks that keep a history."""
        last_id: str | None = self._source.last_id
        return last_id


# -- waiting with callbacks -----------------------------------------------------------------------------------


def blocking_get(
    node: Any,
    timeout: float | None,
    *,
    interval: float,
    on_interval: Callable[[], object] | None,
    on_message: OnMessage | None,
    callback: Callable[[str, Any], object] | None = None,
    **options: Any,
) -> Any:
    """``node.get(timeout, **options)`` on the loop, with the callbacks called here."""
    if on_interval is None and on_message is None and callback is None:
        return run(node.get, timeout, **options)

    refuse_running_loop(node.get)

    async def wait(post: Post) -> Any:
        with _watching(node, on_message, post) as feeds:
            try:
                value = await node.get(timeout, callback=callback and partial(post, callback), **options)
            except Exception:
                await _late_messages(feeds)
                raise
            await _late_messages(feeds)
            return value

    return run_with_callbacks(wait, interval=interval, on_interval=on_interval)


@contextmanager
def _watching(node: Any, on_message: OnMessage | None, post: Post) -> Generator[list[_Messages]]:
    """While the block runs, each record that arrives for a task of ``node`` is posted to ``on_message``."""
    feeds = (
        [_Messages(leaf, partial(post, on_message)) for leaf in handles_in(node) if not leaf.done()]
        if on_message
        else []
    )
    try:
        for feed in feeds:
            observe(feed.handle, feed)
        yield feeds
    finally:
        for feed in feeds:
            unobserve(feed.handle, feed)


async def _late_messages(feeds: list[_Messages]) -> None:
    """Wait for the states that came before the end of those that have ended, if they are still on their way."""
    late = [feed.ended for feed in feeds if is_ready(feed.handle) and not feed.ended.done()]
    if late:
        await asyncio.wait(late, timeout=LOOK_ONCE_TIMEOUT)


class _Messages:
    """A feed that keeps nothing."""

    __slots__ = ("_pass_on", "ended", "handle")
    follows: ClassVar[bool] = True

    def __init__(self, handle: Handle[Any], pass_on: Callable[[dict[str, Any]], None]) -> None:
        self.handle = handle
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pass_on = pass_on

    def put(self, meta: TaskMeta) -> None:
        self._pass_on(document(self.handle, meta))
        if meta.ready:
            self.fail(None)

    def fail(self, reason: object) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


# -- then() ---------------------------------------------------------------------------------------------------


def _strong(callback: Any) -> Callable[[], Any] | None:
    """As :func:`._promise_reactions.weakly`, for callbacks that are to stay."""
    return (lambda: callback) if callback is not None else None


def _failure_of(node: Any) -> Exception | None:
    """The exception of the first task that failed."""
    failures = (leaf.exception for leaf in handles_in(node) if not leaf.ignored)
    return next((in_celerys_terms(failure) for failure in failures if failure is not None), None)
