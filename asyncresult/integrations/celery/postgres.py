"""Results in PostgreSQL: a trigger announces what is stored, and whoever waits reads it at once.

A notification is a hint that may be lost; the row is the truth. So the reader is the one of every database, with the
pace of a sweep while LISTEN is active, and with its usual pace where the trigger is not installed or the connection is
lost. Nothing is ever installed silently: see :func:`trigger_sql` and :func:`install_trigger`.

NOTIFY takes a lock that all commits of the server with notifications share: it suits up to some thousand results a
second.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib.util
import logging
from typing import Any

from ..._log import Log, get_logger
from ..._storage.engine import Engine
from ..._storage.polled import PolledDriver, PolledEngine
from ..._storage.store import Store
from .kinds import backend_class

__all__ = ["PostgresDriver", "find_dsn", "install_trigger", "trigger_sql", "trigger_sql_of"]

logger: Log = get_logger("asyncresult")

CHANNEL, TRIGGER = "asyncresult", "asyncresult_notify"
#: Seconds between two sweeps over what is waited for, while notifications come.
SWEEP = 15.0
#: Seconds until the trigger is looked for again, where it is not installed.
LOOK_AGAIN = 60.0
#: Seconds for a connection, and until the next attempt for one: first, and at most.
CONNECT_TIMEOUT, BACKOFF_FIRST, BACKOFF_LAST = 5.0, 0.1, 5.0

_DJANGO_TABLE, _CELERY_TABLE = "django_celery_results_taskresult", "celery_taskmeta"


# -- the trigger ----------------------------------------------------------------------------------------------------


def trigger_sql(table: str = _CELERY_TABLE, *, schema: str | None = None) -> str:
    """The statements that install the trigger, to be read, or put into a migration.

    Args:
        table: Where the results are: Celery's name, or ``"django_celery_results_taskresult"``.
        schema: Where that table is, if not in the search path. The function is made there, too.

    Returns:
        Statements that may be run again. ``DROP TRIGGER asyncresult_notify ON …`` undoes them.
    """
    function = _quoted(TRIGGER, schema)
    return f"""\
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('{CHANNEL}', NEW.task_id);
    RETURN NULL;
END
$$;
DROP TRIGGER IF EXISTS {TRIGGER} ON {_quoted(table, schema)};
CREATE TRIGGER {TRIGGER} AFTER INSERT OR UPDATE ON {_quoted(table, schema)}
    FOR EACH ROW EXECUTE FUNCTION {function}();
"""


def trigger_sql_of(app: Any) -> str:
    """:func:`trigger_sql` for the table where the app's results are.

    Raises:
        ValueError: The app's results are not in PostgreSQL, or psycopg 3 is not installed.
    """
    cls, url = backend_class(app)
    if find_dsn(app, cls, url) is None:
        raise ValueError(
            f"{app!r} does not store its results in PostgreSQL, or psycopg 3 is missing: pip install"
            " 'asyncresult[postgres]'"
        )
    table, schema = table_of(app, cls)
    return trigger_sql(table, schema=schema)


def install_trigger(app: Any, *, dsn: str | None = None) -> str:
    """Install the trigger in the database where the app's results are. Blocks.

    Celery makes its table when the first result is stored, Django in a migration: it has to be there.

    Args:
        dsn: For a role that owns the table, where the app's own does not.

    Returns:
        The statements that were run, in one transaction.

    Raises:
        ValueError: The app's results are not in PostgreSQL, or psycopg 3 is not installed.
        psycopg.Error: The server refuses, or cannot be reached.
    """
    statements = trigger_sql_of(app)
    import psycopg

    dsn = dsn or find_dsn(app, *backend_class(app))
    with psycopg.connect(dsn or "", connect_timeout=int(CONNECT_TIMEOUT)) as connection:
        connection.execute(statements.encode())
    return statements


def _quoted(name: str, schema: str | None) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in (schema, name) if part)


def table_of(app: Any, cls: Any) -> tuple[str, str | None]:
    """The table of results, and its schema if the app names one."""
    if _is_django(cls):
        return str(cls.TaskModel._meta.db_table), None
    names, schemas = app.conf.database_table_names or {}, app.conf.database_table_schemas or {}
    return names.get("task") or _CELERY_TABLE, schemas.get("task")


def find_dsn(app: Any, cls: Any, url: str | None) -> str | None:
    """How to connect to the app's PostgreSQL; None where its results are elsewhere, or psycopg 3 is missing."""
    if not any(
        base.__module__.startswith(("celery.backends.database", "django_celery_results")) for base in cls.__mro__
    ):
        return None
    if importlib.util.find_spec("psycopg") is None:
        return None
    return _django_dsn(cls) if _is_django(cls) else _sqlalchemy_dsn(url or app.conf.database_url)


def _is_django(cls: Any) -> bool:
    return hasattr(cls, "TaskModel")


def _sqlalchemy_dsn(url: str | None) -> str | None:
    from sqlalchemy.engine import make_url

    parsed = make_url(url or "")
    if parsed.get_backend_name() != "postgresql":
        return None
    return parsed.set(drivername="postgresql").render_as_string(hide_password=False)


