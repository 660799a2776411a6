"""The replies of an app in this process: how they are received, and the records of what came."""

from __future__ import annotations

import atexit
import os
import threading
import uuid
import weakref
from collections.abc import Callable
from typing import Any

from ..._checks import check_count, check_seconds, check_text
from ..._log import Log, get_logger
from ..._storage.keys import HISTORY
from ..._storage.memory import Records
from ..._storage.store import Store, lifetime_of
from ...backend import Backend
from ...codec.exceptions import printable
from ...errors import BackendError, ResultDecodeError
from ...states import PENDING, READY_STATES
from .receiver import ADDRESS, Receiver

__all__ = ["Replies", "ReplyRecords"]

logger: Log = get_logger("asyncresult.rpc")

DEFAULT_REPLY_EXPIRES = 1800.0
DEFAULT_MAX_UNREAD = 100_000
#: Records that somebody has read are kept for later reads: so many, the latest.
KEPT_AFTER_READING = 10_000
#: States of a task that are kept for ``updates(since=…)``.
KEPT_STATES = 1000
#: Seconds that the interpreter's end may take to delete the queue.
EXIT_TIMEOUT = 2.0

QUEUE_PREFIX = "asyncresult.reply."


class ReplyRecords(Records):
    """Records that are held for nobody else: what nobody has read is kept, what was read need not be.

    Args:
        max_unread: Records that nobody has read; beyond that the oldest are dropped.
    """

    def __init__(self, max_unread: int) -> None:
        super().__init__()
        self.max_unread = max_unread
        # Key of the record: key of its history. In the order in which they came, and were read.
        self._unread: dict[bytes, bytes] = {}
        self._read: dict[bytes, bytes] = {}
        self._dropped = 0

    def receive(
        self,
        key: bytes,
        value: bytes,
        expires: float | None,
        keep: Callable[[bytes | None], bool],
        history: bytes,
        *,
        again: bool,
    ) -> bool:
        """Store and publish one state of a task, unless ``keep(old value)``.

        Args:
            again: It may have come before.
        """
        with self._lock:
            held = self._values.get(key, (None, None))[0]
            if keep(held) or (again and any(value == old for _, old in self.history(history, "0"))):
                return False
            self.set(key, value, expires)
            self.remember(history, KEPT_STATES, value, expires)
            self._read.pop(key, None)
            self._unread.pop(key, None)
            (self._read if self.publish(key, value) else self._unread)[key] = history
            self._drop_oldest()
            return True

    def get(self, key: bytes) -> bytes | None:
        with self._lock:
            value = super().get(key)
            if key in self._unread:
                self._read[key] = self._unread.pop(key)
            return value

    def peek(self, key: bytes) -> bytes | None:
        """The record, which counts as unread all the same."""
        with self._lock:
            return super().get(key)

    def _drop_oldest(self) -> None:
        if len(self._read) > KEPT_AFTER_READING:
            self._discard(self._read)
        if len(self._unread) > self.max_unread:
            self._discard(self._unread)
            self._dropped += 1
            if self._dropped & (self._dropped - 1) == 0:
                logger.warning(
                    "%d results that nobody has read were dropped: more than max_unread=%d are waiting."
                    " Send tasks whose results nobody wants with ignore_result=True",
                    self._dropped,
                    self.max_unread,
                    extra={"event": "results dropped", "backend": ADDRESS},
                )

    def _discard(self, table: dict[bytes, bytes]) -> None:
        key = next(iter(table))
        self._values.pop(key, None)
        self._histories.pop(table.pop(key), None)

    def in_child(self) -> None:
        super().in_child()
        self._engines = weakref.WeakSet()


