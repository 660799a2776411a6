"""MongoDB: one ``find`` with ``$in`` for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .base import Reader, as_bytes
from .rows import document

__all__ = ["MongoReader"]


class MongoReader(Reader):
    """The collection of Celery's ``MongoBackend``: fields as they are, the result serialized, or as BSON."""

    batch = 1000

    def read(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        found = self.backend.collection.find({"_id": {"$in": list(ids)}})
        return {record["_id"]: self._document(record) for record in found}

    def _document(self, record: Mapping[str, Any]) -> bytes:
        fields = {name: value for name, value in record.items() if name != "_id"}
        for name in ("children", "args", "kwargs"):  # stored as they are
            if fields.get(name) is not None:
                fields[name] = self._serialized(fields[name])
        result = fields.get("result")
        if self.backend.serializer == "bson":
            fields["result"] = self._serialized(result)
        else:
            fields["result"] = as_bytes(result) if result is not None else None
        return document(self.codec, record["_id"], fields)

    def close(self) -> None:
        # Also the client's threads, which watch the servers.
        if self.backend._connection is not None:
            self.backend._connection.close()

    def _serialized(self, value: Any) -> bytes:
        return self.codec.encode_value(value)
