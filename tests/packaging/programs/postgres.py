"""psycopg is there for results in PostgreSQL, and its SQL can be printed without a server."""

from __future__ import annotations

from importlib.metadata import version

from support import absent

absent("django", "starlette")
assert version("psycopg")  # to import it needs libpq, which is the system's business

from asyncresult.integrations.celery import trigger_sql

assert "CREATE TRIGGER" in trigger_sql()
