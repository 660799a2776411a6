"""The record of one task, as its key holds it.

The fields are those of Celery's meta document (celery/backends/base.py, 5.7). The record is plain
data: it may hold a failure without raising it, and reading it touches no network.
"""

from __future__ import annotations

import math
import re
import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from .errors import ResultDecodeError
from .states import FAILURE, READY_STATES, SUCCESS

__all__ = ["TaskMeta", "same_record", "stored_fields"]

# datetime.fromisoformat of Python 3.11 and later reads every ISO 8601 form that Celery ever wrote, but
# also week dates and the like: harmless. Anything that does not begin like a date is refused first.
_LOOKS_LIKE_A_DATE = re.compile(r"\d{4}")
#: Heartbeats that may be missing before a task counts as stale: one lost to a busy loop, one to the network.
MISSED_HEARTBEATS = 3


class TaskMeta(
    msgspec.Struct,
    kw_only=True,
    frozen=True,
    # A wrong or unknown field makes the C decoder refuse, and the slow path look closer (see codec).
    forbid_unknown_fields=True,
    rename={"_children": "children", "_date_done": "date_done", "_extra": "(extra)"},
):
    """What is known about a task: its state, its result or failure, and who ran it.

    Attributes:
        task_id: The id whose key held the record.
        status: One of :mod:`asyncresult.states`, or any custom word. Empty where the writer stored null, as Celery's
            ``update_state(meta=…)`` without a state does.
        result: The value; for FAILURE, RETRY and REVOKED the stored form of the exception (a mapping
            with ``exc_type``, ``exc_message``, ``exc_module``); for other states what the task reported.
        traceback: The worker's traceback text.
        parent_id, group_id: Relatives, where the writer recorded them.
        name, args, kwargs, worker, queue, retries: Recorded with Celery's ``result_extended``.
        heartbeat: Who runs the task promised heartbeats: ``{"at": when the last one was given (seconds since
            the epoch, the worker's clock), "interval": seconds between two}``. Our own addition to the format.
        traceparent: The span that stored it, in the form of W3C's header, where :mod:`asyncresult.integrations.otel`
            makes spans. Our own addition to the format.
    """

    status: str
    task_id: str = ""
    result: Any = None
    traceback: str | None = None
    # A tuple, because an empty one is no allocation, and nothing for the garbage collector to look at (benchmarks:
    # join-100000).
    _children: tuple[Any, ...] | None = None
    _date_done: Any = None
    group_id: str | None = None
    parent_id: str | None = None
    name: str | None = None
    args: Any = None
    kwargs: Any = None
    worker: str | None = None
    retries: int | None = None
    queue: str | None = None
    heartbeat: Any = None
    traceparent: Any = None
    _extra: dict[str, Any] | None = None

    @property
    def children(self) -> Any:
        """The list of what the task sent while it ran, in Celery's ``as_tuple`` form; None where none was recorded."""
        raw = self._children
        return list(raw) if isinstance(raw, tuple) else raw  # a strange record may have anything here

    @property
    def extra(self) -> dict[str, Any]:
        """Fields that are not part of the format, such as Celery's stamps."""
        return self._extra or {}

    @property
    def ready(self) -> bool:
        """Whether the task is over (SUCCESS, FAILURE or REVOKED)."""
        return self.status in READY_STATES

    @property
    def successful(self) -> bool:
        """Whether the task returned."""
        return self.status == SUCCESS

    @property
    def failed(self) -> bool:
        """Whether the task raised. A revoked task did not."""
        return self.status == FAILURE

    @property
    def stale_at(self) -> float | None:
        """When the worker counts as gone unless another heartbeat comes, in seconds since the epoch.

        None where it promised none: by default, for final records, and for all that Celery writes.
        """
        beat = self.heartbeat
        if not isinstance(beat, dict) or self.ready:
            return None
        at, interval = beat.get("at"), beat.get("interval")
        if not isinstance(at, (int, float)) or not isinstance(interval, (int, float)):
            return None
        try:
            due = float(at) + MISSED_HEARTBEATS * float(interval)
        except OverflowError:  # a whole number with hundreds of digits
            return None
        return due if math.isfinite(due) else None  # NaN would be due at once, forever

    @property
    def stale(self) -> bool:
        """Whether the worker has missed its heartbeats: it is dead, cut off, or blocks its event loop."""
        due = self.stale_at
        return due is not None and time.time() > due

    @property
    def date_done(self) -> datetime | None:
        """When the task ended, timezone-aware; a time without offset is UTC (Celery before 5.5).

        Raises:
            ResultDecodeError: The writer stored something that is not a time.
        """
        raw = self._date_done
        if raw is None or (isinstance(raw, str) and not raw):
            return None
        done = raw if isinstance(raw, datetime) else None
        if isinstance(raw, str) and _LOOKS_LIKE_A_DATE.match(raw):
            try:
                done = datetime.fromisoformat(raw)
            except ValueError:
                pass
        if done is None:
            raise ResultDecodeError(f"date_done of task {self.task_id!r} is not an ISO 8601 time", task_id=self.task_id)
        return done if done.tzinfo is not None else done.replace(tzinfo=UTC)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as a plain mapping, e.g. for a web response.

        Returns:
            Every field under its name. ``date_done`` is the stored text; ``result`` is the value as it was read, or for
            FAILURE, RETRY and REVOKED the stored form of the exception.
        """
        done = self._date_done
        fields = {name: getattr(self, name) for name in _PUBLIC_FIELDS}
        fields["date_done"] = done.isoformat() if isinstance(done, datetime) else done
        return fields

    # pydantic calls these two, so that a FastAPI endpoint may return a TaskMeta. A core schema is a plain mapping:
    # pydantic is not imported for it.

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> dict[str, Any]:
        return {
            "type": "function-plain",
            "function": {"type": "no-info", "function": _validated},
            "serialization": {"type": "function-plain", "function": cls.to_dict},
        }

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"title": cls.__name__, "type": "object", "properties": _JSON_SCHEMA, "required": ["status", "task_id"]}


_TEXT = {"anyOf": [{"type": "string"}, {"type": "null"}]}
_JSON_SCHEMA: dict[str, Any] = {
    "status": {"type": "string"},
    "task_id": {"type": "string"},
    "result": {},
    "traceback": _TEXT,
    "children": {},
    "date_done": _TEXT,
    "group_id": _TEXT,
    "parent_id": _TEXT,
    "name": _TEXT,
    "args": {},
    "kwargs": {},
    "worker": _TEXT,
    "retries": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    "queue": _TEXT,
    "heartbeat": {},
    "traceparent": {},
    "extra": {"type": "object"},
}
_PUBLIC_FIELDS = tuple(name for name in _JSON_SCHEMA if name != "date_done")


def _validated(value: Any) -> TaskMeta:
    """A record, or what :meth:`TaskMeta.to_dict` made of one."""
    if isinstance(value, TaskMeta):
        return value
    if not isinstance(value, dict):
        raise ValueError("not a TaskMeta, nor its to_dict()")
    given = {"_" + name if name in ("children", "date_done", "extra") else name: item for name, item in value.items()}
    if isinstance(children := given.get("_children"), list):
        given["_children"] = tuple(children)
    given["_extra"] = given.get("_extra") or None
    try:
        return TaskMeta(**given)
    except TypeError as error:
        raise ValueError(str(error)) from None


def same_record(meta: TaskMeta, other: TaskMeta, *, incomparable: bool = False) -> bool:
    """Whether two records are equal. Values are anybody's: where comparing them raises, it is ``incomparable``."""
    try:
        return meta is other or bool(meta == other)
    except Exception:
        return incomparable


def stored_fields(meta: TaskMeta) -> dict[str, Any]:
    """The record as the mapping that Celery passes around: every field under the name that is stored."""
    fields = msgspec.structs.asdict(meta)
    del fields["_children"], fields["_date_done"], fields["_extra"]
    return {**(meta._extra or {}), **fields, "children": meta.children, "date_done": meta._date_done}
