"""Notifications of PostgreSQL where there is none: how it is found, and what its driver may raise."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.backends.database import DatabaseBackend

psycopg = pytest.importorskip("psycopg")

from asyncresult import Backend  # noqa: E402
from asyncresult._storage.store import engine_of  # noqa: E402
from asyncresult.integrations.celery import postgres as module  # noqa: E402
from asyncresult.integrations.celery.config import make_backend  # noqa: E402
from asyncresult.integrations.celery.postgres import PostgresDriver, find_dsn, table_of  # noqa: E402
from tests.backends import stores  # noqa: E402
from tests.backends.waiting import until  # noqa: E402


def test_without_the_driver_results_are_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    app = stores.app_storing_in("db+postgresql://u:p@host/results")
    assert find_dsn(app, DatabaseBackend, "postgresql+psycopg://u:p@host/results") == "postgresql://u:p@host/results"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert find_dsn(app, DatabaseBackend, "postgresql://u:p@host/results") is None


def test_djangos_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings as a connection string: TLS and a service, too, but nothing of how Django uses the connection."""
    connections = pytest.importorskip("django.db")
    settings = {
        "NAME": "shop",
        "USER": "me",
        "PASSWORD": "a b",
        "HOST": "",
        "PORT": 5433,
        "OPTIONS": {"sslmode": "require", "service": "mine", "isolation_level": 2},
    }
    connection = SimpleNamespace(vendor="postgresql", settings_dict=settings)
    monkeypatch.setattr(connections, "connections", {"results": connection})
    manager, meta = SimpleNamespace(db="results"), SimpleNamespace(db_table="django_celery_results_taskresult")
    model = SimpleNamespace(_default_manager=manager, _meta=meta)
    cls = type("DatabaseBackend", (), {"TaskModel": model, "__module__": "django_celery_results.backends.database"})
    dsn = find_dsn(None, cls, None)
    assert psycopg.conninfo.conninfo_to_dict(dsn) == {
        "dbname": "shop",
        "user": "me",
        "password": "a b",
        "port": "5433",
        "sslmode": "require",
        "service": "mine",
    }
    assert table_of(None, cls) == ("django_celery_results_taskresult", None)
    connection.vendor = "sqlite"
    assert find_dsn(None, cls, None) is None


class Connection:
    """psycopg's: the trigger is there, and each wait for notices is one step."""

    def __init__(self, *steps: Callable[[], Any]) -> None:
        self.steps = list(steps)
        self.executed: list[str] = []
        self.closed = False

    async def execute(self, statement: str, *_: Any) -> Connection:
        self.executed.append(statement.split(" FROM")[0])
        return self

    async def fetchone(self) -> tuple[int]:
        return (1,)

    async def notifies(self, *, timeout: float) -> AsyncIterator[Any]:
        if not self.steps:
            await asyncio.get_running_loop().create_future()
        if (notice := self.steps.pop(0)()) is not None:
            yield SimpleNamespace(payload=notice)

    async def close(self) -> None:
        self.closed = True


def fail(error: Exception) -> None:
    raise error


def quiet() -> None:
    return None


async def test_each_way_in_which_listening_ends_is_logged_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "asyncresult")
    monkeypatch.setattr(module, "BACKOFF_FIRST", 0.001)
    lost = psycopg.OperationalError("the server closed the connection\nand more")
    made = [
        Connection(quiet, lambda: "of nobody here", lambda: fail(lost)),
        Connection(lambda: fail(ZeroDivisionError("a bug"))),
        Connection(lambda: fail(ZeroDivisionError("a bug"))),
        Connection(),
    ]
    opened: list[Connection] = []

    async def connect(*_: Any, **__: Any) -> Connection:
        opened.append(made[len(opened)])
        return opened[-1]

    monkeypatch.setattr(psycopg.AsyncConnection, "connect", connect)
    app = stores.sqlite_app(tmp_path / "results.sqlite")
    driver = PostgresDriver(make_backend(app).driver.open_records, "db", listen_dsn="dbname=x")  # type: ignore[attr-defined]
    async with Backend(driver) as backend:
        waiting = asyncio.ensure_future(backend.result("t").get(timeout=20))
        engine: Any = engine_of(backend)
        await until(lambda: len(opened) == 4 and engine.listening)
        assert made[0].executed == ["SELECT 1", "LISTEN asyncresult", "SELECT 1", "SELECT 1"]
        assert [connection.closed for connection in made] == [True, True, True, False]
        await backend.mark_as_done("t", 1)
        engine._hint("t")
        assert await waiting == 1
    said = [(record.levelno, record.__dict__["event"]) for record in caplog.records if "notif" in record.message]
    assert said.count((logging.WARNING, "polled")) == 3
    assert sum(record.__dict__.get("event") == "unexpected error" for record in caplog.records) == 2
    assert "and more" not in caplog.text.split("Traceback")[0]


class Silent(Connection):
    """Lets us in, and then answers no more."""

    def __init__(self, statement: str) -> None:
        super().__init__()
        self.statement = statement

    async def execute(self, statement: str, *args: Any) -> Connection:
        if statement.startswith(self.statement):
            await asyncio.get_running_loop().create_future()
        return await super().execute(statement, *args)


async def test_a_connection_that_falls_silent_before_it_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "BACKOFF_FIRST", 0.001)
    monkeypatch.setattr(module, "CONNECT_TIMEOUT", 0.05)
    made = [Silent("SELECT"), Silent("LISTEN"), Connection()]
    opened: list[Connection] = []

    async def connect(*_: Any, **__: Any) -> Connection:
        opened.append(made[len(opened)])
        return opened[-1]

    monkeypatch.setattr(psycopg.AsyncConnection, "connect", connect)
    app = stores.sqlite_app(tmp_path / "results.sqlite")
    driver = PostgresDriver(make_backend(app).driver.open_records, "db", listen_dsn="dbname=x")  # type: ignore[attr-defined]
    async with Backend(driver) as backend:
        waiting = asyncio.ensure_future(backend.result("t").get(timeout=20))
        engine: Any = engine_of(backend)
        await until(lambda: engine.listening)
        assert [connection.closed for connection in made] == [True, True, False]
        waiting.cancel()
    assert "does not notify: TimeoutError" in caplog.text
