"""Caches, files and objects: under the task's key lie the very bytes that Celery stores in Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .base import Reader, as_bytes

__all__ = ["DynamoDBReader", "KeyValueReader", "MemcachedReader"]


class KeyValueReader(Reader):
    """Any ``KeyValueStoreBackend``. Their ``mget()``, where they have one, is a loop over ``get()``."""

    def read(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        found = ((id, as_bytes(self.backend.get(self.backend.get_key_for_task(id)))) for id in ids)
        return {id: payload for id, payload in found if payload}

    def write(self, task_id: str, payload: bytes, status: str) -> None:
        # Not store_result(): it reads the old record with Celery's decoder, which runs constructors of exceptions.
        self.backend._set_with_state(self.backend.get_key_for_task(task_id), _as_celery_has_it(payload), status)

    def delete(self, ids: Sequence[str]) -> None:
        for id in ids:
            self.backend.delete(self.backend.get_key_for_task(id))

    def read_group(self, group_id: str) -> bytes | None:
        return as_bytes(self.backend.get(self.backend.get_key_for_group(group_id))) or None

    def write_group(self, group_id: str, payload: bytes) -> None:
        self.backend._set_with_state(self.backend.get_key_for_group(group_id), _as_celery_has_it(payload), "SUCCESS")

    def delete_group(self, group_id: str) -> None:
        self.backend.delete(self.backend.get_key_for_group(group_id))


class MemcachedReader(KeyValueReader):
    """Memcached: one ``get_multi`` for all."""

    batch = 500

    def read(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        keys = {key: id for id in ids if _is_possible(key := self.backend.get_key_for_task(id))}
        values: Mapping[Any, Any] = self.backend.mget(list(keys)) if keys else {}
        return {keys[key]: payload for key, value in values.items() if (payload := as_bytes(value))}

    def close(self) -> None:
        # The clients that Celery knows differ: pymemcache, pylibmc, and its own of memory://.
        client = self.backend.client
        close = getattr(client, "close", None) or getattr(client, "disconnect_all", None)
        if close is not None:
            close()


class DynamoDBReader(KeyValueReader):
    """DynamoDB: one BatchGetItem for a hundred."""

    batch = 100

    def read(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        backend = self.backend
        name, kind = backend._key_field.name, backend._key_field.data_type
        value, value_kind = backend._value_field.name, backend._value_field.data_type
        keys = {str(backend.get_key_for_task(id)): id for id in ids}
        wanted: Any = {backend.table_name: {"Keys": [{name: {kind: key}} for key in keys]}}
        found: dict[str, bytes] = {}
        while wanted:
            answer = backend.client.batch_get_item(RequestItems=wanted)
            for item in answer.get("Responses", {}).get(backend.table_name, ()):
                found[keys[item[name][kind]]] = as_bytes(item[value][value_kind])
            wanted = answer.get("UnprocessedKeys")  # a busy table answers only part of them
        return found


def _is_possible(key: str | bytes) -> bool:
    """Whether memcached takes the key. Under any other nothing can be stored, and requesting it fails for all."""
    plain = as_bytes(key)
    return len(plain) <= 250 and all(32 < byte < 127 for byte in plain)


def _as_celery_has_it(payload: bytes) -> str | bytes:
    """JSON as text, which is what some stores take only."""
    return payload.decode() if payload.startswith(b"{") else payload
