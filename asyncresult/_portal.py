"""The one event loop behind all blocking calls of a process, in a thread of its own.

The thread starts at the first call, is shared by all threads, ends at interpreter exit, and is left behind by a fork:
the child starts its own. Where no thread can be started any more, because the interpreter is ending, a call runs the
loop itself.

A call is one queue there, with a wake-up of the loop for all calls that are in it, and one queue back. The thread that
waits sits in ``SimpleQueue.get``, which a signal interrupts at once (Ctrl-C) and which lets it run the caller's
callbacks where the caller expects them: in its own thread.
"""

from __future__ import annotations

import asyncio
import atexit

# It cannot be imported any more while the interpreter ends, and redis-py does.
import concurrent.futures.thread  # noqa: F401  # pyright: ignore[reportUnusedImport]
import functools
import os
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextvars import Context, copy_context
from queue import Empty, SimpleQueue
from time import monotonic
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from . import _background

__all__ = ["Post", "refuse_running_loop", "run", "run_future", "run_with_callbacks", "start", "stop"]

P = ParamSpec("P")
T = TypeVar("T")

Post = Callable[..., None]
"""``post(fn, *args)``: have the thread that waits call ``fn(*args)``. What that raises ends the wait."""

#: Seconds that the thread gets to end: a callback that blocks its loop must not hold up the end of the process.
STOP_TIMEOUT = 5.0
#: Seconds of these for revocations, and states that an outage held up.
FINISH_TIMEOUT = 2.0

_MISSING: Any = object()


