"""What cannot be stored, or sent, when its time has come.

An outage holds up a final state: it is stored again and again, in the background, until that succeeds or the backend is
closed. Or the event loop ends, as ``asyncio.run()`` does it: it cancels all tasks at once, and with a worker's task the
connections that would store what became of it. Others are made then, for a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import weakref
from collections.abc import Awaitable, Callable

from . import _background
from ._log import Log, get_logger
from ._storage.store import Store, engine_of
from ._storage.waiters import Waiters
from .errors import BackendClosed, BackendError

__all__ = [
    "Delays",
    "at_the_end",
    "even_at_the_end",
    "log_never_stored",
    "store_at_the_end",
    "store_later",
    "wait_at_the_end",
]

logger: Log = get_logger("asyncresult")

#: Seconds between two attempts to store a state that an outage holds up: the first, doubled up to the last.
STORE_AGAIN_FIRST, STORE_AGAIN_LAST = 0.1, 1.0
#: Seconds that the end of an event loop waits for what is still to be stored or sent.
END_TIMEOUT = 2.0

Attempt = Callable[[], Awaitable[object]]


class Delays:
    """Pauses between attempts: doubled each time, with jitter.

    Attributes:
        first: Whether none was made yet.
    """

    def __init__(self) -> None:
        self.first: bool = True
        self._delay = STORE_AGAIN_FIRST

    async def sleep(self) -> None:
        self.first = False
        await asyncio.sleep(self._delay * random.uniform(0.5, 1.0))
        self._delay = min(self._delay * 2, STORE_AGAIN_LAST)


# -- in an outage -------------------------------------------------------------------------------------------


def store_later(backend: Store, task_id: str, state: str, attempt: Attempt, error: BackendError) -> asyncio.Task[None]:
    """Go on with storing a final state, whose first attempt has met ``error``. ``backend.aclose()`` waits for it."""
    text = "task %s has ended, but %s could not be stored, trying again: %s"
    about = {"event": "store delayed", "backend": str(backend), "task_id": task_id}
    logger.error(text, task_id, state, error, extra=about)
    return _background.start(backend, _store_again(backend, task_id, state, attempt), name="store")


async def _store_again(backend: Store, task_id: str, state: str, attempt: Attempt) -> None:
    delays = Delays()
    try:
        while True:
            await delays.sleep()
            try:
                await attempt()
            except BackendError:
                continue
            about = {"event": "stored late", "backend": str(backend), "task_id": task_id}
            logger.warning("task %s: %s is stored now", task_id, state, extra=about)
            return
    except (asyncio.CancelledError, BackendClosed):
        about = {"event": "not stored", "backend": str(backend), "task_id": task_id}
        logger.error("task %s: %s was never stored, as the backend was closed", task_id, state, extra=about)
        raise


# -- at the end of the loop ---------------------------------------------------------------------------------

#: Who uses connections that were made while the loop ends.
_users: weakref.WeakKeyDictionary[Store, int] = weakref.WeakKeyDictionary()


async def _loop_ends(backend: Store, table: Waiters) -> bool:
    """Whether what cancels us cancels the connections, too, and the backend was not closed."""
    for _ in range(_background.TURNS):
        await asyncio.sleep(0)
        if backend.closed or not backend._serves(table):
            break
    return not (backend.closed or backend._serves(table))


async def even_at_the_end(backend: Store, attempt: Attempt) -> None:
    """Use the backend, whether or not the loop ends.

    Raises:
        TimeoutError: It ends, and that took too long.
    """
    if not backend._engines.dropped_within(END_TIMEOUT):
        table = engine_of(backend).waiters
        try:
            if await _made(attempt, backend):
                return
        except asyncio.CancelledError:
            if not await _loop_ends(backend, table):
                raise
    await at_the_end(backend, attempt)


async def at_the_end(backend: Store, attempt: Attempt) -> None:
    """Use the backend while the loop ends. Its last user closes the connections made for that, unless something waits.

    Raises:
        TimeoutError: It took too long.
    """
    _users[backend] = _users.get(backend, 0) + 1
    try:
        async with asyncio.timeout(END_TIMEOUT):
            while True:
                if await _made(attempt, backend):
                    return
                await asyncio.sleep(0.001)  # the cancelled connections take some turns to be gone
    finally:
        _users[backend] -= 1
        if not (_users[backend] or backend.stats().pending):
            await backend._engines.aclose(0.0)


async def _made(attempt: Attempt, backend: Store) -> bool:
    """Make an attempt. False where its connection was closed under it, but the backend was not."""
    try:
        await attempt()
    except BackendClosed:
        if backend.closed:
            raise
        return False
    return True


async def wait_at_the_end(backend: Store, work: asyncio.Task[None]) -> None:
    """Wait for ``work`` if the event loop ends: it waits only for the tasks that it had when it began to cancel them.

    For a caller that is being cancelled: another cancellation changes nothing.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 2 * END_TIMEOUT
    turns = 0
    while not work.done() and loop.time() < deadline:
        ends = backend._engines.dropped_within(2 * END_TIMEOUT)
        if not ends and (turns := turns + 1) > _background.TURNS:
            return
        with contextlib.suppress(asyncio.CancelledError):
            await (asyncio.wait([work], timeout=END_TIMEOUT) if ends else asyncio.sleep(0))


def store_at_the_end(backend: Store, task_id: str, state: str, attempt: Attempt) -> asyncio.Task[None]:
    """Store a final state whose connection was closed under it. The task that it belongs to has to wait for it, or else
    the loop does not."""
    return _background.start(backend, _store_at_the_end(backend, task_id, state, attempt), name="store at the end")


async def _store_at_the_end(backend: Store, task_id: str, state: str, attempt: Attempt) -> None:
    try:
        await at_the_end(backend, attempt)
    except (BackendError, BackendClosed, TimeoutError) as error:
        log_never_stored(backend, task_id, state, error)


def log_never_stored(backend: Store, task_id: str, state: str, error: Exception) -> None:
    """Log that a final state is lost."""
    about = {"event": "not stored", "backend": str(backend), "task_id": task_id}
    logger.error("task %s has ended, but %s was never stored: %s", task_id, state, error, extra=about)