class Replies:
    """The replies of one app in this process: the queue, and the records of what came.

    Args:
        app: The Celery app.
        make_backend: Makes a backend for the app, which calls :meth:`configure`.
    """

    def __init__(self, app: Any, make_backend: Callable[[Any], Backend]) -> None:
        self.app = app
        self._make_backend = make_backend
        self._waiting: Backend | None = None
        self.reply_expires = DEFAULT_REPLY_EXPIRES
        self.reply_queue: str | None = None
        self.records: ReplyRecords = ReplyRecords(DEFAULT_MAX_UNREAD)
        self.refused: int = 0
        #: Whose rules for keys, lifetimes and precedence hold: the backend that was made with options, or the first.
        self.rules: Store | None = None
        self._expected: dict[str, None] = {}
        self._celerys_local = app._local
        self._lock = threading.Lock()
        self._receiver: Receiver | None = None
        _every.add(self)

    @property
    def receiver(self) -> Receiver:
        """The receiver of this process, made at the first use; it is not started."""
        receiver = self._receiver
        if receiver is not None:
            return receiver
        assert self.rules is not None
        with self._lock:
            if self._receiver is None:
                self._receiver = Receiver(
                    self.app,
                    queue=self.reply_queue or f"{QUEUE_PREFIX}{uuid.uuid4()}",
                    expires=self.reply_expires,
                    heartbeat=self.rules.heartbeat,
                    take=self.take,
                    refused=self._fail_all,
                )
            return self._receiver

    @property
    def waiting(self) -> Backend:
        """A backend for Celery's own results, on the loop of the portal: it is not closed with that of connect(app)."""
        waiting = self._waiting
        if waiting is None:  # two threads may make one each: the records are the same
            waiting = self._waiting = self._make_backend(self.app)
        return waiting

    @property
    def queue(self) -> str:
        """The name of the reply queue, for what is being sent: from now on it is received from."""
        receiver = self.receiver
        receiver.start()
        return receiver.queue

    def configure(
        self, backend: Store, reply_expires: float | None, reply_queue: str | None, max_unread: int | None
    ) -> None:
        """Take over the options of a backend of the app; None leaves what is set.

        Raises:
            ValueError: One is invalid, or comes after the queue was made.
        """
        if reply_expires is not None:
            check_seconds("reply_expires", reply_expires, least=1)
            if reply_expires >= 2**31:
                raise ValueError(f"reply_expires must be a number of seconds below 2**31, not {reply_expires!r:.60}")
        if max_unread is not None:
            check_count("max_unread", max_unread)
        check_text("reply_queue", reply_queue)
        if reply_queue is not None and not 0 < len(reply_queue.encode()) <= 255:
            raise ValueError(f"reply_queue must be a name of 1 to 255 bytes, not {reply_queue!r:.60}")
        with self._lock:
            for name, given in (("reply_expires", reply_expires), ("reply_queue", reply_queue)):
                if given is not None and given != getattr(self, name):
                    if self._receiver is not None:
                        raise ValueError(f"{name} must be set before the first task is sent, or the first connect(app)")
                    setattr(self, name, given)
            if max_unread is not None:
                self.records.max_unread = max_unread
            if self.rules is None:
                self.rules = backend

    # -- sending ------------------------------------------------------------------------------------------

    def expect(self, channel: Any, task_id: str) -> None:
        """A task is about to be sent on ``channel``: its replies must find the queue."""
        receiver = self.receiver
        # Celery named a queue for this thread before it made our backend: its first task is sent with that.
        receiver.declare(channel, getattr(self._celerys_local, "oid", None))
        receiver.start()
        self._expected[task_id] = None
        if len(self._expected) > self.records.max_unread:
            self._expected.pop(next(iter(self._expected)), None)

    def expects(self, task_id: str) -> bool:
        """Whether this process has sent the task, and has not got its result."""
        return task_id in self._expected

    # -- receiving ----------------------------------------------------------------------------------------

    def take(self, message: Any) -> None:
        """One state of a task has come. Called in the receiver's thread."""
        task_id = message.properties.get("correlation_id")
        rules = self.rules
        assert rules is not None
        try:
            key = rules.task_key(task_id)
        except ValueError:
            key = b""
        if not key or not task_id:
            self._refuse("it names no task", task_id)
            return
        body = message.body
        payload = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)
        # What cannot be read is kept as well: who waits for it gets the reason.
        status, lifetime = PENDING, rules.expires
        try:
            status = rules.codec.decode(task_id, payload).status
            lifetime = lifetime_of(rules, status, None)
        except ResultDecodeError as error:
            self._refuse(f"{printable(message.content_type)} is not accepted, or: {error}", task_id)
        self.records.receive(
            key,
            payload,
            lifetime,
            lambda old: rules.precedes(key, old, status),
            rules.key_beside(task_id, HISTORY),
            again=bool(message.delivery_info.get("redelivered")),
        )
        if status in READY_STATES:
            self._expected.pop(task_id, None)

    def _refuse(self, why: str, task_id: object) -> None:
        self.refused += 1
        about = {"event": "reply refused", "backend": ADDRESS, "task_id": task_id}
        logger.warning("a reply was refused: %s", printable(why, 500), extra=about)

    def _fail_all(self, error: BackendError) -> None:
        for engine in self.records.engines():
            try:
                engine.loop.call_soon_threadsafe(engine.waiters.fail_all, error)
            except RuntimeError:  # that loop is closed
                pass

    # -- life ---------------------------------------------------------------------------------------------

    def in_child(self) -> None:
        """After a fork: a queue and a thread of one's own. What came before the fork is there."""
        self._lock = threading.Lock()
        self._receiver = None
        self._expected = {}
        if self.reply_queue is not None:
            self.reply_queue = None  # it is for one process, which is the parent

    def close(self, *, timeout: float = EXIT_TIMEOUT) -> None:
        """Stop receiving and delete the queue. What has come stays; the next task that is sent makes a new queue."""
        with self._lock:
            receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.stop(delete_queue=self.reply_queue is None, timeout=timeout)


_every: weakref.WeakSet[Replies] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for replies in list(_every):
        replies.in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


@atexit.register
def _close_all() -> None:
    for replies in list(_every):
        replies.close()
