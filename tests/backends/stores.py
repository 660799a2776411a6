"""Celery's result backends that have to be polled, one empty store each, as the app whose results are there."""

from __future__ import annotations

import os
import socket
import sqlite3
import uuid
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.tools.databases import PostgresServer

DJANGO_BACKEND = "django_celery_results.backends.database.DatabaseBackend"
_CELERY_TABLES = ("celery_taskmeta", "celery_tasksetmeta")


def app_storing_in(url: str, **settings: Any) -> Celery:
    """An app that nobody else sees."""
    app = Celery("stores", broker="memory://", set_as_current=False)
    app.conf.update(result_backend=url, result_extended=True, **settings)
    return app


def sqlite_app(path: Path) -> Celery:
    """Results in an SQLite file, which is emptied."""
    with sqlite3.connect(path) as database:
        known = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
        for table in known.intersection(_CELERY_TABLES):
            database.execute(f"DELETE FROM {table}")
    database.close()
    return app_storing_in(f"db+sqlite:///{path}")


def postgres_app(server: PostgresServer) -> Celery:
    """Results in PostgreSQL, which is emptied."""
    for table in _CELERY_TABLES:
        server.cli(f"DELETE FROM {table}")
    return app_storing_in(f"db+{server.url()}")


def memcached_app(address: tuple[str, int]) -> Celery:
    """Results in memcached, under keys that are new."""
    with socket.create_connection(address) as connection:
        connection.sendall(b"flush_all\r\n")
        connection.recv(64)
    return app_storing_in(f"cache+pymemcache://{address[0]}:{address[1]}/")


def mongodb_app(url: str) -> Celery:
    """Results in a new database of MongoDB's."""
    return app_storing_in(f"{url}/tests-{uuid.uuid4().hex}")


def django_app(path: Path) -> Celery:
    """Results in django-celery-results' tables in an SQLite file, which are emptied."""
    configure_django(path)
    from django.db import connection
    from django_celery_results.models import GroupResult, TaskResult

    TaskResult.objects.all().delete()
    GroupResult.objects.all().delete()
    connection.close()
    return app_storing_in(DJANGO_BACKEND)


def configure_django(path: Path) -> None:
    """Django's settings are those of the whole process, and are made once."""
    django = pytest.importorskip("django")
    pytest.importorskip("django_celery_results")
    from django.conf import settings

    if settings.configured:
        return
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path), "OPTIONS": {"timeout": 20}}},
        INSTALLED_APPS=["django_celery_results"],
        USE_TZ=True,
        TIME_ZONE=None,  # or it would set that of the process
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    )
    django.setup()
    from django.core.management import call_command
    from django.db import connection

    call_command("migrate", verbosity=0, interactive=False)
    connection.close()


def new_sqlite_file(directory: Path) -> Path:
    """A file for a worker of the tests; several may run at once."""
    return directory / f"{os.getpid()}-{uuid.uuid4().hex}.sqlite"
