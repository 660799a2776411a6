"""Pipelining: what is requested while a round trip is under way leaves together with the next one.

A thousand stores in one tick cost one write and one read. Only the pump's own task touches the connection: a
caller waits on a bare future, and cancelling it cannot leave a connection with half a reply.

A job is tried again over an outage: for its patience, or forever when it is a read that somebody waits for.

How much travels together is found out. A server closes a connection whose unread replies exceed its
``client-output-buffer-limit normal``, without a word about the reason; so when a connection is lost twice in a row
while replies are missing, the next round is half as large, down to one key. A key whose connection is lost when it is
alone, though the server answers otherwise, is given up by its name; the others are not held up::

    lost once ──> the same round again (a restart, a killed client)
    lost again ──> half of it ──> … ──> one key ──lost three times──> STRLEN ──answered, large──> an error for that key
    answered ──> up to twice as large, but not as large as what was lost within the last minute
"""

from __future__ import annotations

import asyncio
import functools
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from .. import _background
from .._log import Log, get_logger
from .._storage.outage import Outage
from ..errors import BackendClosed, BackendError, BackendUnavailable
from .backoff import Backoff, Health
from .connection import Interrupted, Replies
from .errors import describe, is_refusal, is_transient, typed_error
from .exceptions import AskError, AuthenticationError, CrossSlotError, InvalidResponse, ReadOnlyError, RedisError
from .packing import Command

__all__ = ["Call", "Job", "Pump", "Unanswered"]

logger: Log = get_logger("asyncresult")

#: Commands, or keys to read, a round trip. Found by measurement (benchmarks: store-1000); more only delays the first
#: answer.
COMMANDS_PER_ROUND = 1000
#: Bytes of replies handed out between two turns of the loop.
BYTES_PER_SLICE = 1024 * 1024
#: Seconds for which a size that was lost is not tried again.
MEMORY_FOR_LOSSES = 60.0
#: Losses of a key that is alone, after which it is suspected; and the bytes below which no server's limit explains it.
LOSSES_OF_ONE, UNSUSPICIOUS = 3, 64 * 1024
#: Losses in a row after which the next attempt waits as in any outage: so many are not for a size.
PROMPT_LOSSES = 50

Execute = Callable[[list[Command], list[Any]], Awaitable[None]]


class Unanswered(BackendUnavailable):
    """The connection was lost when a job had left that must not be sent twice: it may have been executed."""


class Job(ABC):
    """Commands that belong together. What becomes of the answers is said by methods: a job that kept functions of its
    own would be in a cycle of references, and what was read with it, until the garbage collector comes.

    Args:
        commands: Sent in order, in one pipeline.
        patience: Seconds over which an outage is retried; None forever.
        once: It must not be executed twice: once it has left, it fails with :class:`Unanswered` where no answer comes.
    """

    __slots__ = ("commands", "deadline", "losses", "once", "patience")

    def __init__(self, commands: list[Command], patience: float | None, *, once: bool = False) -> None:
        self.once = once
        self.commands = commands
        self.patience = patience
        self.deadline: float | None = None
        self.losses = 0

    @abstractmethod
    def done(self, replies: list[Any]) -> None:
        """Called with the replies, errors among them."""

    @abstractmethod
    def failed(self, error: BackendError | BackendClosed) -> None:
        """Called with the typed error when no replies are to be had."""

    def leave(self) -> None:  # noqa: B027 - most take nothing in
        """Called each time its turn has come: from the first time on it takes nothing more in."""

    @property
    def size(self) -> int:
        """How much of a round it takes."""
        return len(self.commands)

    def split(self, size: int) -> Sequence[Job]:
        """Jobs of at most this size in its place; only called for larger ones. Itself, if it must stay whole."""
        return (self,)

    @property
    def key(self) -> bytes | None:
        """The one key that it reads, if it does nothing else."""
        return None


