"""The command connection: everything that is not listening, on one redis-py connection.

Commands are collected while a round trip is under way and leave together as the next pipeline, so a
thousand stores asked for in one tick cost one write and one read. Only the pump's own task ever touches
redis-py: a caller waits on a bare future, and cancelling it cannot leave a connection with half a reply.

A job is retried over an outage: for its patience, or for ever when it is a read that somebody waits for.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    InvalidResponse,
    MasterDownError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from ..errors import BackendClosed, BackendError, BackendUnavailable
from .subscriber import BACKOFF_FIRST, BACKOFF_LAST, permission_error

__all__ = ["Commands", "Job"]

logger = logging.getLogger("asyncresult")

#: Commands a round trip. Found by measurement (benchmarks: stores); more only delays the first answer.
COMMANDS_PER_ROUND = 1000
#: Values decoded between two breaths of the loop.
BYTES_PER_SLICE = 1024 * 1024

Command = tuple[Any, ...]
Execute = Callable[[list[Command]], Awaitable[list[Any]]]

# The server cannot do it now, but will. MISCONF (no disk) and OOM are not here: they want a person.
_PASSING = (ConnectionError, TimeoutError, BusyLoadingError, ClusterDownError, MasterDownError, TryAgainError)


class Job:
    """Commands that belong together, and what to do with the answers.

    Args:
        commands: Sent in order, in one pipeline.
        done: Gets the replies, ResponseErrors among them.
        failed: Gets the typed error when no replies are to be had.
        patience: Seconds over which an outage is retried; None for ever.
    """

    __slots__ = ("commands", "deadline", "done", "failed", "patience")

    def __init__(
        self,
        commands: list[Command],
        done: Callable[[list[Any]], None],
        failed: Callable[[BackendError | BackendClosed], None],
        patience: float | None,
    ) -> None:
        self.commands = commands
        self.done = done
        self.failed = failed
        self.patience = patience
        self.deadline: float | None = None

    def leave(self) -> None:
        """Called when its turn has come, each time: from then on the commands are final."""


class Commands:
    """The pump.

    Args:
        execute: Runs one pipeline; raises redis-py's errors. Replies of single commands may be errors.
        reset: Drops the connection, because the server at its end has changed its role.
        address: For messages.
        astray: Takes the jobs that got no answer here, also when the pump is closed. Without it they are
            tried again here, and fail at the end.
    """

    def __init__(
        self,
        execute: Execute,
        reset: Callable[[], Awaitable[None]],
        *,
        address: str,
        astray: Callable[[list[Job]], None] | None = None,
    ) -> None:
        self._execute = execute
        self._reset = reset
        self._address = address
        self._astray = astray
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[Job] = deque()
        self._round: deque[Job] = deque()
        self._wake = asyncio.Event()
        self._drained: asyncio.Future[None] | None = None
        self._task = self._loop.create_task(
            self._run(), name=f"asyncresult commands {address}", context=contextvars.Context()
        )
        # Again at the very end: for what came while the pump was closing, or if it never began.
        self._task.add_done_callback(lambda _: self._give_up())

    def submit(self, job: Job) -> None:
        """Queue a job for the next round trip."""
        if self._task.done():
            job.failed(BackendClosed(f"{self._address}: the backend was closed"))
            return
        if job.patience is not None and job.deadline is None:
            job.deadline = self._loop.time() + job.patience
        self._jobs.append(job)
        self._wake.set()

    def close(self) -> asyncio.Task[None]:
        """Stop: queued jobs fail. Returns the ending task, to be awaited with a bound."""
        self._task.cancel()
        return self._task

    @property
    def ended(self) -> asyncio.Task[None]:
        """The pump's task: done when the pump was closed or its loop shut down."""
        return self._task

    async def drain(self, timeout: float) -> None:
        """Give what is under way and queued at most ``timeout`` seconds; reads for waiters are not counted."""
        if any(job.patience is not None for job in (*self._jobs, *self._round)):
            self._drained = self._loop.create_future()
            await asyncio.wait([self._drained], timeout=timeout)

    # -- the pump -------------------------------------------------------------------------------------

    async def _run(self) -> None:
        backoff = BACKOFF_FIRST
        try:
            while True:
                if not self._jobs:
                    if self._drained is not None and not self._drained.done():
                        self._drained.set_result(None)
                    self._wake.clear()
                    await self._wake.wait()
                self._take_round()
                error = await self._try_round()
                if self._task.cancelling():
                    # redis-py can swallow a cancellation that comes while it closes a connection.
                    raise asyncio.CancelledError
                if error is None:
                    backoff = BACKOFF_FIRST
                    continue
                self._put_back(error)
                await asyncio.sleep(backoff * random.random())
                backoff = min(backoff * 2, BACKOFF_LAST)
        finally:
            self._give_up()
            await self._reset()

    def _give_up(self) -> None:
        """Let go of every job that has no answer."""
        unanswered = [*self._round, *self._jobs]
        self._round.clear()
        self._jobs.clear()
        if self._astray is not None:
            self._astray(unanswered)
        else:
            closed = BackendClosed(f"{self._address}: the backend was closed before the command was answered")
            for job in unanswered:
                job.failed(closed)

    def _take_round(self) -> None:
        room = COMMANDS_PER_ROUND
        while self._jobs and room > 0:
            job = self._jobs.popleft()
            job.leave()
            room -= len(job.commands)
            self._round.append(job)

    async def _try_round(self) -> Exception | None:
        """One round trip. Returns the passing error that made it fail, if one did."""
        commands = [command for job in self._round for command in job.commands]
        try:
            replies = await self._execute(commands)
        except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
            self._fail_round(permission_error(str(error)))
            return None
        except _PASSING as error:
            return error
        except InvalidResponse as error:
            await self._reset()  # whatever stands in this connection's buffer belongs to nobody
            return error
        except OSError as error:
            return error
        except RedisError as error:
            self._fail_round(BackendError(f"{self._address}: {error}"))
            return None
        except Exception as error:  # a library's bug must not end the pump, and with it every wait
            logger.exception("%s: unexpected error", self._address)
            self._fail_round(BackendError(f"{self._address}: {type(error).__name__}: {error}"))
            await self._reset()
            return None
        passing = next(filter(_will_pass, replies), None)
        if isinstance(passing, ReadOnlyError):
            await self._reset()  # a replica now: the next connection may find the primary
        await self._hand_out(replies)
        return passing

    async def _hand_out(self, replies: list[Any]) -> None:
        """Give each job its replies; jobs that a passing error touched stay for another round."""
        start = size = 0
        for _ in range(len(self._round)):
            # One by one, so that a cancellation in the middle finds the rest.
            job = self._round.popleft()
            own = replies[start : start + len(job.commands)]
            start += len(job.commands)
            if any(map(_will_pass, own)):
                self._round.append(job)
                continue
            try:
                job.done(own)
            except Exception:
                logger.exception("%s: unexpected reply", self._address)
                job.failed(BackendError(f"{self._address}: unexpected reply {own!r:.200}"))
            size += sum(_size(reply) for reply in own)
            if size > BYTES_PER_SLICE:
                size = 0
                await asyncio.sleep(0)

    def _put_back(self, error: Exception) -> None:
        """After a passing error: back into the queue, or failed when the patience is used up."""
        now = self._loop.time()
        jobs = list(self._round)
        self._round.clear()
        if self._astray is None:
            jobs += self._jobs  # their time runs too, though their turn has not come
            self._jobs.clear()
        again = []
        for job in jobs:
            if job.deadline is not None and now >= job.deadline:
                text = str(error) or type(error).__name__
                job.failed(BackendUnavailable(f"{self._address}: {text}"))
            else:
                again.append(job)
        if self._astray is not None:
            self._astray(again)
        else:
            self._jobs.extend(again)

    def _fail_round(self, error: BackendError) -> None:
        jobs = list(self._round)
        self._round.clear()
        for job in jobs:
            job.failed(error)


def _will_pass(reply: Any) -> bool:
    """Whether a reply is an error that another attempt may not meet."""
    if isinstance(reply, (*_PASSING, ReadOnlyError)):
        return True
    return isinstance(reply, ResponseError) and str(reply).startswith("BUSY ")  # redis-py has no class for it


def _size(reply: Any) -> int:
    if isinstance(reply, bytes):
        return len(reply)
    return sum([len(item) for item in reply if isinstance(item, bytes)]) if isinstance(reply, list) else 0


def reply_error(reply: Any, address: str) -> BackendError | None:
    """The typed error for an error reply; None for any other reply."""
    if not isinstance(reply, ResponseError):
        return None
    if isinstance(reply, NoPermissionError):
        return permission_error(f"NOPERM {reply}")
    return BackendError(f"{address}: {reply}")


def first_error(replies: Sequence[Any], address: str) -> BackendError | None:
    """The first error among ``replies``, typed."""
    return next((error for reply in replies if (error := reply_error(reply, address))), None)