def _django_dsn(cls: Any) -> str | None:
    from django.db import connections
    from psycopg.conninfo import make_conninfo

    connection: Any = connections[cls.TaskModel._default_manager.db]
    if connection.vendor != "postgresql":
        return None
    settings = connection.settings_dict
    words = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    known = {word: settings.get(name) for word, name in words.items() if settings.get(name)}
    options = settings.get("OPTIONS", {})
    known.update({name: value for name, value in options.items() if name.startswith("ssl") or name == "service"})
    return make_conninfo(**known)


# -- listening ------------------------------------------------------------------------------------------------------


class PostgresDriver(PolledDriver):
    """Records in PostgreSQL.

    Args:
        listen_dsn: Where to LISTEN: not through a pooler that gives each transaction another session.
        table, schema: The table on which the trigger has to be.
        options: Those of :class:`PolledDriver`.
    """

    def __init__(
        self, *args: Any, listen_dsn: str, table: str = _CELERY_TABLE, schema: str | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.listen_dsn = listen_dsn
        self.table: str = _quoted(table, schema)

    def start_engine(self, store: Store) -> Engine:
        return PostgresEngine(store, self)


class PostgresEngine(PolledEngine):
    """Reads what a notification names, and everything once in a while."""

    _driver: PostgresDriver

    def __init__(self, store: Store, driver: PostgresDriver) -> None:
        super().__init__(store, driver)
        #: Whether notifications come.
        self.listening: bool = False
        #: What was logged last, and at which level its end is: as its beginning was.
        self._problem, self._log_level = "", logging.INFO
        self._needed = asyncio.Event()
        self._listener = self.loop.create_task(
            self._listen_for_ever(), name=f"asyncresult LISTEN {driver}", context=contextvars.Context()
        )

    def subscribe(self, keys: list[bytes]) -> None:
        self._needed.set()
        super().subscribe(keys)

    async def _listen_for_ever(self) -> None:
        import psycopg

        await self._needed.wait()
        backoff = BACKOFF_FIRST
        while True:
            try:
                installed = await self._listen()
            except (OSError, psycopg.Error, TimeoutError) as error:
                installed, problem = True, f"{type(error).__name__}: {error}".partition("\n")[0]
                if self.listening:
                    backoff = BACKOFF_FIRST
            except Exception as error:
                about = {"event": "unexpected error", "backend": str(self._driver)}
                logger.exception("%s: LISTEN: unexpected error", self._driver, extra=about)
                installed, problem = True, str(error)
            else:
                problem = f"no trigger {TRIGGER!r} on {self._driver.table}; see install_trigger()"
            self._set_listening(False)
            if problem != self._problem:
                self._log_level = logging.WARNING if installed else logging.INFO
                text = "%s does not notify: %s; results are polled"
                about = {"event": "polled", "backend": str(self._driver)}
                logger.log(self._log_level, text, self._driver, problem, extra=about)
                self._problem = problem
            await asyncio.sleep(backoff if installed else LOOK_AGAIN)
            backoff = min(2 * backoff, BACKOFF_LAST)

    async def _listen(self) -> bool:
        """Listen until the connection is lost, which raises. False where the trigger is not installed."""
        import psycopg

        connection = await psycopg.AsyncConnection.connect(
            self._driver.listen_dsn, autocommit=True, connect_timeout=int(CONNECT_TIMEOUT)
        )
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                found = await connection.execute(
                    "SELECT 1 FROM pg_trigger WHERE tgname = %s AND tgrelid = to_regclass(%s) AND tgenabled <> 'D'",
                    (TRIGGER, self._driver.table),
                )
                if await found.fetchone() is None:
                    return False
                await connection.execute(f"LISTEN {CHANNEL}")
            self._set_listening(True)
            while True:
                async for notice in connection.notifies(timeout=self._backend.heartbeat):
                    self._hint(notice.payload)
                async with asyncio.timeout(self._backend.heartbeat):  # quiet for so long: is it alive?
                    await connection.execute("SELECT 1")
        finally:
            await connection.close()  # never suspends; "async with" would roll back first, and may be interrupted

    def _set_listening(self, listening: bool) -> None:
        if listening is self.listening:
            return
        self.listening = listening
        self.waiters.source = "pushed" if listening else self._origin
        schedule, driver = self._schedule, self._driver
        schedule.fill = not listening  # what is announced is read by itself, and so sooner
        if listening:
            about = {"event": "notified", "backend": str(driver)}
            logger.log(self._log_level, "%s notifies", driver, extra=about)
            self._problem, self._log_level = "", logging.INFO
            schedule.min_interval = schedule.max_interval = max(SWEEP, driver.max_interval)
        else:
            schedule.min_interval, schedule.max_interval = driver.min_interval, driver.max_interval
        # What was stored in between was announced to nobody.
        schedule.hurry_all(self.loop.time())
        self._wake()

    def _hint(self, task_id: str) -> None:
        if self._schedule.hurry([self._backend.task_key(task_id)], self.loop.time()):
            for thread in self._threads:
                thread.rests_until = 0.0  # it will not be in vain
            self._wake()

    async def aclose(self, timeout: float) -> None:
        deadline = self.loop.time() + timeout
        self._listener.cancel()
        # Not "await": who gives up on us would cancel it again, in the middle of ending its query.
        await asyncio.wait([self._listener], timeout=timeout)
        await super().aclose(max(0.0, deadline - self.loop.time()))
