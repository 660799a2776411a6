"""Which backend a command talks to, and the errors of talking to it as exit statuses."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from ..backend import Backend, connect
from ..errors import BackendClosed, BackendError, ResultDecodeError, ResultTimeout
from .output import say
from .status import CommandError, Status

__all__ = ["connected", "errors_as_statuses", "load_app", "make_backend", "read_ids", "run"]

URL_VARIABLE, CELERY_VARIABLE = "ASYNCRESULT_URL", "CELERY_RESULT_BACKEND"


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run a command's coroutine on a loop of its own."""
    with errors_as_statuses():
        return asyncio.run(main)


@contextmanager
def errors_as_statuses() -> Generator[None]:
    """Each kind of error that talking to a backend may raise, as one line and its exit status."""
    try:
        yield
    except ResultTimeout as error:
        raise CommandError(str(error), Status.TIMEOUT) from error
    except ResultDecodeError as error:
        raise CommandError(str(error), Status.UNREADABLE) from error
    except BackendError as error:
        raise CommandError(str(error), Status.UNREACHABLE) from error
    except BackendClosed as error:
        raise CommandError(str(error), Status.UNREACHABLE) from error


def make_backend(arguments: argparse.Namespace) -> Backend:
    """The backend that the arguments, or else the environment, name.

    Raises:
        CommandError: None is named, or it cannot be made of what is.
    """
    try:
        if arguments.url:
            return connect(arguments.url)
        if arguments.app:
            return connect(load_app(arguments.app))
        for variable in (URL_VARIABLE, CELERY_VARIABLE):
            if url := os.environ.get(variable):
                return connect(url)
    except (ValueError, TypeError, ImportError) as error:
        raise CommandError(str(error)) from error
    raise CommandError(
        f"where are the results? Give --url URL, -A PROJ[:APP] of a Celery project, or set ${URL_VARIABLE}"
        f" or ${CELERY_VARIABLE}"
    )


def load_app(name: str) -> Any:
    """The Celery app of a module, found as ``celery -A`` finds it.

    Raises:
        CommandError: Celery is not installed, or there is no such app.
    """
    try:
        from celery.app.utils import find_app
    except ImportError:
        raise CommandError("-A needs Celery: pip install 'asyncresult[celery]'") from None
    if "" not in sys.path:
        sys.path.insert(0, "")  # a console script does not have the working directory there
    try:
        return find_app(name)
    except Exception as error:  # whatever the module raises when it is imported
        raise CommandError(f"cannot load the Celery app {name!r}: {type(error).__name__}: {error}") from error


@asynccontextmanager
async def connected(arguments: argparse.Namespace) -> AsyncGenerator[Backend]:
    """The backend, once it has answered. Only this first contact has a limit: a wait outlasts outages.

    Raises:
        CommandError: It does not answer in time.
    """
    log = logging.getLogger("asyncresult")
    log.addHandler(logging.NullHandler())  # what goes wrong at the first contact is said once, below
    async with make_backend(arguments) as backend:
        try:
            async with asyncio.timeout(arguments.connect_timeout):
                await backend.get_meta("asyncresult")  # any id: the answer counts, not what is stored
        except TimeoutError as error:
            reason = str(error) or f"no answer within {arguments.connect_timeout:g} seconds"
            if cause := backend.stats().last_error:
                reason += f": {cause}"
            raise CommandError(f"{backend} cannot be reached: {reason}", Status.UNREACHABLE) from error
        except ResultDecodeError:
            pass
        log.addHandler(_Said())
        yield backend


class _Said(logging.Handler):
    """Later outages, which waits outlast, are said to the person at the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            say(record.getMessage())


def read_ids(given: list[str], check: Callable[[object], str]) -> list[str]:
    """The ids of the command line, with those of stdin in the place of ``-``; each once, in order.

    Raises:
        CommandError: There are none, or one cannot be an id.
    """
    ids: dict[str, None] = {}
    for word in given:
        for id in (line.strip() for line in sys.stdin) if word == "-" else [word]:
            if not id:
                continue
            try:
                ids[check(id)] = None
            except ValueError as error:
                raise CommandError(str(error)) from None
    if not ids:
        raise CommandError("no ids: stdin was empty")
    return list(ids)
