"""django-celery-results: one query for all, on the connection that Django has for the reader's thread.

The connection stays open between two reads, as it would not under ``CONN_MAX_AGE = 0``: one that is used twenty times
a second need not be made twenty times a second.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import connections

from ....codec.codec import Codec
from .base import Reader
from .rows import document

__all__ = ["DjangoReader"]

_FIELDS = {
    "task_id": "task_id",
    "status": "status",
    "result": "result",
    "traceback": "traceback",
    "date_done": "date_done",
    "name": "task_name",
    "args": "task_args",
    "kwargs": "task_kwargs",
    "worker": "worker",
    "meta": "meta",
    "content_encoding": "content_encoding",
}


class DjangoReader(Reader):
    """The models of ``django_celery_results.backends.database.DatabaseBackend``, or of a subclass of it."""

    batch = 500

    def __init__(self, backend: Any, codec: Codec) -> None:
        super().__init__(backend, codec)
        self._tasks = backend.TaskModel._default_manager
        self._groups = backend.GroupModel._default_manager

    def read(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        rows = self._ask(lambda: list(self._tasks.filter(task_id__in=ids).values_list(*_FIELDS.values())))
        records = (dict(zip(_FIELDS, row, strict=True)) for row in rows)
        return {record["task_id"]: self._document(record) for record in records}

    def ids(self, after: str, count: int) -> Sequence[str]:
        wanted = self._tasks.filter(task_id__gt=after).order_by("task_id").values_list("task_id", flat=True)[:count]
        found: list[str] = self._ask(lambda: list(wanted.all()))
        return found

    def _document(self, record: dict[str, Any]) -> bytes:
        encoding = record["content_encoding"]
        for name in ("result", "args", "kwargs", "meta"):
            record[name] = _cell(record[name], encoding)
        extra: dict[str, Any] = {}
        if record["meta"]:
            try:
                stored = dict(self.codec.decode_value(record["task_id"], record["meta"]))
                record["children"] = self.codec.encode_value(stored.pop("children", None))
                extra = {name: value for name, value in stored.items() if name not in _FIELDS}
            except Exception:
                pass  # it says nothing about the result
        return document(self.codec, record["task_id"], record, extra)

    def _ask(self, query: Any) -> Any:
        try:
            return query()
        except Exception:
            # The server may have closed a connection that was idle: once more, on a fresh one.
            self.close()
            return query()

    def read_group(self, group_id: str) -> bytes | None:
        rows = self._ask(lambda: list(self._groups.filter(group_id=group_id).values_list("result", "content_encoding")))
        if not rows:
            return None
        return document(self.codec, group_id, {"status": "SUCCESS", "result": _cell(*rows[0])})

    def write(self, task_id: str, payload: bytes, status: str) -> None:
        self._ask(lambda: super(DjangoReader, self).write(task_id, payload, status))

    def close(self) -> None:
        connections[self._tasks.db].close()


def _cell(text: str | None, encoding: str) -> bytes | None:
    """The serialized value in a column of text; base64 if the serializer gives bytes."""
    if text is None:
        return None
    return base64.b64decode(text) if encoding == "binary" else text.encode()