def run(coro_fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call and await ``coro_fn(*args, **kwargs)`` on the portal's loop; block this thread until it ends.

    It runs in a copy of the caller's context variables. Ctrl-C, or whatever else a signal handler raises
    here, is raised at once; the coroutine is cancelled and left to end by itself.

    Raises:
        RuntimeError: An event loop runs on this thread (which it would block), or the portal was stopped
            meanwhile.
        BaseException: What the coroutine raises.
    """
    refuse_running_loop(coro_fn)
    return _Call(coro_fn, *args, **kwargs).wait(_the_portal())


def run_future(fn: Callable[P, asyncio.Future[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Like :func:`run`, for a function that returns a future at once, which saves a task (benchmarks: store-each).

    The caller has used :func:`refuse_running_loop`, with the name that users know.
    """
    return _FutureCall(fn, *args, **kwargs).wait(_the_portal())


def run_with_callbacks(
    coro_fn: Callable[[Post], Awaitable[T]],
    *,
    interval: float | None = None,
    on_interval: Callable[[], object] | None = None,
) -> T:
    """Like :func:`run`, for ``coro_fn(post)``: what it posts is called here, in order, before this returns.

    Args:
        on_interval: Called in this thread each ``interval`` seconds, while there is nothing else to do.
    """
    refuse_running_loop(coro_fn)
    call: _Call[T] = _Call(lambda: coro_fn(call.post))
    try:
        return call.wait(_the_portal(), interval, on_interval)
    finally:
        del call._fn  # which holds the call, and the handles with their values


def start(coro_fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Like :func:`run`, but do not wait, and on any thread. Cancelling the future cancels the coroutine."""

    async def contained() -> T:
        try:
            return await coro_fn(*args, **kwargs)
        except (SystemExit, KeyboardInterrupt) as error:  # asyncio lets these end the loop
            raise RuntimeError(f"{type(error).__name__} was raised in a background callback") from error

    return asyncio.run_coroutine_threadsafe(contained(), _the_portal().loop)


def refuse_running_loop(called: Callable[..., object]) -> None:
    """Raise RuntimeError, naming the way to go, if an event loop runs on this thread."""
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        return
    portal = _portal
    if portal is not None and running is portal.loop and not portal.is_this_thread():
        return  # under gevent threads are greenlets: its loop takes turns with this one, which may block
    name = getattr(called, "__qualname__", repr(called))
    if isinstance(called, MethodType) and not isinstance(called.__self__, type):
        name = f"{type(called.__self__).__name__}.{called.__name__}"  # as users know it, wherever it is defined
    raise RuntimeError(
        f"asyncresult.sync: {name}() would block the event loop that runs on this thread. "
        f"Await asyncresult's own {name}() there (as in Jupyter, where a loop always runs), "
        "or move the blocking code into 'await asyncio.to_thread(...)'"
    )


class _Call(Generic[T]):
    """One blocking call, between the thread that waits and the loop's thread."""

    __slots__ = ("_error", "_fn", "_inbox", "_portal", "_task", "_value")

    def __init__(self, fn: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> None:
        self._fn: Callable[[], Any] = functools.partial(fn, *args, **kwargs)
        # What the thread that waits is to call; None when the call is over.
        self._inbox: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._task: asyncio.Future[Any] | None = None
        self._value: T = _MISSING
        self._error: BaseException | None = None

    # -- the thread that waits ------------------------------------------------------------------------

    def wait(
        self, portal: _Portal, interval: float | None = None, on_interval: Callable[[], object] | None = None
    ) -> T:
        portal.calls.add(self)
        self._portal = portal
        try:
            portal.call_soon(self._begin, portal)
            for todo in self._todo(portal, interval, on_interval):
                if todo is None:
                    break
                todo()
        except BaseException:
            portal.calls.discard(self)
            portal.call_soon(self._cancel)
            raise
        if self._value is not _MISSING:
            return self._value
        try:
            raise _stopped() if self._error is None else self._error
        finally:
            self._error = None  # it holds this frame, which holds it

    def _todo(
        self, portal: _Portal, interval: float | None, on_interval: Callable[[], object] | None
    ) -> Iterator[Callable[[], object] | None]:
        if on_interval is None:
            while True:
                yield portal.take(self._inbox)
        interval = interval or 0.0
        due = monotonic() + interval
        while True:
            try:
                yield portal.take(self._inbox, max(0.0, due - monotonic()))
            except Empty:
                due = monotonic() + interval
                yield on_interval

    # -- the loop's thread ----------------------------------------------------------------------------

    def post(self, fn: Callable[..., object], /, *args: Any) -> None:
        self._inbox.put(functools.partial(fn, *args))
        self._portal.wake()

    def _begin(self, portal: _Portal) -> None:
        # Runs in the context that call_soon_threadsafe copied in the caller's thread, and so does the task.
        self._task = portal.loop.create_task(self._await(), name="asyncresult blocking call")
        self._task.add_done_callback(lambda _: self.end(portal))

    async def _await(self) -> None:
        try:
            self._value = await self._fn()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # SystemExit too: it is the caller's, and would end the loop here
            self._error = error

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def end(self, portal: _Portal) -> None:
        """Let the caller go on, with what there is."""
        if self in portal.calls:
            portal.calls.discard(self)
            self._inbox.put(None)
            portal.wake()


class _FutureCall(_Call[T]):
    """A call of a function that returns a future."""

    __slots__ = ()

    def _begin(self, portal: _Portal) -> None:
        try:
            future: asyncio.Future[T] = self._fn()
        except BaseException as error:  # as in _await()
            self._error = error
            self.end(portal)
        else:
            self._task = future
            future.add_done_callback(functools.partial(self._ended, portal))

    def _ended(self, portal: _Portal, future: asyncio.Future[T]) -> None:
        if not future.cancelled():
            self._error = future.exception()
            if self._error is None:
                self._value = future.result()
        self.end(portal)


if TYPE_CHECKING or sys.platform != "win32":
    _DefaultLoop = asyncio.SelectorEventLoop
else:
    _DefaultLoop = asyncio.ProactorEventLoop


class _Loop(_DefaultLoop):
    """A loop that can still resolve host names, and decode large records, while the interpreter ends."""

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        try:
            return super().run_in_executor(executor, func, *args)
        except RuntimeError as error:
            if not _interpreter_is_ending(error):
                raise
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


Todo = Callable[[], object] | None


class _Portal:
    """An event loop in a thread, and the calls that wait for it."""

    def __init__(self) -> None:
        self.calls: set[_Call[Any]] = set()
        self.loop = _Loop()
        self._handed_over: deque[tuple[Context, Callable[..., object], tuple[Any, ...]]] = deque()
        self._is_to_take_over = False
        self._stopped = self.loop.create_future()
        self._open()

    def _open(self) -> None:
        # A daemon, because the interpreter joins the others before it calls stop().
        self._thread = threading.Thread(target=self._main, name="asyncresult", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self.loop.close()
            raise

    def _main(self) -> None:
        try:
            # By a task that lasts: anyio's worker threads live as long as that.
            self.loop.run_until_complete(self._serve())
        finally:
            self._close_loop()

    async def _serve(self) -> None:
        await self._stopped

    def _close_loop(self) -> None:
        # As asyncio.run() does, but for its last step, which starts a thread: it cannot be started at interpreter exit.
        try:
            self.loop.run_until_complete(_end_tasks())
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            self.loop.close()
            for call in list(self.calls):  # those that came too late to become tasks
                call.end(self)

    def is_this_thread(self) -> bool:
        """Whether the loop's own thread, or what serves as one, runs this."""
        return threading.current_thread() is self._thread

    def call_soon(self, fn: Callable[..., object], /, *args: Any) -> None:
        """Have the loop call it, in the caller's context. A wake-up for all until then (benchmarks: store-threads)."""
        self._handed_over.append((copy_context(), fn, args))
        if self._is_to_take_over and not self.loop.is_closed():
            return
        self._is_to_take_over = True
        try:
            self.loop.call_soon_threadsafe(self._take_over)
        except RuntimeError:  # the loop is closed
            for call in list(self.calls):
                call.end(self)

    def _take_over(self) -> None:
        self._is_to_take_over = False  # first: what is handed over behind the last one wakes the loop again
        while self._handed_over:
            context, fn, args = self._handed_over.popleft()
            context.run(fn, *args)  # none of them raises

    def take(self, inbox: SimpleQueue[Todo], timeout: float | None = None) -> Todo:
        """What the thread that waits is to do next. Raises Empty after ``timeout`` seconds."""
        return inbox.get(timeout=timeout)

    def wake(self) -> None:
        """There is something in an inbox."""

    def stop(self) -> None:
        self.call_soon(self._stop_serving)
        self._thread.join(STOP_TIMEOUT)

    def _stop_serving(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)


async def _end_tasks() -> None:
    await _background.finish_all(FINISH_TIMEOUT)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


class _PortalAtExit(_Portal):
    """An event loop that runs while a call waits for it: no thread can be started any more."""

    def _open(self) -> None:
        pass

    def is_this_thread(self) -> bool:
        return True

    def take(self, inbox: SimpleQueue[Todo], timeout: float | None = None) -> Todo:
        if inbox.empty():
            timer = self.loop.call_later(timeout, self.loop.stop) if timeout is not None else None
            self.loop.run_forever()
            if timer is not None:
                timer.cancel()
        return inbox.get_nowait()

    def wake(self) -> None:
        self.loop.stop()

    def stop(self) -> None:
        self._close_loop()


_portal: _Portal | None = None
_starting = threading.Lock()
#: Portals of the process that forked us, with the tasks on their loops. Kept, because they share descriptors with
#: the parent: what closes its transports when it is destroyed would take them out of the parent's poll, too.
_inherited: list[tuple[_Portal, set[asyncio.Task[Any]]]] = []


def _the_portal() -> _Portal:
    global _portal
    portal = _portal
    if portal is None:
        with _starting:
            portal = _portal
            if portal is None:
                portal = _portal = _start()
    return portal


def _start() -> _Portal:
    try:
        return _Portal()
    except RuntimeError as error:
        if not _interpreter_is_ending(error):
            raise
    return _PortalAtExit()


def _interpreter_is_ending(error: RuntimeError) -> bool:
    """Whether that is why no thread could be started. (A main thread is alive that was never requested to stop.)"""
    return not threading.main_thread().is_alive() or "interpreter shutdown" in str(error)


def stop() -> None:
    """End the thread; who waits gets RuntimeError. The next call starts another."""
    global _portal
    with _starting:
        portal, _portal = _portal, None
        if portal is not None:
            portal.stop()


def _stopped() -> RuntimeError:
    return RuntimeError("the event loop of asyncresult.sync was stopped during this call")


def _after_fork_in_child() -> None:
    global _portal, _starting
    if _portal is not None:
        _inherited.append((_portal, asyncio.all_tasks(_portal.loop)))
        _portal = None
    _starting = threading.Lock()


def _at_exit() -> None:
    if _portal is not None:
        # Only daemon threads can still wait. They end with the process, and need no error.
        _portal.calls.clear()
    stop()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
