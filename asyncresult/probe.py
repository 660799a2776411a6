"""What a backend reports of its work, to whoever measures it.

::

    class Slow(asyncresult.Probe):
        def wait_ended(self, wait: asyncresult.WaitEnded) -> None:
            if wait.seconds > 1:
                print(wait.outcome, wait.handles)

    backend.add_probe(Slow())

A backend without a probe measures nothing. Counters that cost nothing are in :meth:`Backend.stats` in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from ._log import Log, get_logger
from .errors import AsyncResultError, ResultTimeout, TaskFailed, TaskRevoked
from .states import REVOKED, SUCCESS

__all__ = ["Outcome", "Probe", "Probes", "Source", "WaitEnded", "outcome_of", "outcome_of_state"]

_logger: Log = get_logger("asyncresult")

Outcome: TypeAlias = Literal["success", "failure", "revoked", "timeout", "cancelled", "error"]
"""How a wait ended, or a task (``error``: the result cannot be had)."""


Source: TypeAlias = Literal["pushed", "read", "swept", "polled", "memory"]
"""Where a record came from; see :class:`WaitEnded`."""


class WaitEnded(NamedTuple):
    """One wait that is over: an ``await``, ``get()`` or join, ``until()``, ``wait()``, ``first_success()``, a loop over
    ``as_completed()``, a future or promise. What is known at once is no wait.

    Attributes:
        seconds: How long it took.
        outcome: How it ended. Of a join: what it raises; else ``"success"``, whatever its members are. A loop or future
            that is given up was ``"cancelled"``; a ``wait()`` that times out, ``"timeout"``.
        handles: Those that were waited for.
        error: What it raises; None where it raises nothing.
        source: Where the record came from that ended it, the last one of a join: ``"pushed"``, a notification;
            ``"read"``, as it was stored before; ``"swept"``, by the safety sweep, as no notification had come;
            ``"polled"``, from a store that does not notify; ``"memory"``, this process. None where it was no record of
            its tasks.
    """

    seconds: float
    outcome: Outcome
    handles: Sequence[Any]
    error: BaseException | None
    source: Source | None = None


class Probe:
    """Override what you want to see. Each method is called on the event loop (or thread) where it happened, and must
    return at once; an exception is logged, and changes nothing."""

    def wait_ended(self, wait: WaitEnded) -> None:
        """Somebody who waited goes on."""

    def notified(self, lag: float) -> None:
        """A final record was received so many seconds after its ``date_done``, by this machine's clock.

        Not of every record: of a hundred a second at most.
        """

    def stored(self, seconds: float, state: str, kept: bool) -> None:
        """A record was stored, or (not ``kept``) what is there already has precedence."""

    def task_ended(self, seconds: float, name: str | None, outcome: Outcome) -> None:
        """A task that was tracked here is over: of an Executor, or a worker of ours."""

    def task_started(self, task: Any) -> None:
        """A tracked task begins its block, or begins it again. Called in the context of the block: a context variable
        that is set here is seen by the task's code.

        Args:
            task: Its :class:`asyncresult.worker.TaskContext`.
        """

    def task_left(self, task: Any, state: str | None, error: BaseException | None) -> None:
        """The block that :meth:`task_started` was called for is over; called once or more.

        Args:
            state: The final state, or RETRY; None where the task could not begin.
            error: Why; None where there was no exception.
        """

    def for_process(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """What a worker process runs instead of ``call``, the function of a task that has begun; it must be picklable.
        Called in the context of the task's block."""
        return call

    def sent(self, seconds: float, handles: Sequence[Any]) -> None:
        """Tasks were sent to a broker. Called in the context of the sender."""

    def polled(self, seconds: float, keys: int) -> None:
        """A store that does not notify was read once, for so many keys."""

    def record_fields(self) -> Mapping[str, str]:
        """Fields to put into the record that is being written, for readers to find in :attr:`TaskMeta.extra`. Called in
        the context of the writer."""
        return {}


class Probes(Probe):
    """Hands on to several what is reported."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        self.probes: tuple[Probe, ...] = tuple(probes)

    def wait_ended(self, wait: WaitEnded) -> None:
        self._call("wait_ended", wait)

    def notified(self, lag: float) -> None:
        self._call("notified", lag)

    def stored(self, seconds: float, state: str, kept: bool) -> None:
        self._call("stored", seconds, state, kept)

    def task_ended(self, seconds: float, name: str | None, outcome: Outcome) -> None:
        self._call("task_ended", seconds, name, outcome)

    def task_started(self, task: Any) -> None:
        self._call("task_started", task)

    def task_left(self, task: Any, state: str | None, error: BaseException | None) -> None:
        self._call("task_left", task, state, error)

    def for_process(self, call: Callable[[], Any]) -> Callable[[], Any]:
        for probe in self.probes:
            (call,) = Probes((probe,))._call("for_process", call) or [call]
        return call

    def sent(self, seconds: float, handles: Sequence[Any]) -> None:
        self._call("sent", seconds, handles)

    def polled(self, seconds: float, keys: int) -> None:
        self._call("polled", seconds, keys)

    def record_fields(self) -> Mapping[str, str]:
        fields: dict[str, str] = {}
        for given in self._call("record_fields"):
            if isinstance(given, Mapping):
                fields.update(given)
        return fields

    def _call(self, method: str, *args: Any) -> list[Any]:
        """What the probes return that do not raise."""
        given: list[Any] = []
        for probe in self.probes:
            try:
                given.append(getattr(probe, method)(*args))
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:
                _logger.exception("%s.%s failed", type(probe).__name__, method, extra={"event": "probe failed"})
        return given


def outcome_of(error: BaseException) -> Outcome:
    """How a wait ended that raises this."""
    if isinstance(error, ResultTimeout):
        return "timeout"
    if isinstance(error, TaskRevoked):
        return "revoked"
    if isinstance(error, TaskFailed):
        return "failure"
    if isinstance(error, AsyncResultError):
        return "error"
    return "failure" if isinstance(error, Exception) else "cancelled"


def outcome_of_state(state: str) -> Outcome:
    """How a task has ended, by its final state."""
    return "success" if state == SUCCESS else "revoked" if state == REVOKED else "failure"
