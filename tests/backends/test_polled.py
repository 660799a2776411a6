"""What is particular to stores behind Celery's backends: their rows, their queries, their outages, their groups."""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import datetime
import decimal
import logging
import pickle
import sqlite3
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celery
import msgspec
import pytest
import sqlalchemy
from celery import Celery
from sqlalchemy import event

from asyncresult import (
    AsyncResult,
    Backend,
    BackendClosed,
    BackendError,
    BackendUnavailable,
    ResultDecodeError,
    connect,
)
from asyncresult._storage.store import engine_of
from asyncresult.codec import Codec
from asyncresult.integrations.celery import Reader, install_trigger, register_reader, trigger_sql
from asyncresult.integrations.celery.config import make_backend
from asyncresult.integrations.celery.readers import mongodb, reader_for
from asyncresult.integrations.celery.readers.pickled import load_plain
from tests.tools.databases import PostgresServer

from . import stores
from .waiting import until, waits_for


@pytest.fixture
def sqlite_app(tmp_path: Path) -> Celery:
    return stores.sqlite_app(tmp_path / "results.sqlite")


# -- queries --------------------------------------------------------------------------------------------------------


@pytest.fixture
def selects() -> Iterator[list[str]]:
    """Every SELECT on the results, of whatever engine of this process."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT") and "celery_taskmeta" in statement:
            seen.append(statement)

    event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    yield seen
    event.remove(sqlalchemy.Engine, "before_cursor_execute", note)


async def test_a_thousand_waits_of_five_seconds_are_a_hundred_queries(
    sqlite_app: Celery, selects: list[str], tmp_path: Path
) -> None:
    ids = [str(uuid.uuid4()) for _ in range(1000)]

    def store_all() -> None:  # by hand: a store through Celery is a query, and takes longer than the wait may
        with sqlite3.connect(tmp_path / "results.sqlite", timeout=20, isolation_level=None) as database:
            began = time.monotonic()
            for number, id in enumerate(ids):
                time.sleep(max(0.0, began + number * 0.005 - time.monotonic()))
                if number % 10 == 0:  # one commit for ten: the disk may be slow
                    database.execute("COMMIT") if number else None
                    database.execute("BEGIN")
                row = (id, "SUCCESS", str(number).encode())
                database.execute("INSERT INTO celery_taskmeta (task_id, status, result) VALUES (?, ?, ?)", row)
            database.execute("COMMIT")
        database.close()

    async with connect(sqlite_app) as backend:
        await backend.get_meta("makes the tables")
        selects.clear()
        storing = asyncio.ensure_future(asyncio.to_thread(store_all))
        assert await backend.results(ids).get(timeout=60) == list(range(1000))
        await storing
        assert 20 <= len(selects) <= 150


# -- rows -----------------------------------------------------------------------------------------------------------


def insert(app: Celery, task_id: str, status: str, result: bytes | None) -> None:
    app.backend.ResultSession().close()  # makes the tables
    path = str(app.conf.result_backend).partition("///")[2]
    with sqlite3.connect(path) as database:
        row = (task_id, status, result)
        database.execute("INSERT INTO celery_taskmeta (task_id, status, result) VALUES (?, ?, ?)", row)
    database.close()


PLAIN: list[Any] = [
    None,
    {"a": [1, 2.5, "é", None, True]},
    b"\xff",
    datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
    datetime.date(2024, 1, 2),
    datetime.timedelta(days=1, microseconds=5),
    decimal.Decimal("1.50"),
    uuid.UUID(int=7),
    {1, 2},
    frozenset({(1, 2)}),
    collections.OrderedDict(a=1),
    2**80,
]


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("value", PLAIN, ids=repr)
async def test_pickled_rows_of_plain_values_are_read(sqlite_app: Celery, value: Any, protocol: int) -> None:
    """Celery 5.5 and 5.6 write these, by SQLAlchemy's PickleType."""
    insert(sqlite_app, "old", "SUCCESS", pickle.dumps(value, protocol))
    async with connect(sqlite_app):
        got = await AsyncResult("old").get(timeout=10)
        assert got == value and (type(got) is type(value) or isinstance(got, dict))


