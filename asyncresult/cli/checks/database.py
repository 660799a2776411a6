"""Results in an SQL database, by SQLAlchemy or Django: the table, its index, old rows, PostgreSQL's trigger. Blocks."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from ...integrations.celery.kinds import backend_class
from ...integrations.celery.postgres import TRIGGER
from ...integrations.celery.readers.pickled import is_pickled, load_plain
from ..source import one_line
from .findings import Finding
from .redis import FULL, SLOW_SECONDS, clock_finding

__all__ = ["Database", "Unreachable", "database_findings", "open_database"]

SAMPLE = 200


class Unreachable(Exception):
    """The database does not answer, or does not let us in."""


class Database(Protocol):
    """Where the table of results is.

    Attributes:
        dialect: ``postgresql``, ``sqlite``, ``mysql`` …
        table: Its name, quoted, with the schema.
        makes: What makes the table.
    """

    dialect: str
    table: str
    makes: str

    def rows(self, statement: str) -> Sequence[Sequence[Any]]: ...
    def columns(self) -> set[str]:
        """Of the table; none where there is no such table."""
        ...

    def indexed(self) -> set[str]:
        """The columns that an index or a key begins with."""
        ...

    def close(self) -> None: ...


class _SQLAlchemy:
    makes = "a worker makes it when it starts, or stores its first result"

    def __init__(self, backend: Any) -> None:
        import sqlalchemy as sa
        import sqlalchemy.exc
        from sqlalchemy.pool import NullPool

        self._sa, self._no_table = sa, sqlalchemy.exc.NoSuchTableError
        self._engine = sa.create_engine(backend.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        self._name = backend.task_cls.__table__.name
        self._schema = backend.task_cls.__table__.schema
        self.dialect = self._engine.dialect.name
        quote = self._engine.dialect.identifier_preparer.quote
        self.table = ".".join(quote(part) for part in (self._schema, self._name) if part)
        try:
            self._connection = self._engine.connect()
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise Unreachable(one_line(getattr(error, "orig", None) or error)) from error

    def rows(self, statement: str) -> Sequence[Sequence[Any]]:
        found: Sequence[Sequence[Any]] = self._connection.exec_driver_sql(statement).all()
        return found

    def columns(self) -> set[str]:
        try:
            return {column["name"] for column in self._inspector().get_columns(self._name, schema=self._schema)}
        except self._no_table:
            return set()

    def indexed(self) -> set[str]:
        inspector = self._inspector()
        found = [index["column_names"] for index in inspector.get_indexes(self._name, schema=self._schema)]
        found += [
            unique["column_names"] for unique in inspector.get_unique_constraints(self._name, schema=self._schema)
        ]
        found.append(inspector.get_pk_constraint(self._name, schema=self._schema)["constrained_columns"])
        return {str(columns[0]) for columns in found if columns}

    def _inspector(self) -> Any:
        return self._sa.inspect(self._connection)

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()


class _Django:
    makes = "python manage.py migrate django_celery_results"

    def __init__(self, cls: Any) -> None:
        from django.db import connections
        from django.db.utils import Error

        self._connection: Any = connections[cls.TaskModel._default_manager.db]
        self._name = cls.TaskModel._meta.db_table
        self.dialect = self._connection.vendor
        self.table = self._connection.ops.quote_name(self._name)
        try:
            self._connection.ensure_connection()
        except Error as error:
            raise Unreachable(one_line(error)) from error

    def rows(self, statement: str) -> Sequence[Sequence[Any]]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            found: Sequence[Sequence[Any]] = cursor.fetchall()
        return found

    def columns(self) -> set[str]:
        with self._connection.cursor() as cursor:
            if self._name not in self._connection.introspection.table_names(cursor):
                return set()
            return {column.name for column in self._connection.introspection.get_table_description(cursor, self._name)}

    def indexed(self) -> set[str]:
        with self._connection.cursor() as cursor:
            found = self._connection.introspection.get_constraints(cursor, self._name).values()
        return {str(one["columns"][0]) for one in found if one["columns"] and (one["index"] or one["unique"])}

    def close(self) -> None:
        self._connection.close()


def open_database(app: Any) -> Database | None:
    """The database of an app's results; None where they are elsewhere.

    Raises:
        Unreachable: It does not answer.
    """
    app.conf.database_create_tables_at_setup = False  # whoever looks for a table must not make it
    cls, _ = backend_class(app)
    names = {base.__module__ for base in getattr(cls, "__mro__", ())}
    if "celery.backends.database" in names:
        try:
            return _SQLAlchemy(app.backend)
        except ImportError as error:  # that of the driver
            raise Unreachable(one_line(error)) from error
    if "django_celery_results.backends.database" in names:
        return _Django(cls)
    return None


def database_findings(app: Any, database: Database) -> list[Finding]:
    """All that can be seen in the database; the first finding is an error where there is no table."""
    columns = database.columns()
    if not columns:
        return [
            Finding("table", "error", f"there is no table {database.table}: nothing was ever stored", database.makes)
        ]
    before = time.perf_counter()
    database.rows("SELECT 1")
    seconds = time.perf_counter() - before
    findings = [
        Finding(
            "latency",
            "warning" if seconds > SLOW_SECONDS else "ok",
            f"a query takes {1000 * seconds:.1f} ms",
            "move the application nearer to the database" if seconds > SLOW_SECONDS else "",
        )
    ]
    if "task_id" not in database.indexed():
        findings.append(
            Finding(
                "index",
                "error",
                f"{database.table} has no index on task_id: each read looks at the whole table",
                f"CREATE UNIQUE INDEX celery_task_id ON {database.table} (task_id)",
            )
        )
    else:
        findings.append(Finding("index", "ok", "task_id is indexed"))
    findings += _pickles(database)
    findings += _old_rows(app, database)
    if database.dialect == "postgresql":
        findings += _postgresql(database)
    return findings


def _pickles(database: Database) -> list[Finding]:
    """What Celery 5.5 and 5.6 have stored."""
    rows = database.rows(f"SELECT task_id, result FROM {database.table} ORDER BY id DESC LIMIT {SAMPLE}")
    cells = [(id, bytes(cell)) for id, cell in rows if isinstance(cell, (bytes, bytearray, memoryview))]
    pickled = [(id, cell) for id, cell in cells if is_pickled(cell)]
    if not pickled:
        return [Finding("rows", "ok", f"{len(rows)} of the latest looked at: no pickles")]
    refused = [id for id, cell in pickled if not _is_plain(cell)]
    if refused:
        return [
            Finding(
                "rows",
                "error",
                f"{len(refused)} of the {len(rows)} latest hold a pickle of more than plain values, which is never"
                f" loaded: e.g. {refused[0]}",
                "upgrade the workers to Celery 5.7, which stores no pickles; or return plain values",
            )
        ]
    return [
        Finding(
            "rows",
            "warning",
            f"{len(pickled)} of the {len(rows)} latest are pickles of plain values, as Celery 5.5 and 5.6 store them:"
            " they can be read",
            "upgrade the workers to Celery 5.7, which stores no pickles",
        )
    ]


def _is_plain(cell: bytes) -> bool:
    try:
        load_plain(cell)
    except ValueError:
        return False
    return True


def _old_rows(app: Any, database: Database) -> list[Finding]:
    """Nothing in a database expires by itself."""
    expires = app.conf.result_expires
    if not expires:
        return []
    expires = expires if isinstance(expires, timedelta) else timedelta(seconds=expires)
    rows = database.rows(f"SELECT date_done FROM {database.table} ORDER BY id LIMIT 1")
    oldest = _time_of(rows[0][0]) if rows else None
    if oldest is None or datetime.now(UTC) - oldest < expires + timedelta(days=2):
        return []
    return [
        Finding(
            "expiry",
            "warning",
            f"there are results of {oldest:%Y-%m-%d}, and result_expires is {expires}: nothing removes them",
            "run celery beat, whose task celery.backend_cleanup does",
        )
    ]


def _time_of(value: Any) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)


# -- PostgreSQL ---------------------------------------------------------------------------------------------


def _postgresql(database: Database) -> list[Finding]:
    before = time.time()
    ((now, connected, most),) = database.rows(
        "SELECT extract(epoch FROM clock_timestamp()), (SELECT count(*) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend'), current_setting('max_connections')::int"
    )
    findings = [clock_finding(float(now) - (before + time.time()) / 2)]
    if connected > FULL * most:
        findings.append(
            Finding(
                "clients",
                "error",
                f"{connected} of {most} connections: more are refused soon",
                "raise max_connections, or put a pooler in front",
            )
        )
    else:
        findings.append(Finding("clients", "ok", f"{connected} of {most} connections"))
    return [*findings, _trigger(database)]


def _trigger(database: Database) -> Finding:
    command = "asyncresult install-trigger -A PROJ (--sql shows what it does)"
    rows = database.rows(
        f"SELECT tgenabled::text FROM pg_trigger WHERE tgname = '{TRIGGER}'"
        f" AND tgrelid = '{database.table.replace(chr(39), chr(39) * 2)}'::regclass"
    )
    if not rows:
        return Finding(
            "trigger",
            "warning",
            f"{database.table} announces nothing: results are polled, and noticed up to 1 s late",
            command,
        )
    if rows[0][0] == "D":
        return Finding(
            "trigger",
            "warning",
            "the trigger that announces results is disabled: they are polled",
            f"ALTER TABLE {database.table} ENABLE TRIGGER {TRIGGER}",
        )
    if importlib.util.find_spec("psycopg") is None:
        return Finding(
            "trigger",
            "warning",
            "results are announced, and psycopg 3, which listens, is not installed: they are polled",
            "pip install 'asyncresult[postgres]'",
        )
    return Finding("trigger", "ok", "results are announced when they are stored")
