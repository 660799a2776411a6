"""``install-trigger``: PostgreSQL announces the results that Celery stores in it."""

from __future__ import annotations

import argparse

from .output import say, write
from .source import load_app
from .status import CommandError, Status

__all__ = ["install_trigger"]


def install_trigger(arguments: argparse.Namespace) -> int:
    """Install the trigger for the results of a Celery app, or print what would be run."""
    if not arguments.app:
        raise CommandError("whose results? Give -A PROJ[:APP] of the Celery project")
    app = load_app(arguments.app)
    from ..integrations import celery

    try:
        if arguments.sql:
            write(celery.trigger_sql_of(app).rstrip())
            return Status.SUCCESS
        celery.install_trigger(app, dsn=arguments.dsn)
    except ValueError as error:
        raise CommandError(str(error)) from error
    except Exception as error:  # psycopg's: it is imported by then, and not before
        # Its first line only: the server's own words, which quote no password.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CommandError(f"the trigger was not installed: {reason}", Status.UNREACHABLE) from error
    say("the trigger is installed")
    return Status.SUCCESS
