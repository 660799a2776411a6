"""``asyncresult+memory://``: results in the memory of this process, for tests and first steps.

Celery stores, ours waits, on the same records. The tasks of an app run in this process then: eagerly, or in a worker
thread, as Celery's pytest fixture ``celery_worker`` starts one. Results of eager tasks are stored, too, so that they
are found by id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..._storage.memory import MemoryDriver, Records
from ...backend import Backend
from ...states import FAILURE, SUCCESS
from .settings import record_settings

if TYPE_CHECKING:
    from .._untyped import Untyped as KeyValueStoreBackend
else:
    from celery.backends.base import KeyValueStoreBackend

__all__ = ["StoredInMemory", "make_memory", "memory_url"]

_RECORDS = "_asyncresult_records"


def _records_of(app: Any, url: str) -> Records:
    """The records of this address; without a name each app has its own."""
    driver, _ = MemoryDriver.from_url(url, {})
    if driver.name:
        return driver.records
    records: Records = vars(app).setdefault(_RECORDS, driver.records)
    return records


def memory_url(backend: Any, url: str | None) -> str | None:
    """The address, where this is what Celery makes of ``asyncresult+memory://``: a backend, or its maker and a URL."""
    if isinstance(backend, StoredInMemory):
        return str(backend.url)
    return url if url is not None and url.startswith("memory://") and not isinstance(backend, type) else None


def make_memory(app: Any, url: str, options: dict[str, Any]) -> Backend:
    """Our backend for the records of an app.

    Raises:
        ValueError: A setting that cannot be honoured.
    """
    driver, of_url = MemoryDriver.from_url(url, {})
    driver.records = _records_of(app, url)
    settings = record_settings(app.conf, StoredInMemory(app=app, url=url), _transport(app))
    return Backend(driver, **{**settings, **of_url, **options})


def _transport(app: Any) -> Any:
    return app.conf.result_backend_transport_options or {}


class StoredInMemory(KeyValueStoreBackend):
    """Celery's backend for keys and values, in memory: its half, which stores.

    Args:
        url: ``memory://``, or with a name: apps and backends of the same name share their records.
    """

    implements_incr = True
    supports_autoexpire = True
    supports_native_join = True
    supports_failure_expires = True
    persistent = False

    def __init__(self, app: Any, url: str, **kwargs: Any) -> None:
        super().__init__(app, url=url, **kwargs)
        self.expires: int | None = self.prepare_expires(kwargs.get("expires"), type=int)
        failure_expires = app.conf.get("result_failure_expires")  # new in 5.7
        self.failure_expires: int | None = (
            self.expires if failure_expires is None else self.prepare_expires(failure_expires, type=int)
        )
        self._records = _records_of(app, url)
        _store_eager_results(app)

    def get(self, key: bytes) -> bytes | None:
        return self._records.get(key)

    def mget(self, keys: Any) -> list[bytes | None]:
        return [self._records.get(key) for key in keys]

    def set(self, key: bytes, value: str | bytes) -> None:
        self._set_with_state(key, value, SUCCESS)

    def _set_with_state(self, key: bytes, value: str | bytes, state: str) -> None:
        expires = self.failure_expires if state == FAILURE else self.expires
        self._records.put(key, value.encode() if isinstance(value, str) else value, expires or None)

    def delete(self, key: bytes) -> None:
        self._records.delete([key])

    def incr(self, key: bytes) -> int:
        return self._records.increment(key)

    def expire(self, key: bytes, value: float | None) -> None:
        self._records.expire(key, value or None)


def _store_eager_results(app: Any) -> None:
    """As ``task_store_eager_result`` does, which tasks have read by the time that they are read."""
    app.conf.task_store_eager_result = True
    for task in app._tasks.values():
        task.store_eager_result = True
