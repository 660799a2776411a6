"""Measures waits for the probes of their backend: how long, how they ended, and by a record from where.

Each form of waiting is one :class:`Measured`, and reports once: ``await`` and ``get()``, joins, ``until()``, ``wait()``
and ``first_success()`` as a block around the wait; ``as_completed()``, futures and promises from their beginning
until their last callback. Streams of states and callbacks of users are no waits.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, ClassVar, Self

from .._storage.store import engine_of
from ..errors import BackendClosed
from ..meta import TaskMeta
from ..probe import Outcome, Probe, Source, WaitEnded, outcome_of, outcome_of_state
from .handle import Callback, Handle, listen, observe, unobserve
from .known import UNKNOWN, Reason

__all__ = ["Measured", "RecordWatch", "begin", "listen_measured", "probe_of"]

#: Ends that a record has brought; all others have no source.
_BY_A_RECORD = frozenset({"success", "failure", "revoked"})


class Measured:
    """``with Measured(probe, handles):`` around a wait; without a probe, nothing.

    Attributes:
        handles: Those that are waited for.
        outcome: How it has ended, if that is neither what it raises nor the state of its only task.
        source: Where the record came from that was handed on last.
    """

    __slots__ = ("_begun", "_context", "_probe", "handles", "outcome", "source")

    def __init__(self, probe: Probe | None, handles: Sequence[Handle[Any]]) -> None:
        self._probe = probe
        self._context: contextvars.Context | None = None
        self.handles: Sequence[Handle[Any]] = handles
        self.outcome: Outcome | None = None
        self.source: Source | None = None

    def __enter__(self) -> Self:
        if self._probe is not None:
            self._begun = time.perf_counter()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._probe is not None:
            self.end(error)

    @property
    def is_on(self) -> bool:
        """Whether somebody measures, and the wait is not over."""
        return self._probe is not None

    def note(self, handle: Handle[Any], reason: Reason | None) -> None:
        """A handle calls back: where does its record come from?"""
        if self._probe is None:
            return
        self.source = _source_of(handle) if reason is None else None
        if isinstance(reason, BackendClosed):
            self.outcome = "error"  # also of a join that raises nothing

    def noting(self, callback: Callback) -> Callback:
        """A callback that also notes where the record comes from."""
        if self._probe is None:
            return callback

        def noted(handle: Handle[Any], reason: Reason | None) -> None:
            self.note(handle, reason)
            callback(handle, reason)

        return noted

    def note_read(self) -> None:
        """What there is was read for this wait alone."""
        if self._probe is not None:
            self.source = engine_of(self.handles[0].backend).waiters.source_of_reads

    def end(self, error: BaseException | None = None, outcome: Outcome | None = None) -> None:
        """The wait is over. Harmless when it was before."""
        probe, self._probe = self._probe, None
        if probe is None:
            return
        seconds = time.perf_counter() - self._begun
        outcome = outcome or self.outcome or (outcome_of(error) if error is not None else _outcome_of(self.handles))
        source = self.source if outcome in _BY_A_RECORD else None
        wait = WaitEnded(seconds, outcome, self.handles, error, source)
        if self._context is None:
            probe.wait_ended(wait)
        else:
            self._context.run(probe.wait_ended, wait)


_NOT_MEASURED = Measured(None, ())


def begin(handles: Sequence[Handle[Any]]) -> Measured:
    """Measure a wait that ends in a callback: it is reported in the context of whoever began it."""
    probe = probe_of(handles)
    if probe is None:
        return _NOT_MEASURED
    measured = Measured(probe, handles).__enter__()
    measured._context = contextvars.copy_context()
    return measured


def listen_measured(handle: Handle[Any], callback: Callback) -> Measured:
    """:func:`.listen`, as a wait that ends in the callback."""
    measured = begin((handle,))
    try:
        listen(handle, callback)
    except BaseException as error:
        measured.end(error)
        raise
    return measured


def probe_of(handles: Iterable[Handle[Any]]) -> Probe | None:
    """The probe, if any, of what has to be waited for; None where all is known."""
    waited_for = next((handle for handle in handles if not handle.done()), None)
    return waited_for.backend.probe if waited_for is not None else None


class RecordWatch:
    """Sees the records of a handle while a stream gives them, to know where each of them comes from."""

    follows: ClassVar[bool] = False

    def __init__(self, measured: Measured, handle: Handle[Any]) -> None:
        self._measured = measured
        self._handle = handle
        self._latest: TaskMeta | None = None

    def __enter__(self) -> Self:
        if self._measured.is_on:
            observe(self._handle, self)
        return self

    def __exit__(self, *_: object) -> None:
        unobserve(self._handle, self)

    def put(self, meta: TaskMeta) -> None:
        self._latest = meta
        self._measured.note(self._handle, None)

    def fail(self, reason: Reason) -> None:
        """What the stream raises, too."""

    def ended_with(self, meta: TaskMeta) -> None:
        """The stream has given the record that ends the wait."""
        if meta is not self._latest:
            self._measured.note_read()  # it was there
        if not meta.ready:
            self._measured.outcome = "success"


def _source_of(handle: Handle[Any]) -> Source | None:
    """Where the record came from that is being handed on."""
    if handle._backend is None:
        return None  # it was known
    waiters = engine_of(handle._backend).waiters
    # The failure of a chord's body is explained by the tasks before it, which were read for that.
    return waiters.source if handle._cause is UNKNOWN else waiters.source_of_reads


def _outcome_of(handles: Sequence[Handle[Any]]) -> Outcome:
    """How a wait ended that raises nothing, though its task may have failed (``propagate=False``)."""
    if len(handles) != 1:
        return "success"
    meta = handles[0].snapshot
    return outcome_of_state(meta.status) if meta is not None and meta.ready else "failure"  # of a task before it
