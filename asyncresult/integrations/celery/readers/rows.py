"""From the columns of a row to the document that Celery would have stored in Redis, without decoding the result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ....codec.codec import Codec
from ....errors import ResultTooLarge
from ....meta import TaskMeta
from ....states import READY_STATES
from .base import as_bytes
from .pickled import is_pickled, load_plain

__all__ = ["document"]

#: Columns with a serialized value each.
_SERIALIZED = ("result", "children", "args", "kwargs")
#: Columns that are what they say; date_done is among them for final states only.
_PLAIN = ("traceback", "group_id", "parent_id", "name", "worker", "retries", "queue")


def document(codec: Codec, task_id: str, columns: Mapping[str, Any], extra: Mapping[str, Any] | None = None) -> bytes:
    """The document of a task.

    Args:
        columns: By the names of its fields; serialized ones as bytes. Those that are None may be left out.
        extra: Further fields.

    Returns:
        What :meth:`Codec.decode` reads; also for a row that it will refuse, which is no concern of its neighbours.
    """
    cells = {name: as_bytes(columns[name]) for name in _SERIALIZED if columns.get(name) is not None}
    result = cells.get("result", b"")
    try:
        if is_pickled(result):
            values: dict[str, Any] = {name: codec.decode_value(task_id, cell) for name, cell in _without_result(cells)}
            values["result"] = load_plain(result)
        elif codec.serializer == "json":
            return _spliced(codec, task_id, columns, cells, extra)
        else:
            values = {name: codec.decode_value(task_id, cell) for name, cell in cells.items()}
        return codec.encode(_record(task_id, columns, values, extra))
    except Exception as error:
        # The codec will refuse these bytes, in an error for this task alone. The nul: a result by itself must not be
        # taken for the whole record.
        return result if is_pickled(result) or isinstance(error, ResultTooLarge) else b"\0" + result


def _without_result(cells: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
    return [(name, cell) for name, cell in cells.items() if name != "result"]


def _spliced(
    codec: Codec, task_id: str, columns: Mapping[str, Any], cells: Mapping[str, bytes], extra: Mapping[str, Any] | None
) -> bytes:
    """JSON made of JSON. The cells are not looked at: whoever can write them can write the whole row."""
    fields: dict[str, Any] = {"status": columns.get("status"), "date_done": _date_done(columns)}
    fields.update({name: columns[name] for name in _PLAIN if columns.get(name) is not None})
    fields.update(extra or {})
    parts = [json.dumps(fields).encode()[:-1]]
    for name in ("result", "children", "args", "kwargs"):
        if name in cells:
            parts += [f', "{name}": '.encode(), bytes(codec.plain(task_id, cells[name]))]
    parts.append(f', "task_id": {json.dumps(task_id)}}}'.encode())
    return b"".join(parts)


def _record(
    task_id: str, columns: Mapping[str, Any], values: Mapping[str, Any], extra: Mapping[str, Any] | None
) -> TaskMeta:
    children = values.get("children")
    return TaskMeta(
        task_id=task_id,
        status=columns.get("status") or "",
        result=values.get("result"),
        _children=tuple(children) if isinstance(children, list) else children,
        args=values.get("args"),
        kwargs=values.get("kwargs"),
        _date_done=_date_done(columns),
        _extra=dict(extra) if extra else None,
        **{name: columns.get(name) for name in _PLAIN},
    )


def _date_done(columns: Mapping[str, Any]) -> str | None:
    """When the task ended. The column is touched by every state."""
    done = columns.get("date_done")
    if columns.get("status") not in READY_STATES or done is None:
        return None
    # SQLite has text, with a blank between.
    return done.isoformat() if isinstance(done, datetime) else str(done).replace(" ", "T", 1)
