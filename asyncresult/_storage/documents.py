"""The rules of a record: its document, how long it is kept, and which states may replace which."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import UTC, datetime
from time import time_ns
from typing import Any

import msgspec

from .._checks import check_lifetime
from ..codec.codec import Codec
from ..errors import ResultDecodeError
from ..meta import TaskMeta
from ..states import EXCEPTION_STATES, FAILURE, READY_STATES, STARTED, SUCCESS

__all__ = ["attempt_of", "document_of", "encode_record", "lifetime", "precedes", "with_fields"]


def encode_record(
    codec: Codec,
    task_id: str,
    result: Any,
    state: str,
    traceback: str | None = None,
    request: Any = None,
    fields: Mapping[str, str] | None = None,
    *,
    extended: bool = False,
) -> bytes:
    """The payload of one state.

    Args:
        fields: Further fields; see :func:`with_fields`.

    Raises:
        ResultEncodeError: As :meth:`.Codec.encode`.
    """
    if fields or traceback is not None or request is not None:
        document = document_of(codec, task_id, result, state, traceback, request, extended=extended)
        return codec.encode(with_fields(document, fields or {}))
    return codec.encode_plain(str(task_id), state, _storable(codec, result, state), _date_done(state))


def document_of(
    codec: Codec, task_id: str, result: Any, state: str, traceback: str | None, request: Any, *, extended: bool
) -> TaskMeta:
    """The document of one state. Source: celery/backends/base.py (5.7), ``_get_result_meta``."""
    fields: dict[str, Any] = {
        "task_id": str(task_id),
        "status": state,
        "result": _storable(codec, result, state),
        "traceback": traceback,
        "_date_done": _date_done(state),
    }
    if request is not None:
        fields["_children"] = tuple(child.as_tuple() for child in getattr(request, "children", None) or ())
        fields["group_id"] = getattr(request, "group", None)
        fields["parent_id"] = getattr(request, "parent_id", None)
        fields["heartbeat"] = getattr(request, "heartbeat", None)
        fields["_extra"] = getattr(request, "own_fields", None)
        if extended or getattr(request, "extended", False):
            delivery = getattr(request, "delivery_info", None) or {}
            fields |= {
                "name": getattr(request, "task", None),
                "args": getattr(request, "args", None),
                "kwargs": getattr(request, "kwargs", None),
                "worker": getattr(request, "hostname", None),
                "retries": getattr(request, "retries", None),
                "queue": delivery.get("routing_key"),
            }
    return TaskMeta(**fields)


def with_fields(document: TaskMeta, fields: Mapping[str, str]) -> TaskMeta:
    """The document with further fields; one that it has already stays as it is."""
    if not fields:
        return document
    own = {**fields, **document.extra}
    return msgspec.structs.replace(document, traceparent=own.pop("traceparent", None), _extra=own or None)


def _storable(codec: Codec, result: Any, state: str) -> Any:
    return codec.encode_exception(result) if state in EXCEPTION_STATES and isinstance(result, BaseException) else result


def _date_done(state: str) -> str | None:
    if state not in READY_STATES:
        return None
    # As datetime.now(UTC).isoformat(), in half of its time (benchmarks: store-many-1000).
    second, microsecond = divmod(time_ns() // 1000, 1_000_000)
    return f"{_to_the_second(second)}.{microsecond:06}+00:00"


@functools.lru_cache(maxsize=1)
def _to_the_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")


def precedes(codec: Codec, task_id: str, old: bytes, status: str, attempt: int | None = None) -> bool:
    """Whether the record ``old`` may not be replaced by one of ``status``.

    SUCCESS is never overwritten, and what is not final never overwrites what is. An unreadable record
    protects nothing.

    Args:
        attempt: The number of the attempt that wants to store: a record of a later one is not replaced either.
    """
    try:
        record = codec.decode(task_id, old)
    except ResultDecodeError:
        return False
    held = record.status
    if attempt is not None and record.retries is not None and record.retries > attempt:
        return True
    return held == SUCCESS or (held in READY_STATES and status not in READY_STATES)


def lifetime(state: str, given: float | None, expires: float | None, failure_expires: float | None) -> float | None:
    """Seconds to keep a record; None forever. Celery's rule: whole seconds, and 0 means forever.

    Args:
        given: For this record alone.
        expires, failure_expires: The settings.
    """
    check_lifetime("expires", given)
    if given is None:
        given = failure_expires if state == FAILURE else None
        if given is None:
            given = expires
    return int(given) or None if given is not None else None


def attempt_of(request: Any, state: str, again: bool) -> int | None:
    """Which attempt stores this, where that decides: a run that begins is the latest, a task that is done is done."""
    retries = getattr(request, "retries", None)
    if type(retries) is not int or retries < 0 or state == SUCCESS or (state == STARTED and not again):
        return None
    return retries
