"""SQL databases through SQLAlchemy: one ``SELECT … WHERE task_id IN (…)`` on a connection of the reader's own.

Celery opens a new connection for each query outside of its workers. Here one stays open, in autocommit mode, so that
it sees what others commit and holds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import QueuePool

from ....codec.codec import Codec
from .base import Reader
from .rows import document

__all__ = ["DatabaseReader"]

#: Options of the app's engine that a pool of one connection has no use for.
_POOL_OPTIONS = ("poolclass", "max_overflow", "echo_pool", "isolation_level")
_COLUMNS: dict[str, Any] = {
    **dict.fromkeys(("task_id", "status", "traceback", "name", "worker", "queue"), sa.Text()),
    "retries": sa.Integer(),
    "date_done": None,  # as the driver has it: SQLAlchemy fails for all rows where one has no time in it
    **dict.fromkeys(("result", "children", "args", "kwargs", "stamps"), sa.LargeBinary()),
}


class DatabaseReader(Reader):
    """The tables of Celery's ``DatabaseBackend``, as 5.5, 5.6 or 5.7 made them.

    ``children`` and ``stamps`` exist since 5.7, the others from ``name`` on with ``result_extended`` only.
    """

    batch = 500  # Oracle takes a thousand, SQL Server two thousand

    def __init__(self, backend: Any, codec: Codec) -> None:
        super().__init__(backend, codec)
        self._engine: Any = None
        self._select: Any = None

    def read(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        return {row["task_id"]: self._document(row) for row in self._rows(ids)}

    def ids(self, after: str, count: int) -> Sequence[str]:
        engine = self._opened()
        id = self._select.selected_columns.task_id
        wanted = sa.select(id).where(id > after).order_by(id).limit(count)
        with engine.connect() as connection:
            found: Sequence[str] = connection.execute(wanted).scalars().all()
        return found

    def _rows(self, ids: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        reused = self._engine is not None
        try:
            return self._ask(ids)
        except Exception:
            # The server may have closed a connection that was idle, or the table may have got a column: look afresh.
            self.close()
            if not reused:
                raise
            return self._ask(ids)

    def _ask(self, ids: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        with self._opened().connect() as connection:
            rows: Sequence[Mapping[str, Any]] = connection.execute(self._select, {"ids": ids}).mappings().all()
        return rows

    def _opened(self) -> Any:
        """SQLAlchemy's engine, made at the first use."""
        if self._engine is None:
            self._open()
        return self._engine

    def _open(self) -> None:
        backend = self.backend
        options = {name: value for name, value in backend.engine_options.items() if name not in _POOL_OPTIONS}
        options.update(pool_size=1, max_overflow=0, pool_pre_ping=False, pool_reset_on_return=None)
        engine = sa.create_engine(backend.url, poolclass=QueuePool, isolation_level="AUTOCOMMIT", **options)
        engine_callback = getattr(backend.session_manager, "engine_callback", None)  # since Celery 5.7
        try:
            if engine_callback is not None:
                engine_callback(engine)
            table = backend.task_cls.__table__
            there = {column["name"] for column in sa.inspect(engine).get_columns(table.name, schema=table.schema)}
        except BaseException:
            engine.dispose()
            raise
        # Whatever Celery's model says: a column of pickles must not be unpickled on the way.
        columns = [sa.column(name, kind) for name, kind in _COLUMNS.items() if name in there]
        source = sa.table(table.name, *columns, schema=table.schema)
        wanted = source.c.task_id.in_(sa.bindparam("ids", expanding=True))
        self._select = sa.select(*source.c).where(wanted)
        self._engine = engine

    def _document(self, row: Mapping[str, Any]) -> bytes:
        return document(self.codec, row["task_id"], row, stamps(self.codec, row["task_id"], row.get("stamps")))

    def read_group(self, group_id: str) -> bytes | None:
        engine = self._opened()
        table = self.backend.taskset_cls.__table__
        result = sa.column("result", sa.LargeBinary())
        source = sa.table(table.name, sa.column("taskset_id"), result, schema=table.schema)
        with engine.connect() as connection:
            cell = connection.execute(sa.select(source.c.result).where(source.c.taskset_id == group_id)).scalar()
        # A saved group is a document with one field, so is made like one with all the others.
        return document(self.codec, group_id, {"status": "SUCCESS", "result": cell}) if cell is not None else None

    def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()


def stamps(codec: Codec, task_id: str, cell: Any) -> Mapping[str, Any] | None:
    """The stamps of a task, as the further fields of a record that they are elsewhere."""
    if cell is None:
        return None
    try:
        stored = codec.decode_value(task_id, bytes(cell))
        return {"stamped_headers": stored["stamped_headers"], **stored["stamps"]}
    except Exception:
        return None  # Celery does without them, too