async def test_a_pickled_failure_is_raised(sqlite_app: Celery) -> None:
    failure = {"exc_type": "KeyError", "exc_message": ("k",), "exc_module": "builtins"}
    insert(sqlite_app, "old", "FAILURE", pickle.dumps(failure))
    async with connect(sqlite_app):
        with pytest.raises(KeyError, match="k"):
            await AsyncResult("old").get(timeout=10)


class Evil:
    called: list[str] = []

    def __reduce__(self) -> Any:
        return Evil.called.append, ("run",)


def bomb() -> bytes:
    """Thirty lists, each of the one before twice: a billion values."""
    inner: list[Any] = [0]
    for _ in range(30):
        inner = [inner, inner]
    return pickle.dumps(inner)


HOSTILE = {
    "runs code": pickle.dumps(Evil()),
    "a class": pickle.dumps(Path),
    "getattr": b"\x80\x04cbuiltins\ngetattr\n.",
    "a dotted name": b"\x80\x04\x8c\x08datetime\x8c\x12datetime.__class__\x93.",
    "an extension": b"\x80\x02\x82\x01.",
    "a memo of gigabytes": b"\x80\x04Nr\xff\xff\xff\x7f0.",
    "a bomb": bomb(),
    "state on a class": b"\x80\x04cuuid\nUUID\n}b.",
    "cut off": pickle.dumps([1, 2, 3])[:-4],
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_row_is_refused_and_hurts_no_neighbour(sqlite_app: Celery, name: str) -> None:
    insert(sqlite_app, "hostile", "SUCCESS", HOSTILE[name])
    insert(sqlite_app, "neighbour", "SUCCESS", b"1")
    async with connect(sqlite_app) as backend:
        hostile, neighbour = backend.result("hostile"), backend.result("neighbour")
        ended: tuple[Any, Any] = await asyncio.gather(
            hostile.get(timeout=10), neighbour.get(timeout=10), return_exceptions=True
        )
        refused, value = ended
        assert isinstance(refused, ResultDecodeError) and "Celery 5.7" in str(refused)
        assert value == 1
        assert Evil.called == [] and backend.stats().last_error is None


def test_a_plain_pickle_is_not_taken_for_something_else() -> None:
    assert load_plain(pickle.dumps((1, (2,)))) == [1, [2]]


async def test_columns_of_older_tables_are_not_selected(tmp_path: Path) -> None:
    """Tables that Celery 5.5 has made have no ``children``."""
    path = tmp_path / "old.sqlite"
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE TABLE celery_taskmeta (id INTEGER PRIMARY KEY, task_id VARCHAR(155) UNIQUE, status VARCHAR(50),"
            " result BLOB, date_done DATETIME, traceback TEXT)"
        )
        database.execute("INSERT INTO celery_taskmeta (task_id, status, result) VALUES ('x', 'SUCCESS', '[1]')")
        database.execute(
            "INSERT INTO celery_taskmeta (task_id, status, result, date_done) VALUES ('y', 'SUCCESS', 7, 'no time')"
        )
    database.close()
    async with make_backend(stores.app_storing_in(f"db+sqlite:///{path}")) as backend:
        ended: tuple[Any, Any] = await asyncio.gather(
            backend.result("y").get(timeout=10), backend.result("x").get(timeout=10), return_exceptions=True
        )
        strange, value = ended
        assert value == [1] and isinstance(strange, ResultDecodeError)


async def test_another_serializer(tmp_path: Path) -> None:
    app = stores.app_storing_in(
        f"db+sqlite:///{tmp_path}/x.sqlite", result_serializer="yaml", accept_content=["json", "yaml"]
    )
    app.backend.store_result("x", {"a": [1, "é"]}, "SUCCESS")
    async with make_backend(app) as backend:
        assert await backend.result("x").get(timeout=10) == {"a": [1, "é"]}
        await backend.mark_as_failure("y", KeyError("k"))
        with pytest.raises(KeyError):
            await backend.result("y").get(timeout=10)


async def test_what_stock_celery_stores_is_read_and_the_other_way_round(sqlite_app: Celery) -> None:
    async with connect(sqlite_app) as backend:
        sqlite_app.backend.mark_as_failure("f", ValueError("boom"), traceback="Traceback: boom")
        with pytest.raises(ValueError, match="boom") as caught:
            await backend.result("f").get(timeout=10)
        assert "Traceback: boom" in str(caught.value.__cause__)
        await backend.mark_as_done("s", {"x": 1})
        assert sqlite_app.AsyncResult("s").get(timeout=5) == {"x": 1}
        assert await backend.store_result("s", 2, "PROGRESS") is False
        assert await backend.forget("s", "unknown") == 1
        assert sqlite_app.AsyncResult("s").state == "PENDING"


# -- Django ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def django_app(store_directory: Path) -> Celery:
    return stores.django_app(store_directory / "django.sqlite")


async def test_django_keeps_children_in_another_column(django_app: Celery) -> None:
    async with make_backend(django_app) as backend:
        request = type("Request", (), {"children": [AsyncResult[Any]("child")]})()
        await backend.store_result("parent", 1, "SUCCESS", request=request)
        assert await backend.result("parent").children() == [AsyncResult("child")]


async def test_django_keeps_bytes_as_base64(django_app: Celery) -> None:
    def insert_row() -> None:
        from django.db import connection
        from django_celery_results.models import TaskResult

        result = base64.b64encode(msgspec.msgpack.encode({"a": b"\xff"})).decode()
        TaskResult.objects.create(task_id="x", status="SUCCESS", content_encoding="binary", result=result)
        connection.close()

    await asyncio.to_thread(insert_row)
    async with make_backend(django_app, serializer="msgpack") as backend:
        assert await backend.result("x").get(timeout=10) == {"a": b"\xff"}


# -- others ---------------------------------------------------------------------------------------------------------


class FakeCollection:
    """What a reader uses of a MongoDB collection. (There is no server to be had for the tests.)"""

    def __init__(self, documents: list[dict[str, Any]]) -> None:
        self.documents = documents
        self.queries: list[Any] = []

    def find(self, query: Any) -> list[dict[str, Any]]:
        self.queries.append(query)
        return [document for document in self.documents if document["_id"] in query["_id"]["$in"]]


@pytest.mark.parametrize("serializer", ["json", "bson"])
def test_mongodb_documents(serializer: str) -> None:
    result: Any = [1, {"a": 2}] if serializer == "bson" else '[1, {"a": 2}]'
    document = {
        "_id": "x",
        "status": "SUCCESS",
        "result": result,
        "traceback": None,
        "children": [[["child", None], None]],
        "date_done": datetime.datetime(2024, 1, 2),
        "group_id": "g",
    }
    backend = type("Backend", (), {"collection": FakeCollection([document]), "serializer": serializer})()
    codec = Codec()
    found = mongodb.MongoReader(backend, codec).read(["x", "y"])
    assert set(found) == {"x"} and backend.collection.queries == [{"_id": {"$in": ["x", "y"]}}]
    meta = codec.decode("x", found["x"])
    assert (meta.status, meta.result, meta.group_id) == ("SUCCESS", [1, {"a": 2}], "g")
    assert meta.children == [[["child", None], None]] and meta.date_done is not None


class ShopBackend:
    """A backend of somebody's own, with Celery's methods for one result at a time."""

    def __init__(self) -> None:
        self.metas: dict[str, Any] = {}

    def _get_task_meta_for(self, task_id: str) -> Any:
        return self.metas.get(task_id, {"status": "PENDING", "result": None})


class ShopReader(Reader):
    batch = 50

    def read(self, ids: Any) -> Any:
        return dict.fromkeys(ids, b'{"status": "SUCCESS", "result": "by the shop"}')


def test_any_other_backend_is_read_through_celery_until_a_reader_is_registered() -> None:
    codec, backend = Codec(), ShopBackend()
    backend.metas["s"] = {"status": "SUCCESS", "result": [1], "date_done": datetime.datetime(2024, 1, 2)}
    backend.metas["f"] = {"status": "FAILURE", "result": KeyError("k"), "traceback": "Traceback"}
    reader = reader_for(backend, codec)
    found = reader.read(["s", "f", "unknown"])
    assert type(reader) is Reader and set(found) == {"s", "f"}
    assert codec.decode("s", found["s"]).result == [1]
    assert repr(codec.exception(codec.decode("f", found["f"]))) == "KeyError('k')"
    register_reader(f"{ShopBackend.__module__}.ShopBackend", ShopReader)
    derived = reader_for(type("Derived", (ShopBackend,), {})(), codec)
    assert isinstance(derived, ShopReader)
    with pytest.raises(ValueError, match=r"package\.module\.Class"):
        register_reader("ShopBackend", ShopReader)


@pytest.mark.skipif(celery.VERSION < (5, 7), reason="Celery has the client since 5.7")
async def test_an_id_that_memcached_refuses_hurts_no_neighbour(memcached_address: tuple[str, int]) -> None:
    async with make_backend(stores.memcached_app(memcached_address)) as backend:
        impossible = asyncio.ensure_future(backend.result("an id é").get())
        await backend.mark_as_done("plain", 1)
        assert await backend.result("plain").get(timeout=10) == 1
        assert backend.stats().last_error is None
        impossible.cancel()


async def test_an_id_that_a_store_fails_for_hurts_no_neighbour(tmp_path: Path) -> None:
    """No file can have such a name, so the whole request fails."""
    async with make_backend(stores.app_storing_in(f"file://{tmp_path}")) as backend:
        impossible = asyncio.ensure_future(backend.result("x" * 5000).get())
        waiting = [asyncio.ensure_future(backend.result(f"plain-{n}").get()) for n in range(40)]
        await waits_for(backend, 41)
        for number in range(40):
            await backend.mark_as_done(f"plain-{number}", number)
        async with asyncio.timeout(30):
            assert await asyncio.gather(*waiting) == list(range(40))
        with pytest.raises(BackendUnavailable, match="name too long"):
            await backend.result("x" * 5000).state()
        assert backend.stats().last_error is None and not impossible.done()
        impossible.cancel()


async def test_how_long_a_record_is_kept_is_the_setting_of_the_store(sqlite_app: Celery) -> None:
    async with make_backend(sqlite_app) as backend:
        with pytest.raises(BackendError, match="result_expires"):
            await backend.mark_as_done("x", 1, expires=60)
        with pytest.raises(BackendError, match="result_expires"):
            async with backend.track("x", expires=60):
                pytest.fail("it was entered")
        assert await backend.result("x").exists() is False
    with pytest.raises(ValueError, match="expires is a setting of its result backend"):
        make_backend(sqlite_app, expires=60)


async def test_an_outage_and_its_end_are_logged_alike(
    sqlite_app: Celery, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncresult._storage.outage.LOGGED_AGAIN_AFTER", 0.0)
    async with make_backend(sqlite_app) as backend:
        waiting = asyncio.ensure_future(backend.result("x").get())
        await backend.get_meta("x")
        with contextlib.closing(sqlite3.connect(tmp_path / "results.sqlite")) as database:
            database.execute("ALTER TABLE celery_taskmeta RENAME TO away")
            await until(lambda: "still away" in caplog.text)
            assert backend.stats().last_error is not None
            database.execute("ALTER TABLE away RENAME TO celery_taskmeta")
        await backend.mark_as_done("x", 1)
        assert await asyncio.wait_for(waiting, 30) == 1
    said = [(record.levelno, record.__dict__["event"], record.__dict__["backend"]) for record in caplog.records]
    assert said[-1] == (logging.WARNING, "back", str(backend))
    assert set(said[:-1]) == {(logging.WARNING, "lost", str(backend))}


async def test_reads_that_are_closed_have_an_error_each(sqlite_app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncresult._background.TURNS", 0)  # in which they would be answered
    async with connect(sqlite_app) as backend:
        reads = [asyncio.ensure_future(backend.result(f"t{number}").state()) for number in range(3)]
        await asyncio.sleep(0)
        await backend.aclose()
        errors = await asyncio.gather(*reads, return_exceptions=True)
        assert {type(error) for error in errors} == {BackendClosed}
        assert len({id(error) for error in errors}) == len(errors)


async def test_no_secret_in_the_address(tmp_path: Path) -> None:
    app = stores.app_storing_in("db+postgresql+psycopg://me:secret@127.0.0.1:1/db?password=secret")
    backend = make_backend(app)
    assert "secret" not in repr(backend) and "127.0.0.1" in repr(backend)


# -- PostgreSQL -----------------------------------------------------------------------------------------------------


async def test_an_outage_of_postgresql(postgres_server: PostgresServer) -> None:
    app = stores.postgres_app(postgres_server)
    async with make_backend(app) as backend:
        waiting = [asyncio.ensure_future(backend.result(str(n)).get()) for n in range(50)]
        await waits_for(backend, 50)
        await backend.get_meta("0")  # opened: Celery's own making of tables tries again for long
        await asyncio.to_thread(postgres_server.stop)
        try:
            await until(lambda: backend.stats().last_error is not None)
            with pytest.raises(BackendUnavailable):
                await backend.get_meta("0")
        finally:
            await asyncio.to_thread(postgres_server.start)
        for n in range(50):
            await backend.mark_as_done(str(n), n)
        assert await asyncio.wait_for(asyncio.gather(*waiting), 30) == list(range(50))
        assert backend.stats().last_error is None


@pytest.fixture
def notifying_app(postgres_server: PostgresServer) -> Iterator[Celery]:
    app = stores.postgres_app(postgres_server)
    app.backend.ResultSession().close()  # makes the tables
    install_trigger(app)
    yield app
    postgres_server.cli("DROP TRIGGER asyncresult_notify ON celery_taskmeta")


def listening(backend: Backend) -> bool:
    engine: Any = engine_of(backend)
    return bool(engine.listening)


async def test_a_notification_wakes_the_wait_at_once(notifying_app: Celery, postgres_server: PostgresServer) -> None:
    async with make_backend(notifying_app) as backend:
        waiting = asyncio.ensure_future(backend.result("late").get())
        await until(lambda: listening(backend))
        await asyncio.sleep(1)  # polled, it would be read every tenth of a second by now
        took = []
        for number in range(20):
            id = f"n{number}"
            wait = asyncio.ensure_future(backend.result(id).get())
            await waits_for(backend, 2)
            await asyncio.sleep(0.05)
            values = f"nextval('task_id_sequence'), '{id}', 'SUCCESS', '{number}'"
            statement = f"INSERT INTO celery_taskmeta (id, task_id, status, result) VALUES ({values})"
            began = time.monotonic()
            assert await asyncio.to_thread(postgres_server.cli, statement) is not None
            assert await wait == number
            took.append(time.monotonic() - began)
        assert sorted(took)[10] < 0.5  # psql's own start is most of it
        await backend.mark_as_done("late", "found")
        assert await waiting == "found"


async def test_without_the_trigger_it_is_polled(postgres_server: PostgresServer) -> None:
    app = stores.postgres_app(postgres_server)
    async with make_backend(app) as backend:
        waiting = asyncio.ensure_future(backend.result("x").get())
        await waits_for(backend, 1)
        await backend.mark_as_done("x", 1)
        assert await waiting == 1 and not listening(backend)


async def test_a_lost_listener_is_replaced_and_both_are_logged(
    notifying_app: Celery, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "asyncresult")
    async with make_backend(notifying_app) as backend:
        waiting = asyncio.ensure_future(backend.result("x").get())
        await until(lambda: listening(backend))
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
        for _ in range(2):
            caplog.clear()
            await asyncio.to_thread(postgres_server.cli, kill)
            await until(lambda: not listening(backend))
            await until(lambda: listening(backend))
            assert [record.levelname for record in caplog.records if "notif" in record.message] == ["WARNING"] * 2
        await asyncio.to_thread(notifying_app.backend.store_result, "x", 1, "SUCCESS")
        assert await waiting == 1


def test_the_statements_can_be_run_again(notifying_app: Celery, postgres_server: PostgresServer) -> None:
    statements = install_trigger(notifying_app)
    assert statements == trigger_sql("celery_taskmeta")
    count = "SELECT count(*) FROM pg_trigger WHERE tgname = 'asyncresult_notify'"
    assert postgres_server.cli(count) == "1"
    assert 'ON "shop"."results"' in trigger_sql("results", schema="shop")
    with pytest.raises(ValueError, match="PostgreSQL"):
        install_trigger(stores.app_storing_in("db+sqlite:///x"))
