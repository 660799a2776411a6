"""Why a promise failed, and the report of what nobody has seen.

A rejection that goes away unseen is reported to the exception handler of its promise's loop. A finalizer may run on
any thread and at any time: what it notices for another loop is kept until a promise is made on that one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from .errors import BackendClosed

__all__ = ["Rejection", "orphans", "report_orphans"]

#: Reports for loops that were not running in the thread that noticed. Bounded: they may never run again.
orphans: Final[deque[tuple[asyncio.AbstractEventLoop, dict[str, Any]]]] = deque(maxlen=100)


#: The interpreter's own getter: an exception class may have redefined the attribute.
_traceback_of: Callable[[BaseException], TracebackType | None] = BaseException.__dict__["__traceback__"].__get__


class Rejection:
    """Why a promise failed. If it goes away unseen, the loop's exception handler gets a report."""

    __slots__ = ("loop", "reason", "seen", "traceback")

    def __init__(self, loop: asyncio.AbstractEventLoop, reason: BaseException, seen: bool) -> None:
        self.loop = loop
        self.reason = reason
        self.seen = seen or isinstance(reason, BackendClosed)  # a clean shutdown is nothing that anybody must see
        self.traceback = _traceback_of(reason)

    def take(self) -> BaseException:
        """Return the exception, without the frames that earlier raising has added to it."""
        self.seen = True
        return BaseException.with_traceback(self.reason, self.traceback)

    def __del__(self) -> None:
        # A finalizer may run anywhere, within any lock: only note it here, and report from the loop.
        if self.seen:
            return
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        context = {"message": "Promise rejection was never handled", "exception": self.reason}
        if running is self.loop:
            self.loop.call_soon(self.loop.call_exception_handler, context)
        else:  # another thread collected it, or the loop has stopped: the next promise made there reports it
            orphans.append((self.loop, context))


def report_orphans(loop: asyncio.AbstractEventLoop) -> None:
    """Give the reports that are kept for ``loop`` to its exception handler."""
    for _ in range(len(orphans)):
        try:
            owner, context = orphans.popleft()
        except IndexError:  # the loop of another thread took it
            return
        if owner is loop:
            loop.call_exception_handler(context)
        elif not owner.is_closed():
            orphans.append((owner, context))
