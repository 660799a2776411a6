"""Readers: how the records in each kind of Celery's result backends are read, as bytes and many at once.

``register_reader`` adds one for a backend that Celery does not bring along.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....codec.codec import Codec
from .base import Reader

__all__ = ["Reader", "reader_for", "register_reader"]

ReaderFactory = Callable[[Any, Codec], Reader]


def _key_value(backend: Any, codec: Codec) -> Reader:
    from .keyvalue import KeyValueReader

    return KeyValueReader(backend, codec)


def _memcached(backend: Any, codec: Codec) -> Reader:
    from .keyvalue import MemcachedReader

    return MemcachedReader(backend, codec)


def _dynamodb(backend: Any, codec: Codec) -> Reader:
    from .keyvalue import DynamoDBReader

    return DynamoDBReader(backend, codec)


def _sqlalchemy(backend: Any, codec: Codec) -> Reader:
    from .database import DatabaseReader

    return DatabaseReader(backend, codec)


def _django(backend: Any, codec: Codec) -> Reader:
    from .django import DjangoReader

    return DjangoReader(backend, codec)


def _mongodb(backend: Any, codec: Codec) -> Reader:
    from .mongodb import MongoReader

    return MongoReader(backend, codec)


# By name, because the class of a backend is imported only where that backend is used.
_factories: dict[str, ReaderFactory] = {
    "celery.backends.base.BaseKeyValueStoreBackend": _key_value,
    "celery.backends.cache.CacheBackend": _memcached,
    "celery.backends.dynamodb.DynamoDBBackend": _dynamodb,
    "celery.backends.database.DatabaseBackend": _sqlalchemy,
    "celery.backends.mongodb.MongoBackend": _mongodb,
    "django_celery_results.backends.cache.CacheBackend": Reader,  # it holds objects, not bytes
    "django_celery_results.backends.database.DatabaseBackend": _django,
}


def register_reader(name: str, factory: ReaderFactory) -> None:
    """Have the records in a kind of backend read by a reader of your own.

    ::

        class ShopReader(Reader):
            batch = 100

            def read(self, ids):
                return dict(self.backend.fetch_documents(ids))

        register_reader("shop.results.ShopBackend", ShopReader)

    Without one, a backend with ``get()`` and ``mget()`` (a ``KeyValueStoreBackend``) is read by these, and any other
    through its ``_get_task_meta_for()``, one record at a time.

    Args:
        name: The class of the Celery backend, with its module: ``"package.module.Class"``. It serves its subclasses,
            too, unless they have one of their own.
        factory: Makes the reader, a :class:`Reader`, of the Celery backend and a :class:`asyncresult.codec.Codec`. It
            is called on the thread that will use the reader, with a backend that was made on that thread.

    Raises:
        ValueError: The name has no module.
    """
    if "." not in name.strip("."):
        raise ValueError(f"the class of a backend is named with its module, 'package.module.Class', not {name!r}")
    _factories[name] = factory


def reader_for(backend: Any, codec: Codec) -> Reader:
    """The reader for a Celery backend, by its class or the nearest base of it."""
    for cls in type(backend).__mro__:
        factory = _factories.get(f"{cls.__module__}.{cls.__qualname__}")
        if factory is not None:
            return factory(backend, codec)
    return Reader(backend, codec)