class Call(Job):
    """A job whose answers, or error, are given to functions."""

    __slots__ = ("_done", "_failed")

    def __init__(
        self,
        commands: list[Command],
        done: Callable[[list[Any]], None],
        failed: Callable[[BackendError | BackendClosed], None],
        patience: float | None,
        *,
        once: bool = False,
    ) -> None:
        super().__init__(commands, patience, once=once)
        self._done = done
        self._failed = failed

    def done(self, replies: list[Any]) -> None:
        self._done(replies)

    def failed(self, error: BackendError | BackendClosed) -> None:
        self._failed(error)


class Pump:
    """Sends jobs over one connection.

    Args:
        execute: Runs one pipeline, appends the replies; raises redis-py's errors.
        reset: Drops the connection.
        address: For messages.
        health: Shared with the other connections.
        undelivered: Takes the jobs that got no answer here, also when the pump is closed. Without it they are
            tried again here, and fail at the end.
    """

    def __init__(
        self,
        execute: Execute,
        reset: Callable[[str], None],
        *,
        address: str,
        health: Health,
        undelivered: Callable[[list[Job]], None] | None = None,
    ) -> None:
        self.outage = Outage(f"command connection to {address}")
        self._execute = execute
        self._reset = reset
        self._address = address
        self._health = health
        self._undelivered = undelivered
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[Job] = deque()
        self._round: deque[Job] = deque()
        self._wake = asyncio.Event()
        self._drained: asyncio.Future[None] | None = None
        self._limit = COMMANDS_PER_ROUND
        self._losses = 0
        self._leads_to_a_cluster = False  # from the first connection on: a mistake in the settings
        self._lost_size, self._lost_at = COMMANDS_PER_ROUND, 0.0
        self._task = _background.keep_alive(self._run(), name=f"commands {address}")
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
        if any(job.patience is not None or job.once for job in (*self._jobs, *self._round)):
            self._drained = self._loop.create_future()
            await asyncio.wait([self._drained], timeout=timeout)

    # -- the loop ---------------------------------------------------------------------------------------

    async def _run(self) -> None:
        backoff = Backoff()
        try:
            while True:
                if not self._jobs:
                    if self._drained is not None and not self._drained.done():
                        self._drained.set_result(None)
                    self._wake.clear()
                    await self._wake.wait()
                self._take_round()
                error = await self._try_round()
                if error is None:
                    backoff.reset()
                    continue
                if 0 < self._losses <= PROMPT_LOSSES:
                    backoff.reset()  # somebody is there: the sizes are to be found out soon
                self._put_back(error)
                await asyncio.sleep(backoff.next())
        except GeneratorExit:
            text = f"{self._address}: the backend was dropped without aclose(); use 'async with connect(…):'"
            warnings.warn(text, ResourceWarning, stacklevel=1)
            raise
        finally:
            if not self._loop.is_closed():
                self._give_up()
                self._reset("the backend was closed")

    def _give_up(self) -> None:
        """Let go of every job that has no answer."""
        unanswered = [*self._round, *self._jobs]
        self._round.clear()
        self._jobs.clear()
        if self._undelivered is not None:
            self._undelivered(unanswered)
        else:
            closed = BackendClosed(f"{self._address}: the backend was closed before the command was answered")
            for job in unanswered:
                job.failed(closed)

    def _take_round(self) -> None:
        left = limit = min(self._limit, COMMANDS_PER_ROUND)
        while self._jobs and left > 0:
            job = self._jobs.popleft()
            if limit < COMMANDS_PER_ROUND:
                job.leave()  # its size is not known before
            if job.size > limit and len(parts := job.split(limit)) > 1:
                self._jobs.extendleft(reversed(parts))
                continue
            is_too_much = job.size > left and limit < COMMANDS_PER_ROUND
            if self._round and (job.losses or is_too_much):  # what was lost alone travels alone
                self._jobs.appendleft(job)
                return
            job.leave()
            left = left - job.size if not job.losses else 0
            self._round.append(job)

    async def _try_round(self) -> Exception | None:
        """One round trip. Returns the error that made it fail, if another attempt may not meet it."""
        commands = [command for job in self._round for command in job.commands]
        replies = Replies()
        replies.complete = functools.partial(self._hand_out_at_once, replies)
        try:
            if not await self._is_suspect():
                await self._execute(commands, replies)
        except Exception as error:
            await self._hand_out(replies)
            if replies.written:
                self._fail_those_sent_once(describe(error))
            return self._unanswered(error)
        finally:
            replies.complete = None  # the connection keeps them: it would keep a backend that is dropped
        self._answered(replies)
        passing = next(filter(self._will_pass, replies), None)
        await self._hand_out(replies)
        if passing is None:
            # As long as sizes are tried out the log does not say of each that the connection is back, and lost again.
            self.outage.over(log=self._limit >= COMMANDS_PER_ROUND or not self._jobs)
        else:
            self.outage.note(describe(passing))
        return passing

    def _answered(self, replies: Replies) -> None:
        errors = [reply for reply in replies if isinstance(reply, RedisError)]
        if not replies.reconnected and any(isinstance(error, AskError | CrossSlotError) for error in errors):
            self._leads_to_a_cluster = True
        if any(isinstance(error, ReadOnlyError | AuthenticationError) for error in errors):
            # A replica now: the next connection may find the primary. Or it wants a login.
            self._reset("the server has changed its role")
        else:
            self._health.proven = True
        self._losses = 0
        if self._limit < COMMANDS_PER_ROUND:
            forgotten = self._loop.time() - self._lost_at > MEMORY_FOR_LOSSES
            most = COMMANDS_PER_ROUND if forgotten else max(1, self._lost_size - 1)
            self._limit = max(self._limit, min(2 * self._limit, most))

    def _unanswered(self, error: Exception) -> Exception | None:
        """Returns the error if the round is to be tried again; otherwise its jobs have failed."""
        if isinstance(error, Interrupted):
            self._interrupted()
        if isinstance(error, InvalidResponse):
            self._reset("the stream of replies is broken")  # what it has buffered belongs to nobody
        if is_transient(error) or (is_refusal(error) and self._health.proven):
            self.outage.note(describe(error))
            return error
        if not isinstance(error, RedisError | BackendError | OSError):
            # A bug must not end the pump, and with it every wait.
            about = {"event": "unexpected error", "backend": self._address}
            logger.exception("%s: unexpected error", self._address, exc_info=error, extra=about)
            self._reset("unexpected error")
        self.outage.note(describe(error), log=False)  # whoever sent something gets the error
        jobs = list(self._round)
        self._round.clear()
        for job in jobs:
            job.failed(typed_error(error, self._address))
        return None

    def _will_pass(self, reply: Any) -> bool:
        """Whether a reply is an error that another attempt may not meet."""
        if not isinstance(reply, Exception):
            return False
        if is_transient(reply):
            return True
        if not self._health.proven:
            return False
        # Let in before, and then not: a password that is being changed, or a name that leads to another server.
        if isinstance(reply, AskError | CrossSlotError):
            return self._undelivered is None and not self._leads_to_a_cluster
        return isinstance(reply, AuthenticationError)

    def _is_to_be_repeated(self, job: Job, replies: list[Any]) -> bool:
        """Whether a job met an error that passes; what must not be executed twice, if none of it was executed."""
        return (all if job.once else any)(map(self._will_pass, replies)) and bool(replies)

    def _fail_those_sent_once(self, reason: str) -> None:
        """The round has left and is not answered: what must not be executed twice cannot be tried again."""
        sent = [job for job in self._round if job.once]
        if not sent:
            return
        self._round = deque(job for job in self._round if not job.once)
        for job in sent:
            job.failed(Unanswered(f"{self._address}: the answer was lost: {reason}"))

    async def _hand_out(self, replies: list[Any]) -> None:
        """Give each job its replies; jobs that are not answered, or have to be tried again, stay."""
        start = size = 0
        for _ in range(len(self._round)):
            # One by one, so that a cancellation in the middle finds the rest.
            job = self._round.popleft()
            own = replies[start : start + len(job.commands)]
            start += len(job.commands)
            if start > len(replies) or self._is_to_be_repeated(job, own):
                self._round.append(job)
                continue
            self._hand_over(job, own)
            # Behind the last there is a pause in any case (benchmarks: fetch).
            size += sum(map(_size, own)) if self._round else 0
            if size > BYTES_PER_SLICE:
                size = 0
                await asyncio.sleep(0)

    def _hand_out_at_once(self, replies: list[Any]) -> None:
        """Give each job its replies, if no reply needs a second look, and all can be handed out in one turn.

        Called while they are read from the socket: whoever waits for one goes on in the next turn of the loop instead
        of the one after it, and what it sends then leaves in that turn, too (benchmarks: store-each).
        """
        if sum(map(_size, replies)) > BYTES_PER_SLICE or any(isinstance(reply, Exception) for reply in replies):
            return
        start = 0
        while self._round:
            job = self._round.popleft()
            own = replies[start : start + len(job.commands)]
            start += len(job.commands)  # before it lets go of them
            self._hand_over(job, own)

    def _hand_over(self, job: Job, replies: list[Any]) -> None:
        try:
            job.done(replies)
        except Exception:
            about = {"event": "unexpected error", "backend": self._address}
            logger.exception("%s: unexpected reply", self._address, extra=about)
            job.failed(BackendError(f"{self._address}: unexpected reply to {_verb(job)}"))

    def _put_back(self, error: Exception) -> None:
        """Back into the queue, or failed when the patience is used up."""
        now = self._loop.time()
        jobs = list(self._round)
        self._round.clear()
        if self._undelivered is None:
            # Their time runs too, though their turn has not come. One that is lost alone lets them go first.
            queued = list(self._jobs)
            jobs = [*queued, *jobs] if self._losses and len(jobs) == 1 else [*jobs, *queued]
            self._jobs.clear()
        again = []
        for job in jobs:
            if job.deadline is not None and now >= job.deadline:
                job.failed(typed_error(error, self._address))
            else:
                again.append(job)
        if self._undelivered is not None:
            self._undelivered(again)
        else:
            self._jobs.extend(again)

    # -- how much travels together ----------------------------------------------------------------------

    def _interrupted(self) -> None:
        """The connection was lost with replies missing."""
        self._losses += 1
        size = sum(job.size for job in self._round)
        if self._losses > 1 and size > 1:
            self._lost_size, self._lost_at = size, self._loop.time()
            self._limit = max(1, size // 2)
        elif size == 1:
            self._round[0].losses += 1

    async def _is_suspect(self) -> bool:
        """Whether the round is one key that is too large to be read; then its job has failed."""
        job = self._round[0]
        key = job.key
        if job.losses < LOSSES_OF_ONE or key is None:
            return False
        replies: list[Any] = []
        await self._execute([("STRLEN", key)], replies)
        if self._will_pass(replies[0]):
            raise replies[0]
        job.losses = 0
        length = replies[0] if isinstance(replies[0], int) else None
        if length is not None and length < UNSUSPICIOUS:
            return False
        self._round.clear()
        name = key.decode(errors="backslashreplace")
        job.done(
            [
                BackendError(
                    f"{self._address}: the record {name} cannot be read: the connection was lost {LOSSES_OF_ONE} times"
                    f" while it was being sent{f' ({length:,} bytes)' if length is not None else ''};"
                    " see client-output-buffer-limit normal in the server's configuration"
                )
            ]
        )
        return True


def _verb(job: Job) -> str:
    return str(job.commands[0][0]) if job.commands else "nothing"


def _size(reply: Any) -> int:
    if isinstance(reply, bytes):
        return len(reply)
    return sum([len(item) for item in reply if isinstance(item, bytes)]) if isinstance(reply, list) else 0
