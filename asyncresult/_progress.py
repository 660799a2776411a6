"""How far a task is: what the states of running tasks say about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeGuard

from .meta import TaskMeta

__all__ = ["Progress", "progress_of"]

#: A whole number may be more than a float can be, as which it is drawn, and divided.
_MOST = 1e300


class Progress(NamedTuple):
    """Of what a task counts, ``current`` out of ``total`` are done."""

    current: float
    total: float
    note: str


def progress_of(meta: TaskMeta) -> Progress | None:
    """The progress of an unfinished task, where it reports it as ``progress()`` and most Celery tasks do."""
    reported = meta.result
    if meta.ready or not isinstance(reported, Mapping):
        return None
    current, total = reported.get("current"), reported.get("total")
    if not (_is_number(current) and _is_number(total) and 0 <= current <= total and total > 0):
        return None
    # Only texts are tested for being empty: the truth of a value of another type may raise.
    notes = (reported.get(name) for name in ("note", "description"))
    return Progress(current, total, next((note for note in notes if isinstance(note, str) and note), ""))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _MOST
