"""What a reader is; and the one for any backend, which reads and writes through Celery's own methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celery.app.task import Context
from celery.result import result_from_tuple

from ....codec.codec import Codec
from ....errors import ResultEncodeError
from ....meta import TaskMeta
from ....states import EXCEPTION_STATES, PENDING

__all__ = ["Reader", "as_bytes"]


class Reader:
    """Reads the records in a Celery backend, and has Celery write them.

    Made and used on one thread, which it may block. A subclass for a certain kind of backend overrides ``batch``
    and :meth:`read`; where groups can be read as bytes, :meth:`read_group`, too. What the methods raise counts as an
    outage of the store: waits go on, and it is tried again. A :class:`asyncresult.BackendError` ends them.

    Args:
        backend: The Celery backend, for this thread alone.
        codec: Reads and writes records by the app's settings.

    Attributes:
        batch: How many records one request can name.
    """

    batch: int = 1

    def __init__(self, backend: Any, codec: Codec) -> None:
        self.backend = backend
        self.codec = codec

    def read(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        """The stored records of these tasks, at most ``batch``; tasks without one are left out.

        Returns:
            For each id the document that Celery stores in Redis: a mapping with ``status``, ``result``, ``traceback``,
            ``children`` and so on, in a serializer that the app accepts.
        """
        return {id: record for id in ids if (record := self._read_by_celery(id)) is not None}

    def _read_by_celery(self, task_id: str) -> bytes | None:
        fields: dict[str, Any] = dict(self.backend._get_task_meta_for(task_id))
        result, status = fields.get("result"), fields.get("status", PENDING)
        if status == PENDING and result is None:
            return None  # what Celery says of a task that it does not know
        if status in EXCEPTION_STATES and isinstance(result, BaseException):
            result = self.codec.encode_exception(result)
        done = fields.get("date_done")
        return self.encode(
            TaskMeta(
                task_id=task_id,
                status=status,
                result=result,
                traceback=fields.get("traceback"),
                _children=_forms(fields.get("children")),
                _date_done=done if done is None or isinstance(done, str) else done.isoformat(),
                **{name: fields.get(name) for name in _EXTENDED},
            )
        )

    def encode(self, record: TaskMeta) -> bytes:
        """The record as bytes. A value that has no place in the format is shown as text, rather than lost."""
        try:
            return self.codec.encode(record)
        except ResultEncodeError as error:
            note = {"exc_type": "ResultEncodeError", "exc_message": [str(error)], "exc_module": "asyncresult.errors"}
            return self.codec.encode(TaskMeta(task_id=record.task_id, status="FAILURE", result=note))

    def write(self, task_id: str, payload: bytes, status: str) -> None:
        """Store a record that our codec has written."""
        record = self.codec.decode(task_id, payload)
        children = [result_from_tuple(form, self.backend.app) for form in record.children or ()]
        request = Context(
            {
                "id": task_id,
                "_children": children,  # behind a property
                "group": record.group_id,
                "parent_id": record.parent_id,
                "task": record.name,
                "args": record.args,
                "kwargs": record.kwargs,
                "hostname": record.worker,
                "retries": record.retries,
                "delivery_info": {"routing_key": record.queue},
            }
        )
        self.backend.store_result(task_id, record.result, status, traceback=record.traceback, request=request)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete the records of these tasks."""
        for id in ids:
            self.backend.forget(id)

    def read_group(self, group_id: str) -> bytes | None:
        """A saved group, in the form in which Celery stores it in Redis."""
        group = self.backend.restore_group(group_id, cache=False)
        return self.codec.encode_group(group.as_tuple()) if group is not None else None

    def write_group(self, group_id: str, payload: bytes) -> None:
        """Store a group that our codec has written."""
        group = result_from_tuple(self.codec.decode_group(group_id, payload), self.backend.app)
        self.backend.save_group(group_id, group)

    def delete_group(self, group_id: str) -> None:
        """Delete a saved group."""
        self.backend.delete_group(group_id)

    def close(self) -> None:
        """Close the connections that the reader has made itself."""


_EXTENDED = ("group_id", "parent_id", "name", "args", "kwargs", "worker", "retries", "queue")


def _forms(children: Any) -> Any:
    """Children in the form that is stored: Celery gives results for them, or that form."""
    if not isinstance(children, (list, tuple)):
        return None
    return tuple(child.as_tuple() if hasattr(child, "as_tuple") else child for child in children)


def as_bytes(value: Any) -> bytes:
    """What a client gave, as bytes; empty for nothing. What is no bytes becomes some that the codec refuses."""
    if value is None:
        return b""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else f"\0{value!r:.60}".encode()
